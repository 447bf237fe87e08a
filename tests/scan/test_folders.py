from __future__ import annotations

import os
from pathlib import Path

import pytest

from bucketline_service.errors import Invalid
from bucketline_service.maps import MapStore
from bucketline_service.scan.scan_files import IdStyle

from .images import image, put, scan


def test_a_folder_becomes_a_map(folder: Path, output: Path, tmp_path: Path) -> None:
    put(folder, "a.jpg", image(40, 30))
    put(folder, "b/c/d.PNG", image(20, 50, "PNG"))
    put(folder, "b/turned.webp", image(40, 30, "WEBP", orientation=6))
    put(folder, "b/c/d.txt", b"a caption")
    put(folder, ".cache/e.jpg")
    put(folder, "b/._a.jpg", b"of a Mac")
    done = scan([folder], output)
    assert done.sizes == {"a.jpg": (40, 30), "b/c/d.PNG": (20, 50), "b/turned.webp": (30, 40)}
    assert done.bad == {}
    assert done.summary.num_skipped == {"hidden": 2, "other": 1}
    opened = MapStore(tmp_path / "maps").put("scanned", output, "parquet")[0]
    assert (opened.num_images, opened.id_kind) == (3, "string")


def test_ids(folder: Path, output: Path) -> None:
    put(folder, "b/c.d.jpg")
    for ids, expected in {
        IdStyle.RELATIVE: "b/c.d.jpg",
        IdStyle.STEM: "c.d",
        IdStyle.FULL: str(folder / "b/c.d.jpg"),
    }.items():
        assert list(scan([folder], output, ids=ids).sizes) == [expected]


def test_one_image(folder: Path, output: Path) -> None:
    path = put(folder, ".hidden.jpg")
    assert scan([path], output).sizes == {".hidden.jpg": (40, 30)}


def test_hidden_files_on_request(folder: Path, output: Path) -> None:
    put(folder, ".cache/.e.jpg")
    assert list(scan([folder], output, hidden=True).sizes) == [".cache/.e.jpg"]


def test_several_paths_and_what_they_share(folder: Path, output: Path) -> None:
    put(folder, "a/x.jpg", image(40, 30))
    put(folder, "b/x.jpg", image(50, 60))
    put(folder, "b/y.jpg")
    done = scan([folder / "b", folder / "a", folder / "b"], output)
    assert done.sizes == {"x.jpg": (40, 30), "y.jpg": (40, 30)}, "the one whose path comes first"
    assert done.bad == {"x.jpg": f"duplicate id 'x.jpg', which {folder}/a/x.jpg has"}
    assert scan([folder / "a", folder / "b"], output, ids=IdStyle.FULL).bad == {}


def test_every_bad_file_has_its_reason(folder: Path, output: Path) -> None:
    put(folder, "good.jpg")
    put(folder, "empty.jpg", b"")
    put(folder, "page.jpg", b"<html>404</html>")
    put(folder, "cut.jpg", image()[:100])
    put(folder, "cut.png", image(format="PNG")[:20])
    os.mkfifo(folder / "pipe.jpg")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop").symlink_to(folder)
    os.close(os.open(os.fsencode(folder) + b"/\xe4.jpg", os.O_CREAT))
    put(folder, "f/" * 3 + "n" * 250 + ".jpg")
    done = scan([folder], output)
    assert list(done.sizes) == ["f/" * 3 + "n" * 250 + ".jpg", "good.jpg"]
    assert done.bad == {
        "empty.jpg": "the file is empty",
        "page.jpg": "it is not an image, or its header is damaged",
        "cut.jpg": "it cannot be opened: Truncated File Read",
        "cut.png": "it cannot be opened: Truncated File Read",
        "pipe.jpg": "it is not a regular file",
        "gone.jpg": "it cannot be read: No such file or directory",
        "loop": "it is a link to a folder that contains it",
        "\\xe4.jpg": "its name is not UTF-8",
    }
    assert done.summary.num_bad == 8


def test_links_are_followed(folder: Path, output: Path, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "a.jpg")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "b.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    assert list(scan([folder], output).sizes) == ["b.jpg", "link/a.jpg"]


def test_ids_that_no_map_takes(folder: Path, output: Path) -> None:
    put(folder, "good.jpg")
    put(folder, "/".join(["n" * 200] * 6)[1:] + ".jpg")
    done = scan([folder], output)
    assert (list(done.sizes), len(done.bad)) == (["good.jpg"], 1)
    assert "must be 1 to 1,024 bytes" in next(iter(done.bad.values()))


def test_sources_are_only_read(folder: Path, output: Path) -> None:
    put(folder, "good.jpg")
    put(folder, "bad.jpg", b"no image")
    put(folder, "empty.png", b"")
    folder.chmod(0o555)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    mtime_ns = folder.stat().st_mtime_ns
    scan([folder], output)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    assert folder.stat().st_mtime_ns == mtime_ns


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read(folder: Path, output: Path) -> None:
    put(folder, "good.jpg")
    put(folder, "a.jpg").chmod(0)
    put(folder, "b/c.jpg").parent.chmod(0)
    done = scan([folder], output)
    (folder / "b").chmod(0o755)
    assert done.bad == dict.fromkeys(("a.jpg", "b"), "it cannot be read: Permission denied")


@pytest.mark.parametrize(
    "name", ["none", "none/x.jpg", "notes.doc", "other.parquet", "http://host/x.jpg", "s3://"]
)
def test_paths_that_can_not_be_scanned(folder: Path, output: Path, name: str) -> None:
    put(folder, "notes.doc", b"x")
    put(folder, "other.parquet", b"x")
    path = name if "://" in name else str(folder / name)
    with pytest.raises(Invalid) as caught:
        scan([path], output)
    assert str(caught.value).startswith(path)


def test_a_folder_without_images(folder: Path, output: Path) -> None:
    put(folder, "notes.txt", b"x")
    with pytest.raises(Invalid, match="no image, shard or table was found"):
        scan([folder], output)
    assert not output.exists()


def test_without_a_size_there_is_no_map(folder: Path, output: Path) -> None:
    put(folder, "a.jpg", b"")
    done = scan([folder], output)
    assert (done.summary.num_images, len(done.bad), output.exists()) == (0, 1, False)
