"""Object stores, on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs

from bucketline_service.errors import Invalid
from bucketline_service.scan.units import Ids
from tests.s3_server import S3Server

from .images import image, scan
from .test_shards import KEYS, SAMPLES, tar


class Bucket:
    def __init__(self, server: S3Server, name: str) -> None:
        self.name = server.make(name)
        self.query = f"?endpoint_override=127.0.0.1:{server.port}&scheme=http"
        place = f"127.0.0.1:{server.port}"
        self._system = fs.S3FileSystem(endpoint_override=place, scheme="http", region="us-east-1")

    def put(self, key: str, data: bytes) -> None:
        with self._system.open_output_stream(f"{self.name}/{key}") as stream:
            stream.write(data)

    def keys(self) -> list[str]:
        return [repr(each) for each in self._system.get_file_info(fs.FileSelector(self.name, recursive=True))]


def test_a_prefix(s3: S3Server, output: Path) -> None:
    bucket = Bucket(s3, "prefix")
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
    uri = f"s3://{bucket.name}/set"
    done = scan([uri + bucket.query], output)
    assert done.sizes == {"a.jpg": (40, 30), "b/c.png": (40, 30), **KEYS}
    assert done.bad == {
        "bad.jpg": "it is no image, or its header is broken",
        "empty.jpg": "the file is empty",
    }
    assert bucket.keys() == before
    bucket.put("set/a.jpg", image(41, 30))
    again = scan([uri + bucket.query], output)
    assert (again.summary.num_opened, again.sizes["a.jpg"]) == (1, (41, 30))
    full = scan([uri + "/b/c.png" + bucket.query], output, ids=Ids.FULL)
    assert list(full.sizes) == [f"{uri}/b/c.png"]


def test_a_list_of_objects(s3: S3Server, output: Path, folder: Path) -> None:
    bucket = Bucket(s3, "listed")
    bucket.put("x/a.jpg", image())
    bucket.put("x/l.jsonl", b'{"path": "a.jpg"}\n{"path": "s3://listed/x/none.jpg"}\n')
    done = scan([f"s3://{bucket.name}/x/l.jsonl{bucket.query}"], output)
    assert (done.sizes, list(done.bad)) == ({"a.jpg": (40, 30)}, ["none.jpg"])


def test_what_does_not_answer_is_tried_again_and_shows_no_secret(s3: S3Server, output: Path) -> None:
    bucket = Bucket(s3, "silent")
    with pytest.raises(Invalid) as caught:
        scan(["s3://key:s3cret@none/x" + bucket.query], output)
    assert "s3cret" not in str(caught.value)
    assert str(caught.value).startswith("s3://none/x: ")
