"""Files of every format, written by the libraries that people write them with."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Ids = Sequence[int] | Sequence[str]
Sides = Sequence[int]
More = Mapping[str, Sequence[Any]]
"""Further columns by name. None: no value, where the format can say that."""

NONE: More = {}


def write_csv(
    path: Path, ids: Ids, widths: Sides, heights: Sides, more: More = NONE, separator: str = ","
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(["id", "width", "height", *more])
        writer.writerows(zip(ids, widths, heights, *more.values(), strict=True))


def write_tsv(path: Path, ids: Ids, widths: Sides, heights: Sides, more: More = NONE) -> None:
    write_csv(path, ids, widths, heights, more, "\t")


def write_csv_gz(path: Path, ids: Ids, widths: Sides, heights: Sides, more: More = NONE) -> None:
    write_csv(path, ids, widths, heights, more, ";")
    path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))


def write_jsonl(path: Path, ids: Ids, widths: Sides, heights: Sides, more: More = NONE) -> None:
    with path.open("w", encoding="utf-8") as file:
        for image_id, width, height, *others in zip(ids, widths, heights, *more.values(), strict=True):
            row = {"id": image_id, "width": width, "height": height, **dict(zip(more, others, strict=True))}
            file.write(json.dumps(row) + "\n")


def write_sparse_jsonl(path: Path, ids: Ids, widths: Sides, heights: Sides, more: More = NONE) -> None:
    """Without the keys that have no value, as many write it."""
    write_jsonl(path, ids, widths, heights, more)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [{key: value for key, value in row.items() if value is not None} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def objects(ids: Ids, widths: Sides, heights: Sides, more: More = NONE) -> list[dict[str, Any]]:
    names = ["id", "width", "height", *more]
    return [
        dict(zip(names, row, strict=True)) for row in zip(ids, widths, heights, *more.values(), strict=True)
    ]


def write_json(path: Path, ids: Ids, widths: Sides, heights: Sides, more: More = NONE) -> None:
    path.write_text(json.dumps(objects(ids, widths, heights, more)), encoding="utf-8")


def write_coco(path: Path, ids: Ids, widths: Sides, heights: Sides, more: More = NONE) -> None:
    """With other objects, which also have ids, before and after the images."""
    images = objects(ids, widths, heights, more)
    annotations = [{"id": 1, "image_id": 2, "bbox": [0, 0.5, 1, 1e3], "images": [{"id": 3, "width": 1}]}]
    document = {
        "info": {"images": 5},
        "annotations": annotations,
        "images": images,
        "categories": [{"id": 1}],
    }
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def write_tar(path: Path, ids: Ids, widths: Sides, heights: Sides, more: More = NONE) -> None:
    """Parts as Spark writes them, two rows each, with what it leaves beside them."""
    with tarfile.open(path, "w") as archive:
        for name, data in (("out/_SUCCESS", b""), ("out/.part-0.crc", b"crc"), ("out/part-0.jsonl", b"")):
            add_member(archive, name, data)
        for start in range(0, len(ids), 2):
            part = path.with_name(f"{path.name}-part")
            cut = slice(start, start + 2)
            others = {name: values[cut] for name, values in more.items()}
            write_jsonl(part, ids[cut], widths[cut], heights[cut], others)
            add_member(archive, f"out/part-{start}.jsonl", part.read_bytes())
            part.unlink()


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def table(ids: Ids, widths: Sides, heights: Sides, more: More = NONE) -> pa.Table:
    others = {name: list(values) for name, values in more.items()}
    return pa.table({"id": list(ids), "width": list(widths), "height": list(heights), **others})


def write_parquet(path: Path, ids: Ids, widths: Sides, heights: Sides, more: More = NONE) -> None:
    pq.write_table(table(ids, widths, heights, more), path, row_group_size=3)


def write_arrow(path: Path, ids: Ids, widths: Sides, heights: Sides, more: More = NONE) -> None:
    rows = table(ids, widths, heights, more)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=3)


def write_arrow_file(path: Path, ids: Ids, widths: Sides, heights: Sides, more: More = NONE) -> None:
    rows = table(ids, widths, heights, more)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=3)


def write_npz(path: Path, ids: Ids, widths: Sides, heights: Sides, more: More = NONE) -> None:
    """A column in which every value is there; it has no way to say none."""
    others = {name: np.array(values) for name, values in more.items()}
    with path.open("wb") as file:  # given a path, numpy adds a suffix to it
        np.savez_compressed(
            file, id=np.array(ids), width=np.array(widths), height=np.array(heights), **others
        )


def write_pickle(path: Path, ids: Ids, widths: Sides, heights: Sides) -> None:
    path.write_bytes(pickle.dumps(dict(zip(ids, zip(widths, heights, strict=True), strict=True))))


WITH_MORE: dict[str, tuple[str, Callable[..., None]]] = {
    "csv": ("csv", write_csv),
    "jsonl": ("jsonl", write_jsonl),
    "sparse_jsonl": ("jsonl", write_sparse_jsonl),
    "tsv": ("csv", write_tsv),
    "csv_gz": ("csv", write_csv_gz),
    "json": ("jsonl", write_json),
    "coco": ("jsonl", write_coco),
    "tar": ("tar", write_tar),
    "parquet": ("parquet", write_parquet),
    "arrow": ("arrow", write_arrow),
    "arrow_file": ("arrow", write_arrow_file),
    "npz": ("npz", write_npz),
}
"""Name: the format to put it as, and what writes it; those that take further columns."""

WRITERS: dict[str, tuple[str, Callable[..., None]]] = {
    **{name: writer for name, writer in WITH_MORE.items() if name != "sparse_jsonl"},
    "pickle": ("pickle", write_pickle),
}


def contents(root: Path) -> dict[str, bytes]:
    """Everything under a directory: nothing has changed if this has not."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()} | {
        str(path.relative_to(root)) + "/": b"" for path in root.rglob("*") if path.is_dir()
    }
