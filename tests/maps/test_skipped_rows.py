"""Rows without a size: refused, or on request left out and counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bucketline_service.errors import Invalid
from bucketline_service.maps import MapStore, ReadResult, RequestedColumns

SKIP = RequestedColumns(skip_missing_sizes=True)
IDS = ["a", "b", "c", "d", "e"]
WIDTHS = [640, None, 3, None, 5]
HEIGHTS = [480, 9, None, None, 6]
FRAMES = [1, 2, 3, 4, 5]


def csv(path: Path) -> None:
    rows = zip(IDS, WIDTHS, HEIGHTS, FRAMES, strict=True)
    text = "".join(",".join("" if v is None else str(v) for v in row) + "\n" for row in rows)
    path.write_text("id,width,height,frames\n" + text.replace(",9,", ", 9 ,"))


def jsonl(path: Path) -> None:
    """Without the keys that have no value."""
    rows = [{key: value for key, value in row.items() if value is not None} for row in table().to_pylist()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def table() -> pa.Table:
    sides = {"width": pa.array(WIDTHS, pa.int64()), "height": pa.array(HEIGHTS, pa.int64())}
    return pa.table({"id": IDS, **sides, "frames": FRAMES})


def parquet(path: Path) -> None:
    pq.write_table(table(), path, row_group_size=2)


def floats(path: Path) -> None:
    """Not a number is no size either: so pandas writes what is missing."""
    sides = {
        name: np.array([np.nan if v is None else v for v in given], float)
        for name, given in (("width", WIDTHS), ("height", HEIGHTS))
    }
    with path.open("wb") as file:
        np.savez(file, id=np.array(IDS), frames=np.array(FRAMES), **sides)


def dictionaries(path: Path) -> None:
    rows = table()
    for place, name in ((1, "width"), (2, "height")):
        rows = rows.set_column(place, name, rows[name].dictionary_encode())
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=2)


FILES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "csv": ("csv", csv),
    "jsonl": ("jsonl", jsonl),
    "parquet": ("parquet", parquet),
    "npz": ("npz", floats),
    "arrow": ("arrow", dictionaries),
}


@pytest.mark.parametrize("name", FILES)
def test_they_are_left_out_on_request_and_counted(
    store: MapStore, refused: Callable[..., Invalid], tmp_path: Path, name: str
) -> None:
    format, write = FILES[name]
    write(tmp_path / "file")
    error = refused(format, tmp_path / "file")
    assert "row 2" in error.detail
    assert "skip_missing_sizes=true" in error.detail
    told: list[ReadResult] = []
    opened, _ = store.put("map", tmp_path / "file", format, SKIP, told.append)
    assert told[0].num_skipped == 3
    assert opened.ids(np.arange(2)) == ["a", "e"]
    assert (opened.widths.tolist(), opened.heights.tolist()) == ([640, 5], [480, 6])
    assert opened.num_frames is not None
    assert opened.num_frames.tolist() == [1, 5]


def test_a_file_in_which_all_have_one_is_the_same_map(store: MapStore, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "width": [3, 4], "height": [5, 6]}), tmp_path / "file")
    told: list[ReadResult] = []
    assert store.put("map", tmp_path / "file", "parquet", SKIP, told.append)[1]
    assert not store.put("map", tmp_path / "file", "parquet", on_read=told.append)[1]
    assert [read.num_skipped for read in told] == [0, 0]


def test_a_file_in_which_none_has_one_has_no_rows(refused: Callable[..., Invalid]) -> None:
    error = refused("csv", b"id,width,height\n1,,\n2,,5\n", SKIP)
    assert "no rows with a size; 2 without were left out" in error.detail


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a,,\nb,1,0\n", "row 2 (line 3): must be"),
        ("a,,\nb,1,1\nb,,\nb,2,2\n", "row 4 (line 5): duplicate id 'b', first seen in row 2"),
        ("a,,\n,1,1\n", "row 2 (line 3): must not be empty"),
        ("a,nan,1\nb, NaN ,1\nc,na,1\n", "row 3 (line 4): must be"),
    ],
)
def test_rows_are_counted_as_in_the_file(refused: Callable[..., Invalid], rows: str, words: str) -> None:
    assert words in refused("csv", f"id,width,height\n{rows}".encode(), SKIP).detail


def test_far_down_in_a_long_file_too(refused: Callable[..., Invalid], tmp_path: Path) -> None:
    n = 600_000
    widths = np.where(np.arange(n) % 3 == 1, None, 640)
    ids = np.arange(n)
    ids[500_001] = 3  # 500,001 is divisible by 3, and so has a size
    heights = np.full(n, 480)
    pq.write_table(
        pa.table({"id": ids, "width": pa.array(widths, pa.int32()), "height": heights}), tmp_path / "file"
    )
    detail = refused("parquet", tmp_path / "file", SKIP).detail
    assert "id: row 500002: duplicate id 3, first seen in row 4" in detail
