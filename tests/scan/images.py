"""Real image files, and scans of them in this process."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from PIL import Image

from bucketline_service.scan.discovery import ScanOptions
from bucketline_service.scan.job import ScanJob, ScanSummary, run

ORIENTATION = 0x0112


def image(
    width: int = 40, height: int = 30, format: str = "JPEG", orientation: int | None = None, **options: Any
) -> bytes:
    """A file of that format, whose pixels are not all the same."""
    picture = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    if orientation is not None:
        options["exif"] = exif(orientation)
    target = io.BytesIO()
    picture.save(target, format, **options)
    return target.getvalue()


def exif(orientation: int) -> bytes:
    entries = Image.Exif()
    entries[ORIENTATION] = orientation
    return entries.tobytes()


def put(folder: Path, name: str, data: bytes | None = None) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image() if data is None else data)
    return path


class Unseen:
    """Watches nothing."""

    def found(self, num_units: int) -> None: ...

    def opening(self, num_units: int) -> None: ...

    def opened(self, num_units: int, num_images: int) -> None: ...

    def writing(self) -> None: ...


class Scanned(NamedTuple):
    summary: ScanSummary
    sizes: dict[str, tuple[int, int]]
    bad: dict[str, str]


def scan(paths: Sequence[Path | str], output: Path, watcher: Any = None, **options: Any) -> Scanned:
    """``sizes`` by id; ``bad``: reasons, by the path's last part, with the member where there is one."""
    wish = {name: options.pop(name) for name in list(options) if name in ScanOptions._fields}
    clock = options.pop("clock", time.monotonic)
    job = ScanJob([str(path) for path in paths], output, ScanOptions(**wish), **options)
    summary = run(job, watcher or Unseen(), clock)
    sizes = read_map(output) if summary.num_images else {}
    rows = [json.loads(line) for line in job.bad_path.read_text("utf-8").splitlines()]
    assert len(rows) == summary.num_bad
    bad = {
        "/".join([Path(row["path"]).name, *([row["member"]] if "member" in row else [])]): row for row in rows
    }
    assert len(bad) == len(rows)
    return Scanned(summary, sizes, {name: row["reason"] for name, row in bad.items()})


def read_map(path: Path) -> dict[str, tuple[int, int]]:
    rows = pq.read_table(path).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: (row["width"], row["height"]) for row in rows}
