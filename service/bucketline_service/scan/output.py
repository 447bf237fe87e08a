"""Writes the map, and the list of images that are not in it. Each replaces the earlier file once it is complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
from pyarrow import parquet

from bucketline_service.atomic_files import replacing
from bucketline_service.errors import Conflict
from bucketline_service.maps.file_source import MAX_ID_BYTES
from bucketline_service.scan.record import ScanRecord, SizedImage

MARK = b"bucketline.scan"
"""Metadata of a map that was written by a scan, and that a scan may overwrite."""
EXIF_MARK = b"bucketline.scan.exif"
"""Metadata: ``applied``, or ``ignored`` where the EXIF orientation was not applied."""
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("width", pa.uint32(), nullable=False),
        pa.field("height", pa.uint32(), nullable=False),
    ]
)
_ROWS = 1 << 16


class WrittenCounts(NamedTuple):
    num_images: int
    num_bad: int


def check_is_ours(path: Path) -> None:
    """``Conflict`` where ``path`` exists and was not written by a scan."""
    if not path.exists():
        return
    try:
        metadata = parquet.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        metadata = {}
    if MARK not in metadata:
        raise Conflict(
            f"{path} exists, and was not written by a scan. Choose another output, or move it away"
        )


def write(record: ScanRecord, output: Path, bad: Path, exif: bool) -> WrittenCounts:
    """Write both files, the list first. Where no image has a size the map is not written."""
    with replacing(bad) as list_file:
        lister = _BadList(list_file)
        for each in record.bad():
            lister.add(each.location, each.member, each.reason)
        num_images = _write_map(
            record, output, lister, {MARK: b"1", EXIF_MARK: b"applied" if exif else b"ignored"}
        )
    return WrittenCounts(num_images, lister.num)


class _BadList:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.num = 0

    def add(self, location: str, member: str, reason: str) -> None:
        row = {"path": location, **({"member": member} if member else {}), "reason": reason}
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self.num += 1


def _write_map(record: ScanRecord, output: Path, bad: _BadList, metadata: dict[bytes, bytes]) -> int:
    rows = _good(record, bad)
    schema = _SCHEMA.with_metadata(metadata)
    num = 0
    if (first := next(rows, None)) is None:
        return 0
    with replacing(output) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        rows = chain([first], rows)
        while some := list(islice(rows, _ROWS)):
            columns = [[row[at] for row in some] for at in range(3)]
            writer.write_table(pa.table(columns, schema=schema))
            num += len(some)
    return num


def _good(record: ScanRecord, bad: _BadList) -> Iterator[SizedImage]:
    """Images by id, without duplicates: of several with one id, the first location is kept."""
    last = None
    for row in record.sized():
        if last is not None and row.id == last.id:
            bad.add(row.location, row.member, f"duplicate id {row.id!r}, which {_where(last)} has")
            continue
        last = row
        if not row.id or len(row.id.encode()) > MAX_ID_BYTES:
            bad.add(row.location, row.member, f"its id must be 1 to {MAX_ID_BYTES:,} bytes")
        else:
            yield row


def _where(row: SizedImage) -> str:
    return f"{row.location}, {row.member}" if row.member else row.location
