"""A second scan opens what is new or has changed, and whatever was not finished."""

from __future__ import annotations

import io
import itertools
import os
import sqlite3
from contextlib import closing
from multiprocessing import active_children
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bucketline_service.errors import Conflict, Invalid
from bucketline_service.scan import image_headers
from bucketline_service.scan.engines import CHUNK, num_cores
from bucketline_service.scan.record import ScanRecord

from .images import Unseen, image, put, scan


def test_what_is_known_is_not_opened(folder: Path, output: Path) -> None:
    for name in ("a.jpg", "b.jpg", "gone.jpg"):
        put(folder, name)
    put(folder, "bad.jpg", b"x")
    first = scan([folder], output)
    assert (first.summary.num_found, first.summary.num_opened) == (4, 4)
    (folder / "gone.jpg").unlink()
    (folder / "a.jpg").chmod(0o600)
    again = scan([folder], output)
    assert (again.summary.num_found, again.summary.num_opened) == (3, 0)
    assert again.bad == first.bad != {}
    assert again.sizes == {"a.jpg": (40, 30), "b.jpg": (40, 30)}
    put(folder, "a.jpg", image(30, 20))
    put(folder, "bad.jpg", image(20, 10))
    put(folder, "c.jpg", b"y")
    third = scan([folder], output)
    assert third.summary.num_opened == 3
    assert third.sizes == {"a.jpg": (30, 20), "b.jpg": (40, 30), "bad.jpg": (20, 10)}
    assert list(third.bad) == ["c.jpg"]


def test_the_same_length_at_another_time_is_a_change(folder: Path, output: Path) -> None:
    path = put(folder, "a.bmp", image(40, 30, "BMP"))
    scan([folder], output)
    put(folder, "a.bmp", image(30, 40, "BMP").ljust(path.stat().st_size, b"\0"))
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    done = scan([folder], output)
    assert (done.summary.num_opened, done.sizes) == (1, {"a.bmp": (30, 40)})


def test_another_root_gives_other_ids_and_opens_nothing(folder: Path, output: Path) -> None:
    put(folder, "a/b.jpg")
    scan([folder], output)
    done = scan([folder / "a"], output)
    assert (done.summary.num_opened, list(done.sizes)) == (0, ["b.jpg"])


