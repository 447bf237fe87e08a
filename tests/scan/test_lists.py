from __future__ import annotations

import json
from pathlib import Path

import pytest

from bucketline_service.errors import Invalid
from bucketline_service.scan.path_lists import ListColumns
from bucketline_service.scan.scan_files import IdStyle

from .images import image, put, scan

ROWS = [{"file_name": "a.jpg", "text": "x, y"}, {"file_name": "sub/b.png", "text": "z"}]
FORMS = {
    "l.csv": 'file_name,text\na.jpg,"x, y"\nsub/b.png,z\n',
    "l.tsv": "path\ttext\na.jpg\tx\nsub/b.png\tz\n",
    "l.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "l.json": json.dumps(ROWS),
    "paths.json": json.dumps(["a.jpg", "sub/b.png"]),
    "kohya.json": json.dumps({"a.jpg": {"caption": "x"}, "sub/b.png": {}}),
    "l.txt": "a.jpg\n\nsub/b.png\n",
    "bom.csv": "\ufeffpath\na.jpg\nsub/b.png\n",
}


@pytest.fixture
def listed(folder: Path) -> Path:
    put(folder, "a.jpg", image(40, 30))
    put(folder, "sub/b.png", image(30, 40, "PNG"))
    put(folder, "not-listed.jpg")
    return folder


@pytest.mark.parametrize("name", FORMS)
def test_lists_of_paths(listed: Path, output: Path, name: str) -> None:
    path = put(listed, name, FORMS[name].encode())
    assert scan([path], output).sizes == {"a.jpg": (40, 30), "sub/b.png": (30, 40)}


def test_paths_elsewhere_and_bad_ones(listed: Path, output: Path, tmp_path: Path) -> None:
    far = put(tmp_path / "far", "c.jpg")
    paths = [str(far), "../images/a.jpg", "none.jpg", "sub", "http://host/x.jpg"]
    path = put(listed, "l.txt", "\n".join(paths).encode())
    done = scan([path], output)
    assert set(done.sizes) == {str(far), "../images/a.jpg"}
    assert set(done.bad) == {"none.jpg", "sub", "x.jpg"}
    assert done.bad["sub"] == "it is a folder; a list must consist of images and shards"
    assert "http:// is not supported" in done.bad["x.jpg"]


def test_ids_of_a_list(listed: Path, output: Path) -> None:
    path = put(listed, "l.csv", b"id,other,path\n7,x,a.jpg\n8,y,sub/b.png\n")
    assert list(scan([path], output).sizes) == ["7", "8"]
    assert list(scan([path], output, columns=ListColumns(id="other")).sizes) == ["x", "y"]
    bare = put(listed, "bare.csv", b"path\na.jpg\nsub/b.png\n")
    assert list(scan([bare], output, ids=IdStyle.STEM).sizes) == ["a", "b"]


def test_the_column_of_paths_may_be_named(listed: Path, output: Path) -> None:
    path = put(listed, "l.csv", b"path,where\nx,a.jpg\n")
    assert list(scan([path], output, columns=ListColumns(path="where")).sizes) == ["a.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "l.csv",
            b"url,text\nx,y\n",
            "l.csv: no column of paths; columns are 'url', 'text'. Choose it with --path-column",
        ),
        ("l.csv", b"path,file_name\nx,y\n", "several columns could be the path: path, file_name"),
        ("l.csv", b"path,text\n,y\n", "l.csv, row 1: has no path in 'path'"),
        ("l.jsonl", b'{"path": "a.jpg"}\n{"path": 3}\n', "l.jsonl, row 2: has no path in 'path'"),
        ("l.jsonl", b"[1]\n", "l.jsonl, row 1: must be a path or an object"),
        ("l.json", b"{", "l.json: cannot be read as a list"),
        ("l.json", b"3", "l.json: must be an array or an object"),
        ("l.txt", b"\xff", "l.txt: must be UTF-8"),
    ],
)
def test_lists_that_can_not_be_read(
    listed: Path, output: Path, name: str, content: bytes, words: str
) -> None:
    path = put(listed, name, content)
    with pytest.raises(Invalid) as caught:
        scan([path], output)
    assert str(caught.value).startswith(words) or words in str(caught.value)
    assert not output.exists()
