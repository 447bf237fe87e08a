"""Tar shards, and what img2dataset writes."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bucketline_service.maps import MapStore
from bucketline_service.scan.scan_files import IdStyle

from .images import image, put, scan


def tar(members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=format) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return target.getvalue()


SAMPLES = {
    "000.jpg": image(40, 30),
    "000.json": b"{}",
    "000.seg.png": image(5, 5, "PNG"),
    "sub/001.PNG": image(30, 40, "PNG", orientation=8),
    "sub/001.cls": b"1",
    "ä" * 150 + ".webp": image(format="WEBP"),
}
KEYS = {"000": (40, 30), "sub/001": (40, 30), "ä" * 150: (40, 30)}


@pytest.mark.parametrize("name", ["00000.tar", "00000.tar.gz", "00000.tgz"])
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_shard(folder: Path, output: Path, name: str, format: int) -> None:
    data = tar(SAMPLES, format)
    put(folder, name, data if name.endswith("tar") else gzip.compress(data))
    put(folder, "single.jpg")
    done = scan([folder], output)
    assert done.sizes == {**KEYS, "single.jpg": (40, 30)}
    assert done.bad == {}
    assert done.summary.num_found == 2
    assert scan([folder / name], output.with_name("other.parquet")).sizes == KEYS


def test_members_are_turned_or_not(folder: Path, output: Path) -> None:
    put(folder, "a.tar", tar({"0.jpg": image(orientation=6), "1.jpg": image(orientation=1)}))
    assert scan([folder], output).sizes == {"0": (30, 40), "1": (40, 30)}
    stored = scan([folder], output.with_name("stored.parquet"), exif=False)
    assert stored.sizes == {"0": (40, 30), "1": (40, 30)}


def test_ids_of_samples(folder: Path, output: Path) -> None:
    path = put(folder, "a.tar", tar(SAMPLES))
    assert set(scan([folder], output, ids=IdStyle.STEM).sizes) == {"000", "001", "ä" * 150}
    assert set(scan([folder], output, ids=IdStyle.FULL).sizes) == {f"{path}/{key}" for key in KEYS}


def test_keys_that_two_shards_have(folder: Path, output: Path) -> None:
    for name in ("a.tar", "b.tar"):
        put(folder, name, tar({"0.jpg": image()}))
    done = scan([folder], output)
    assert (list(done.sizes), done.bad) == (
        ["0"],
        {"b.tar/0.jpg": f"duplicate id '0', which {folder}/a.tar, 0.jpg has"},
    )
    assert len(scan([folder], output, ids=IdStyle.FULL).sizes) == 2


def test_bad_members_and_shards(folder: Path, output: Path) -> None:
    put(folder, "a.tar", tar({"bad.jpg": b"x", "good.jpg": image(), "empty.png": b""}))
    put(folder, "cut.tar", tar({"first.jpg": image(), "second.jpg": image()})[:1800])
    put(folder, "no.tar", b"not a tar at all")
    put(folder, "cut.tar.gz", gzip.compress(tar({"third.jpg": image(), "fourth.jpg": b"x" * 9999}))[:-90])
    odd = tarfile.TarInfo("\udce4.jpg")
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as file:
        file.addfile(odd)
    put(folder, "odd.tar", target.getvalue())
    done = scan([folder], output, num_workers=1)
    assert {"good", "first"} <= set(done.sizes) <= {"good", "first", "third"}
    assert done.bad["a.tar/bad.jpg"] == "it is not an image, or its header is damaged"
    assert done.bad["a.tar/empty.png"] == "the file is empty"
    assert done.bad["odd.tar/\\xe4.jpg"] == "its name is not UTF-8"
    for name in ("cut.tar", "no.tar", "cut.tar.gz"):
        words = ("cannot be read to its end as a tar", "truncated", "damaged at byte 1,536")
        assert any(each in done.bad[name] for each in words)
    assert scan([folder], output).summary.num_opened == 0


def test_a_shard_that_changed_is_opened_as_a_whole(folder: Path, output: Path) -> None:
    put(folder, "a.tar", tar({"0.jpg": image(), "1.jpg": image()}))
    put(folder, "b.tar", tar({"2.jpg": image()}))
    scan([folder], output)
    put(folder, "a.tar", tar({"1.jpg": image(8, 9), "3.jpg": image(), "4.jpg": image()}))
    done = scan([folder], output)
    assert done.summary.num_opened == 1
    assert done.sizes == {"1": (8, 9), "2": (40, 30), "3": (40, 30), "4": (40, 30)}


def img2dataset(folder: Path, **columns: list[Any]) -> None:
    """Its output as tar and table, the images of 40 x 30 pixels behind it."""
    put(folder, "00000.tar", tar({f"{key}.jpg": image() for key in ("000000000", "000000001")}))
    table = {
        "url": ["http://a", "http://b", "http://c"],
        "key": ["000000000", "000000001", "000000002"],
        "status": ["success", "success", "failed_to_download"],
        "width": [256, 300, None],
        "height": [200, 256, None],
        "original_width": [1024, 1200, None],
        "original_height": [800, 1024, None],
        **columns,
    }
    pq.write_table(pa.table(table), folder / "00000.parquet")
    put(folder, "00000_stats.json", b"{}")


def test_img2dataset_has_the_sizes(folder: Path, output: Path) -> None:
    img2dataset(folder)
    put(folder, "00001/000010000.jpg")
    done = scan([folder], output)
    assert done.sizes == {
        "000000000": (256, 200),
        "000000001": (300, 256),
        "00001/000010000.jpg": (40, 30),
    }, "sizes as they are stored; no tar is opened, and a folder without a table is"
    assert done.summary.num_found == 2
    assert scan([folder / "00000.parquet"], output).sizes == {
        "000000000": (256, 200),
        "000000001": (300, 256),
    }


MORE: list[dict[str, list[Any]]] = [
    {},
    {"WIDTH": [2048, 2400], "HEIGHT": [1600, 2048]},  # of LAION's, which img2dataset hands on
    {"original_width": [None, None], "original_height": [None, None]},
]


@pytest.mark.parametrize("more", MORE)
def test_a_table_of_img2dataset_put_as_a_map_has_the_sizes_that_a_scan_takes(
    folder: Path, output: Path, tmp_path: Path, more: dict[str, list[Any]]
) -> None:
    table: dict[str, list[Any]] = {
        "url": ["http://a", "http://b"],
        "key": ["000000000", "000000001"],
        "status": ["success", "success"],
        "original_width": [1024, 1200],
        "original_height": [800, 1024],
        "width": [256, 300],
        "height": [200, 256],
        **more,
    }
    path = folder / "00000.parquet"
    pq.write_table(pa.table(table), path)
    opened, _ = MapStore(tmp_path / "maps").put("map", path, "parquet")
    sizes = list(zip(opened.widths.tolist(), opened.heights.tolist(), strict=True))
    assert sizes == list(scan([path], output).sizes.values()) == [(256, 200), (300, 256)]


def test_img2dataset_may_be_opened(folder: Path, output: Path) -> None:
    img2dataset(folder)
    scan([folder], output)
    assert scan([folder], output, open_all=True).sizes == {"000000000": (40, 30), "000000001": (40, 30)}


def test_folders_that_img2dataset_tells_of(folder: Path, output: Path) -> None:
    img2dataset(folder)
    (folder / "00000.tar").unlink()
    put(folder, "00000/000000000.jpg")
    assert scan([folder], output).sizes == {"000000000": (256, 200), "000000001": (300, 256)}


def test_img2dataset_without_sizes(folder: Path, output: Path) -> None:
    img2dataset(folder, width=[None, 300, None], height=[None, 256, None])
    done = scan([folder], output)
    assert done.sizes == {"000000001": (300, 256)}
    assert "--open-all" in done.bad["00000.parquet/000000000"]


def test_other_parquet_files_hide_no_shard(folder: Path, output: Path) -> None:
    put(folder, "00000.tar", tar(SAMPLES))
    pq.write_table(pa.table({"caption": ["x"]}), folder / "00000.parquet")
    put(folder, "sub/broken.parquet", b"x")
    assert scan([folder], output).sizes == KEYS


def test_a_table_that_breaks_off(folder: Path, output: Path) -> None:
    img2dataset(folder, url=["x" * 100_000 + str(number) for number in range(3)])
    path = folder / "00000.parquet"
    data = bytearray(path.read_bytes())
    at = data.index(b"success") - 40
    data[at : at + 60] = bytes(60)
    path.write_bytes(data)
    done = scan([folder], output)
    assert (done.sizes, "cannot be read as Parquet" in done.bad["00000.parquet"]) == ({}, True)


def test_a_table_whose_values_no_map_can_hold(folder: Path, output: Path) -> None:
    columns = {"status": ["success"] * 3, "width": [2**40, -1, 300], "height": [1, 1, 256]}
    pq.write_table(pa.table({"key": ["long", "short", "good"], **columns}), folder / "00000.parquet")
    not_text = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    pq.write_table(pa.table({"key": not_text, **columns}), folder / "00001.parquet")
    done = scan([folder], output)
    assert done.sizes == {"good": (300, 256)}
    assert done.bad.keys() == {"00000.parquet/long", "00000.parquet/short", "00001.parquet"}
    assert "sides must be 1 to 1,000,000 pixels" in done.bad["00000.parquet/long"]
    assert "cannot be read as Parquet" in done.bad["00001.parquet"]