class Hiding(Unseen):
    """Takes a file away after it was found."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def opening(self, num_units: int) -> None:
        self.path.rename(self.path.with_suffix(".away"))


def test_what_could_not_be_read_is_tried_again(folder: Path, output: Path) -> None:
    path = put(folder, "a.jpg")
    put(folder, "b.jpg")
    first = scan([folder], output, Hiding(path))
    assert (list(first.sizes), first.bad) == (
        ["b.jpg"],
        {"a.jpg": "it cannot be read: No such file or directory"},
    )
    path.with_suffix(".away").rename(path)
    again = scan([folder], output)
    assert (again.summary.num_opened, list(again.sizes), again.bad) == (1, ["a.jpg", "b.jpg"], {})


def test_what_lacked_a_plugin_that_is_there_now_is_opened_again(
    folder: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    heic = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (64, 48))).save(heic)
    put(folder, "a.heic", heic.getvalue())
    put(folder, "b.jpg")
    put(folder, "c.jpg", b"x")
    # a machine without it, whose Pillow knows no HEIC
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    monkeypatch.setitem(image_headers._MEMORY, "pillow_heif", False)
    first = scan([folder], output)
    assert (list(first.sizes), first.bad["a.heic"]) == (["b.jpg"], image_headers.NEEDS["pillow_heif"])
    assert scan([folder], output).summary.num_opened == 0
    monkeypatch.undo()
    again = scan([folder], output)
    assert (again.summary.num_opened, again.sizes["a.heic"], list(again.bad)) == (1, (64, 48), ["c.jpg"])


@pytest.mark.parametrize("name", ["images", "images/none"])
def test_where_there_is_nothing_no_record_is_left(folder: Path, output: Path, name: str) -> None:
    with pytest.raises(Invalid):
        scan([folder.parent / name], output)
    assert list(output.parent.iterdir()) == []


class Stopping(Unseen):
    """As by Ctrl-C, once that many chunks are recorded."""

    def __init__(self, after: int) -> None:
        self.left = after

    def opened(self, num_units: int, num_images: int) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def many(folder: Path, num: int) -> None:
    path = put(folder, "0.jpg")
    for number in range(1, num):
        os.link(path, folder / f"{number}.jpg")


@pytest.mark.parametrize("num_workers", [2, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_what_is_stopped_goes_on(folder: Path, output: Path, num_workers: int) -> None:
    num = 3 * CHUNK + 7
    many(folder, num)
    with pytest.raises(KeyboardInterrupt):
        scan([folder], output, Stopping(2), num_workers=num_workers)
    assert not output.exists()
    done = scan([folder], output, num_workers=num_workers)
    assert done.summary.num_opened in (num - 2 * CHUNK, num - CHUNK - 7)
    assert done.sizes == {f"{number}.jpg": (40, 30) for number in range(num)}
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "map.parquet",
        "map.parquet.bad.jsonl",
        "map.parquet.scan",
    ]


def test_processes_find_what_one_finds(folder: Path, output: Path) -> None:
    many(folder, 2 * CHUNK + 1)
    put(folder, "bad.jpg", b"x")
    one = scan([folder], output, num_workers=1)
    other = scan([folder], output.with_name("other.parquet"), num_workers=2)
    assert other[1:] == one[1:]
    assert output.read_bytes() == output.with_name("other.parquet").read_bytes()


class Counting(Unseen):
    """How many processes there are when a chunk is noted."""

    def __init__(self) -> None:
        self.nums: list[int] = []

    def opened(self, num_units: int, num_images: int) -> None:
        self.nums.append(len(active_children()))


@pytest.mark.skipif(num_cores() == 1, reason="has one core")
def test_processes_are_for_what_takes_long(folder: Path, output: Path) -> None:
    many(folder, 3 * CHUNK)
    here, soon, later = Counting(), Counting(), Counting()
    scan([folder], output, here, num_workers=1)
    scan([folder], output.with_name("soon.parquet"), soon, clock=lambda: 0.0)
    assert here.nums == soon.nums == [0, 0, 0]
    ticks = itertools.count()
    done = scan([folder], output.with_name("later.parquet"), later, clock=lambda: float(next(ticks)))
    assert later.nums[0] == 0 < later.nums[1]
    assert len(done.sizes) == 3 * CHUNK


def test_an_old_map_stays_until_the_new_one_is_whole(folder: Path, output: Path) -> None:
    put(folder, "a.jpg")
    scan([folder], output)
    before = output.read_bytes()
    put(folder, "b.jpg")
    with pytest.raises(KeyboardInterrupt):
        scan([folder], output, Stopping(1))
    assert output.read_bytes() == before


@pytest.mark.parametrize("exif", [True, False])
def test_sizes_that_exif_has_turned_are_not_mixed_with_others(folder: Path, output: Path, exif: bool) -> None:
    sizes = {True: {"a.jpg": (30, 40)}, False: {"a.jpg": (40, 30)}}
    put(folder, "a.jpg", image(orientation=6))
    assert scan([folder], output, exif=exif).sizes == sizes[exif]
    before = {path: path.read_bytes() for path in (output, output.with_name("map.parquet.scan"))}
    with pytest.raises(
        Conflict, match=f"from a scan with{'out' if exif else ''} --no-exif, with other"
    ) as told:
        scan([folder], output, exif=not exif)
    assert "delete the record" in told.value.detail
    assert {path: path.read_bytes() for path in before} == before
    assert scan([folder], output, exif=exif).summary.num_opened == 0
    output.with_name("map.parquet.scan").unlink()
    assert scan([folder], output, exif=not exif).sizes == sizes[not exif]


def test_a_record_of_before_there_was_a_choice_has_applied_it(folder: Path, output: Path) -> None:
    put(folder, "a.jpg", image(orientation=6))
    scan([folder], output)
    with closing(sqlite3.connect(output.with_name("map.parquet.scan"))) as db:
        db.execute("DELETE FROM settings WHERE name = 'exif'")
        db.commit()
    with pytest.raises(Conflict, match="without --no-exif"):
        scan([folder], output, exif=False)
    assert scan([folder], output).summary.num_opened == 0


def test_a_scan_that_has_opened_nothing_may_be_begun_otherwise(folder: Path, output: Path) -> None:
    put(folder, "a.jpg", image(orientation=6))
    ScanRecord(output.with_name("map.parquet.scan"), "relative").close()
    assert scan([folder], output, exif=False).sizes == {"a.jpg": (40, 30)}


def test_one_scan_at_a_time(folder: Path, output: Path) -> None:
    put(folder, "a.jpg")
    record = ScanRecord(output.with_name("map.parquet.scan"), "relative")
    with pytest.raises(Conflict, match="another scan is writing this output"):
        scan([folder], output)
    record.close()
    assert scan([folder], output).summary.num_images == 1


def test_nothing_else_is_written_over(folder: Path, output: Path) -> None:
    put(folder, "a.jpg")
    pq.write_table(pa.table({"key": ["a"]}), output)
    before = output.read_bytes()
    with pytest.raises(Conflict, match="was not written by a scan"):
        scan([folder], output)
    assert output.read_bytes() == before
    record = output.with_name("new.parquet.scan")
    with closing(sqlite3.connect(record)) as db:
        db.execute("CREATE TABLE mine (x)")
    before = record.read_bytes()
    with pytest.raises(Invalid, match="is not the record of a scan"):
        scan([folder], output.with_name("new.parquet"))
    assert record.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        ("map.csv", None, "the output must end in .parquet"),
        ("none/map.parquet", None, "does not exist. Create it"),
        ("map.parquet", "map.parquet", "must differ from the output and its record"),
        ("map.parquet", "list.csv", "must not be both scanned and written"),
    ],
)
def test_outputs_that_would_not_do(
    folder: Path, output: Path, name: str, bad: str | None, words: str
) -> None:
    given = put(output.parent, "list.csv", b"path\nx.jpg\n")
    with pytest.raises(Invalid, match=words):
        scan([folder, given], output.parent / name, bad=output.parent / bad if bad else None)
    assert [path.name for path in output.parent.iterdir()] == ["list.csv"]
    assert given.read_bytes() == b"path\nx.jpg\n"
