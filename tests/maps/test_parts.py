"""A map in several files: from the client and the command line to a coordinator, and what a tar may hold."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bucketline import Operator, UsageError
from bucketline.operator._map_files import num_upload_bytes, parts_of, tar
from bucketline_service.errors import Invalid
from bucketline_service.maps import MapStore
from tests.cli.commands import run_here
from tests.server import ServerProcess

from .files import add_member


def write(path: Path, ids: list[int], **more: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sides = {"width": [640] * len(ids), "height": [480] * len(ids)}
    pq.write_table(pa.table({"id": pa.array(ids, pa.int64()), **sides, **more}), path)


@pytest.fixture
def spark(tmp_path: Path) -> Path:
    """As Spark writes it, a column of the partition in the names of folders, and an empty part."""
    folder = tmp_path / "sizes.parquet"
    write(folder / "split=train" / "part-00000-é.snappy.parquet", [1, 2])
    write(folder / "split=train" / "part-00001.snappy.parquet", [])
    write(folder / "split=val" / ("part-" + "0" * 120 + ".snappy.parquet"), [3])
    (folder / "_SUCCESS").write_bytes(b"")
    (folder / "_metadata.parquet").write_bytes(b"no table")
    (folder / ".part-00000.crc").write_bytes(b"crc")
    write(folder / "_temporary" / "part-00009.parquet", [9])
    return folder


def whole(tmp_path: Path, operator: Operator, ids: list[int]) -> str:
    write(tmp_path / "whole.parquet", ids)
    return str(operator.put_map("whole", tmp_path / "whole.parquet")["digest"])


def test_a_folder_a_pattern_and_a_list_are_one_map(operator: Operator, spark: Path, tmp_path: Path) -> None:
    digest = whole(tmp_path, operator, [1, 2, 3])
    parts = sorted(spark.glob("split=*/*.parquet"))
    for source in (
        spark,
        str(spark),
        str(spark / "**" / "part-*.parquet"),
        parts,
        [str(part) for part in parts],
    ):
        sent: list[int] = []
        about = operator.put_map("parts", source, progress=sent.append)  # type: ignore[arg-type]
        assert (about["digest"], about["num_images"]) == (digest, 3)
        assert sent == sorted(sent)
        assert sent[-1] == num_upload_bytes(parts_of(source))  # type: ignore[arg-type]


def test_a_folder_of_one_part_is_that_part(operator: Operator, tmp_path: Path) -> None:
    write(tmp_path / "sizes" / "part-0.parquet", [5])
    assert operator.put_map("one", tmp_path / "sizes")["num_images"] == 1


def test_the_command_line_takes_the_same(server: ServerProcess, operator: Operator, spark: Path) -> None:
    parts = [str(part) for part in sorted(spark.glob("split=*/*.parquet"))]
    for sources in ([str(spark)], [str(spark / "*" / "*.parquet")], parts):
        status, out, errors = run_here("map", "put", "m", *sources, BUCKETLINE_URL=server.url)
        assert (status, errors) == (0, "")
        assert out.startswith("m: 3 images")
    status, out, errors = run_here("preview", str(spark), "--json")
    assert "an epoch has only 0 whole batches" in out + errors


def test_parts_whose_names_tell_nothing(operator: Operator, server: ServerProcess, tmp_path: Path) -> None:
    """As Hadoop writes them."""
    for number in range(3):
        (tmp_path / f"part-{number:05}").write_text(f"id\twidth\theight\n{number}\t640\t480\n")
    pattern = str(tmp_path / "part-*")
    with pytest.raises(
        UsageError, match=r"part-00000: its name does not say its format.*or pass format=NAME"
    ):
        operator.put_map("m", pattern)
    status, _, errors = run_here("map", "put", "m", pattern, BUCKETLINE_URL=server.url)
    assert status == 1
    assert "or pass --format NAME, one of csv, tsv" in errors
    assert operator.put_map("m", pattern, format="tsv")["num_images"] == 3
    status, out, _ = run_here("map", "put", "m", pattern, "--format", "csv", BUCKETLINE_URL=server.url)
    assert (status, out[:12]) == (0, "m: 3 images,")


def test_optional_columns_may_be_in_some_of_them(operator: Operator, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [1])
    write(tmp_path / "b.parquet", [2], num_frames=[9], num_repeats=[2.5])
    write(tmp_path / "c.parquet", [3])
    about = operator.put_map("m", str(tmp_path / "?.parquet"))
    assert about["num_frames"] == {"min": 1, "max": 9}
    assert about["num_repeats"] == {"min": 1, "max": 2.5, "total": 4.5}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["is a folder", "bucketline scan"]),
        ({"a.txt": b"a"}, ["is a folder", "bucketline scan"]),
        ({"a.csv": b""}, ["is a folder", "bucketline scan"]),
        ({"data/a.parquet": b"PAR1", "README.md": b"#"}, ["is a folder", "**/*.parquet'"]),
        ({f"{number}.jpg": b"" for number in range(102)}, ["is a folder", "bucketline scan"]),
        ({"a.csv": b"id", "b/c.JPG": b"\xff\xd8"}, ["is a folder", "bucketline scan", "**/*.csv'"]),
        (
            {"a.csv": b"id", "b.parquet": b"PAR1 and more"},
            ["is a folder", "bucketline scan", "**/*.parquet'"],
        ),
    ],
)
def test_a_folder_that_is_no_map(
    operator: Operator, tmp_path: Path, files: dict[str, bytes], words: list[str]
) -> None:
    (tmp_path / "folder").mkdir()
    for name, data in files.items():
        (tmp_path / "folder" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    with pytest.raises(UsageError) as caught:
        operator.put_map("m", tmp_path / "folder")
    for word in words:
        assert word in str(caught.value)


def test_what_is_not_there(operator: Operator, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file matches"):
        operator.put_map("m", str(tmp_path / "*.parquet"))
    with pytest.raises(UsageError, match="at least one file, got none"):
        operator.put_map("m", [])
    with pytest.raises(FileNotFoundError):
        operator.put_map("m", tmp_path / "a.csv")


def test_a_file_whose_name_looks_like_a_pattern(operator: Operator, tmp_path: Path) -> None:
    write(tmp_path / "a[1].parquet", [1])
    assert operator.put_map("m", tmp_path / "a[1].parquet")["num_images"] == 1


def tar_of(files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, data in files.items():
            add_member(archive, name, data)
    return target.getvalue()


ROWS = b"id,width,height\n1,640,480\n"


@pytest.mark.parametrize(
    ("files", "field", "words"),
    [
        ({}, "file", ["no part of a map"]),
        ({"_SUCCESS": b"a", "x/.hidden/a.csv": ROWS}, "file", ["no part of a map"]),
        ({"a.csv": ROWS, "b.csv": ROWS}, "id", ["b.csv: row 1 (line 2): duplicate id 1, first seen in row 1 of a.csv"]),
        ({"a.csv": ROWS, "b.csv": b"id,width,height\n2,0,3\n"}, "width", ["b.csv: row 1 (line 2): must be"]),
        ({"a.csv": ROWS, "b.csv": b"id,width\n2,1\n"}, "height", ["b.csv: ", "no column 'height'"]),
        ({"a.csv": ROWS, "b.csv": b"id,width,height\n2,1\n"}, "file", ["b.csv: row 1 (line 2)"]),
        ({"a.csv": ROWS, "b.jsonl": b"{}"}, "file", ["b.jsonl: ", "must be csv like", "csv", "one format"]),
        ({"a.csv": ROWS, "0.jpg": b"\xff\xd8"}, "file", ["0.jpg: ", "bucketline scan"]),
        ({"a.tar": tar_of({"b.csv": ROWS})}, "file", ["a.tar: "]),
        ({"a.parquet": b"PAR1PAR1PAR1"}, "file", ["a.parquet: cannot be read as parquet"]),
        ({"a.csv.gz": b"\x1f\x8bno"}, "file", ["a.csv.gz: cannot be read as csv"]),
        (
            {"a.jsonl": b'{"id": 1, "width": 1, "height": 1}', "b.jsonl": b'{"id": "a", "width": 1, "height": 1}'},
            "id",
            ["b.jsonl: row 1 (line 1): must be an integer like the ids before it, got 'a'"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_part_names_it(
    refused: Callable[..., Invalid], files: dict[str, bytes], field: str, words: list[str]
) -> None:
    error = refused("tar", tar_of(files))
    assert error.field == field
    for word in words:
        assert word in error.detail
    assert error.detail.count(".csv: ") <= 1


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"S", b"M"]
)
def test_only_files_are_read_of_a_tar(refused: Callable[..., Invalid], kind: bytes) -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        info = tarfile.TarInfo("a.csv")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
        add_member(archive, "b.csv", ROWS)
    assert "is not a regular file" in refused("tar", target.getvalue()).detail


def test_names_that_lead_out_are_only_names(store: MapStore, tmp_path: Path) -> None:
    (tmp_path / "map.tar").write_bytes(tar_of({"/etc/b.csv": ROWS, "./.hidden.csv": b"x"}))
    assert store.put("map", tmp_path / "map.tar", "tar")[0].num_images == 1
    assert not list(tmp_path.rglob("b.csv"))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_of_other_programs(store: MapStore, tmp_path: Path, format: int) -> None:
    (tmp_path / "out").mkdir()
    for number in range(3):
        (tmp_path / "out" / f"{number}.csv").write_text(f"id,width,height\n{number},640,480\n")
    with tarfile.open(tmp_path / "map.tar", "w", format=format) as archive:
        archive.add(tmp_path / "out", "out")
    assert store.put("map", tmp_path / "map.tar", "tar")[0].num_images == 3


def test_the_client_s_tar_is_one(tmp_path: Path) -> None:
    for name in ("a.csv", "é.csv", "x" * 120 + ".csv.gz", "noname"):
        (tmp_path / name).write_bytes(b"a" * (len(name) * 100))
    parts = parts_of(sorted(tmp_path.iterdir()))
    data = b"".join(tar(parts, "csv"))
    assert len(data) == num_upload_bytes(parts)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getmembers()
        assert [member.size for member in members] == [part.num_bytes for part in parts]
        assert [member.name for member in members] == ["a.csv", "noname.csv", "part-2.csv.gz", "é.csv"]
