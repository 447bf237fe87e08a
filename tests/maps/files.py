"""Files of every format, written by the libraries that people write them with."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Ids = Sequence[int] | Sequence[str]
Sides = Sequence[int]


def write_csv(path: Path, ids: Ids, widths: Sides, heights: Sides) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "width", "height"])
        writer.writerows(zip(ids, widths, heights, strict=True))


def write_jsonl(path: Path, ids: Ids, widths: Sides, heights: Sides) -> None:
    with path.open("w", encoding="utf-8") as file:
        for image_id, width, height in zip(ids, widths, heights, strict=True):
            file.write(json.dumps({"id": image_id, "width": width, "height": height}) + "\n")


def table(ids: Ids, widths: Sides, heights: Sides) -> pa.Table:
    return pa.table({"id": list(ids), "width": list(widths), "height": list(heights)})


def write_parquet(path: Path, ids: Ids, widths: Sides, heights: Sides) -> None:
    pq.write_table(table(ids, widths, heights), path, row_group_size=3)


def write_arrow(path: Path, ids: Ids, widths: Sides, heights: Sides) -> None:
    rows = table(ids, widths, heights)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=3)


def write_arrow_file(path: Path, ids: Ids, widths: Sides, heights: Sides) -> None:
    rows = table(ids, widths, heights)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=3)


def write_npz(path: Path, ids: Ids, widths: Sides, heights: Sides) -> None:
    with path.open("wb") as file:  # given a path, numpy adds a suffix to it
        np.savez_compressed(file, id=np.array(ids), width=np.array(widths), height=np.array(heights))


def write_pickle(path: Path, ids: Ids, widths: Sides, heights: Sides) -> None:
    path.write_bytes(pickle.dumps(dict(zip(ids, zip(widths, heights, strict=True), strict=True))))


WRITERS: dict[str, tuple[str, Callable[[Path, Ids, Sides, Sides], None]]] = {
    "csv": ("csv", write_csv),
    "jsonl": ("jsonl", write_jsonl),
    "parquet": ("parquet", write_parquet),
    "arrow": ("arrow", write_arrow),
    "arrow_file": ("arrow", write_arrow_file),
    "npz": ("npz", write_npz),
    "pickle": ("pickle", write_pickle),
}
"""Name: the format to put it as, and what writes it."""


def contents(root: Path) -> dict[str, bytes]:
    """Everything under a directory: nothing has changed if this has not."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()} | {
        str(path.relative_to(root)) + "/": b"" for path in root.rglob("*") if path.is_dir()
    }
