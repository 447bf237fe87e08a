"""Object stores, on real servers of Amazon's protocol and of Google's."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs

from bucketline_service.errors import Invalid
from bucketline_service.scan.scan_files import IdStyle
from tests.s3_server import S3Server

from .images import image, scan
from .test_shards import KEYS, SAMPLES, tar


class Bucket:
    """A prefix of a bucket. ``place``: its URI as a scan shows it, without user and query."""

    def __init__(self, root_uri: str) -> None:
        self._system, self._root = fs.FileSystem.from_uri(root_uri)
        self._uri, _, self._query = root_uri.partition("?")
        self.place = f"{root_uri.partition('://')[0]}://{self._root}"

    def uri(self, key: str) -> str:
        return f"{self._uri}/{key}?{self._query}"

    def put(self, key: str, data: bytes) -> None:
        with self._system.open_output_stream(f"{self._root}/{key}") as stream:
            stream.write(data)

    def keys(self) -> list[str]:
        return [
            repr(each) for each in self._system.get_file_info(fs.FileSelector(self._root, recursive=True))
        ]


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    return Bucket(request.getfixturevalue(request.param).new_root())


def test_a_prefix(bucket: Bucket, output: Path) -> None:
    for key, data in {
        "set/a.jpg": image(40, 30),
        "set/b/c.png": image(30, 40, "PNG", orientation=6),
        "set/b/bad.jpg": b"x",
        "set/b/empty.jpg": b"",
        "set/b/notes.txt": b"x",
        "set/d.tar": tar(SAMPLES),
        "set-of-others/a.jpg": image(),
    }.items():
        bucket.put(key, data)
    before = bucket.keys()
    done = scan([bucket.uri("set")], output)
    assert done.sizes == {"a.jpg": (40, 30), "b/c.png": (40, 30), **KEYS}
    assert done.bad == {
        "bad.jpg": "it is not an image, or its header is damaged",
        "empty.jpg": "the file is empty",
    }
    assert bucket.keys() == before
    bucket.put("set/a.jpg", image(41, 30))
    again = scan([bucket.uri("set")], output)
    assert (again.summary.num_opened, again.sizes["a.jpg"]) == (1, (41, 30))
    full = scan([bucket.uri("set/b/c.png")], output, ids=IdStyle.FULL)
    assert list(full.sizes) == [f"{bucket.place}/set/b/c.png"]


def test_a_list_of_objects(bucket: Bucket, output: Path) -> None:
    bucket.put("x/a.jpg", image())
    none = f"{bucket.place}/x/none.jpg"
    bucket.put("x/l.jsonl", f'{{"path": "a.jpg"}}\n{{"path": "{none}"}}\n'.encode())
    done = scan([bucket.uri("x/l.jsonl")], output)
    assert (done.sizes, list(done.bad)) == ({"a.jpg": (40, 30)}, ["none.jpg"])


def test_what_is_not_there_shows_no_secret(s3: S3Server, output: Path) -> None:
    query = s3.new_root().partition("?")[2]
    with pytest.raises(Invalid) as caught:
        scan([f"s3://key:s3cret@none/x?{query}"], output)
    assert "s3cret" not in str(caught.value)
    assert str(caught.value).startswith("s3://none/x: ")
