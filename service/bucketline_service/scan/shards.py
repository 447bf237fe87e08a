"""Reads files of many images: tar shards, from the header of each image, and img2dataset's tables, which have the
sizes."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

from bucketline_service.scan.image_headers import BadImageError, as_size, read_size
from bucketline_service.scan.scan_files import EXTENSIONS, FileResult, IdStyle, ImageRow, ScanFile, key_id
from bucketline_service.scan.storage import error_text, is_utf8, printable

_TABLE_COLUMNS = ["key", "status", "width", "height"]


def read_tar(file: IO[bytes], scan_file: ScanFile, ids: IdStyle, exif: bool) -> FileResult:
    """The images of a tar with any compression. Of a damaged tar, the images before the damage are kept."""
    rows: dict[str, ImageRow] = {}
    reason = None
    try:
        with tarfile.open(fileobj=file, mode="r:*") as tar:
            for member in _members(tar):
                if (row := _tar_row(tar, member, scan_file.location, ids, exif)) is not None:
                    # a later member of the same name replaces the earlier one, as in tar
                    rows[row.member] = row
            reason = _broken_at(tar)
    except tarfile.TarError as exc:
        reason = f"it cannot be read to its end as a tar: {exc}"
    except (EOFError, zlib.error):
        reason = "it is truncated"
    return FileResult(scan_file.number, list(rows.values()), reason)


def _broken_at(tar: tarfile.TarFile) -> str | None:
    """Why a tar is damaged after its last member. tarfile takes a damaged header for the end, like a block of zeros."""
    stream: Any = tar.fileobj
    stream.seek(tar.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    return (
        f"it is damaged at byte {tar.offset:,}: images after it are not in the map"
        if block.strip(b"\0")
        else None
    )


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        # tarfile would keep all members in memory
        tar.__dict__["members"] = []
        yield member


def _tar_row(
    tar: tarfile.TarFile, member: tarfile.TarInfo, location: str, ids: IdStyle, exif: bool
) -> ImageRow | None:
    folder, slash, name = member.name.rpartition("/")
    stem, _, extension = name.partition(".")
    if extension.lower() not in EXTENSIONS or not member.isreg() or not stem:
        return None
    if not is_utf8(member.name):
        return ImageRow(printable(member.name), None, None, None, "its name is not UTF-8")
    image_id = key_id(ids, location, f"{folder}{slash}{stem}")
    content = tar.extractfile(member)
    assert content is not None
    with content:
        return size_row(content, member.name, image_id, exif)


def size_row(file: IO[bytes], member: str, image_id: str | None, exif: bool) -> ImageRow:
    try:
        return ImageRow(member, image_id, *read_size(file, exif=exif), None)
    except BadImageError as exc:
        return ImageRow(member, image_id, None, None, str(exc))


def is_img2dataset(names: list[str]) -> bool:
    return all(name in names for name in _TABLE_COLUMNS)


def read_table(file: IO[bytes], scan_file: ScanFile, ids: IdStyle) -> FileResult:
    """The sizes of images as img2dataset has stored them. Images that it could not download are left out."""
    import pyarrow as pa
    from pyarrow import parquet

    rows: list[ImageRow] = []
    try:
        table = parquet.ParquetFile(file)
        for batch in table.iter_batches(columns=_TABLE_COLUMNS):
            rows += [row for each in batch.to_pylist() if (row := _table_row(each, scan_file.location, ids))]
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise
        reason = f"no column {exc}" if isinstance(exc, KeyError) else " ".join(str(exc).split())
        return FileResult(scan_file.number, [], f"it cannot be read as Parquet: {reason}")
    return FileResult(scan_file.number, rows)


def _table_row(row: dict[str, Any], location: str, ids: IdStyle) -> ImageRow | None:
    if row["status"] != "success":
        return None
    key, width, height = str(row["key"]), row["width"], row["height"]
    image_id = key_id(ids, location.removesuffix(".parquet"), key)
    if not width or not height:
        return ImageRow(
            key, image_id, None, None, "img2dataset did not record its size; --open-all opens the image"
        )
    try:
        return ImageRow(key, image_id, *as_size(int(width), int(height)), None)
    except BadImageError as exc:
        return ImageRow(key, image_id, None, None, str(exc))


def unreadable(scan_file: ScanFile, error: OSError) -> FileResult:
    return FileResult(scan_file.number, [], error_text(error), again=True)
