"""Units of many images: tar shards, whose members' headers are read, and the tables of img2dataset, which have the
sizes."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

from bucketline_service.scan.image_headers import BadImageError, as_size, read_size
from bucketline_service.scan.scan_files import (
    EXTENSIONS,
    FileResult,
    IdStyle,
    ImageRow,
    ScanFile,
    key_id,
)
from bucketline_service.scan.storage import error_text, is_utf8, shown

_TABLE_COLUMNS = ["key", "status", "width", "height"]


def tar_rows(file: IO[bytes], unit: ScanFile, ids: IdStyle, exif: bool) -> FileResult:
    """The images of a tar, whatever its compression. What stands before the place where it is broken is kept."""
    rows: dict[str, ImageRow] = {}
    reason = None
    try:
        with tarfile.open(fileobj=file, mode="r:*") as tar:
            for member in _members(tar):
                if (row := _tar_row(tar, member, unit.place, ids, exif)) is not None:
                    # a member that was appended again is the one that counts, as for tar
                    rows[row.member] = row
            reason = _broken_at(tar)
    except tarfile.TarError as exc:
        reason = f"it is no tar that can be read to its end: {exc}"
    except (EOFError, zlib.error):
        reason = "it is cut short"
    return FileResult(unit.unit, list(rows.values()), reason)


def _broken_at(tar: tarfile.TarFile) -> str | None:
    """tarfile takes a header that is cut or no header at all for the end, as if it were the block of zeros."""
    stream: Any = tar.fileobj
    stream.seek(tar.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    return (
        f"it is broken at byte {tar.offset:,}: what follows is not in the map" if block.strip(b"\0") else None
    )


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        # tarfile keeps all that it has seen
        tar.__dict__["members"] = []
        yield member


def _tar_row(
    tar: tarfile.TarFile, member: tarfile.TarInfo, place: str, ids: IdStyle, exif: bool
) -> ImageRow | None:
    folder, slash, name = member.name.rpartition("/")
    stem, _, extension = name.partition(".")
    if extension.lower() not in EXTENSIONS or not member.isreg() or not stem:
        return None
    if not is_utf8(member.name):
        return ImageRow(shown(member.name), None, None, None, "its name is not UTF-8")
    image_id = key_id(ids, place, f"{folder}{slash}{stem}")
    content = tar.extractfile(member)
    assert content is not None
    with content:
        return sized(content, member.name, image_id, exif)


def sized(file: IO[bytes], member: str, image_id: str | None, exif: bool) -> ImageRow:
    try:
        return ImageRow(member, image_id, *read_size(file, exif=exif), None)
    except BadImageError as exc:
        return ImageRow(member, image_id, None, None, str(exc))


def is_img2dataset(names: list[str]) -> bool:
    return all(name in names for name in _TABLE_COLUMNS)


def table_rows(file: IO[bytes], unit: ScanFile, ids: IdStyle) -> FileResult:
    """img2dataset's sizes: those of the images as it has stored them. What it could not download has no row."""
    import pyarrow as pa
    from pyarrow import parquet

    rows: list[ImageRow] = []
    try:
        table = parquet.ParquetFile(file)
        for batch in table.iter_batches(columns=_TABLE_COLUMNS):
            rows += [row for each in batch.to_pylist() if (row := _table_row(each, unit.place, ids))]
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise
        reason = f"no column {exc}" if isinstance(exc, KeyError) else " ".join(str(exc).split())
        return FileResult(unit.unit, [], f"it is no Parquet file that can be read: {reason}")
    return FileResult(unit.unit, rows)


def _table_row(row: dict[str, Any], place: str, ids: IdStyle) -> ImageRow | None:
    if row["status"] != "success":
        return None
    key, width, height = str(row["key"]), row["width"], row["height"]
    image_id = key_id(ids, place.removesuffix(".parquet"), key)
    if not width or not height:
        return ImageRow(
            key, image_id, None, None, "img2dataset did not note its size; --open-all opens the image"
        )
    try:
        return ImageRow(key, image_id, *as_size(int(width), int(height)), None)
    except BadImageError as exc:
        return ImageRow(key, image_id, None, None, str(exc))


def unreadable(unit: ScanFile, error: OSError) -> FileResult:
    return FileResult(unit.unit, [], error_text(error), again=True)
