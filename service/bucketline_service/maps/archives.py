"""Opens an uploaded file: text compressed with gzip, or the parts of a map in a tar.

Spark, pandas and others write a table as a folder of files. One upload has all of them as an uncompressed tar. Only
regular files are read from it, and no name from it is used as a path."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, NamedTuple

from bucketline_service.errors import BucketlineError, Invalid, TooLarge
from bucketline_service.maps.column_names import RequestedColumns
from bucketline_service.maps.decompression_limits import check_unpacked
from bucketline_service.maps.file_source import FileSource, broken, reading
from bucketline_service.maps.formats import MapFormat, format_for_suffix

_COPY_BYTES = 1 << 20
_PACKERS = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
_PASSED_OVER = (tarfile.DIRTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE)
"""Folders, and the extended headers of the pax format."""


def sources(
    path: Path, format: MapFormat, columns: RequestedColumns, directory: Path
) -> Iterator[tuple[FileSource, MapFormat]]:
    """A source for the file, or for each of its parts; each must be read to its end before the next. Archives are
    unpacked into ``directory``."""
    if format.read is not None:
        with ExitStack() as stack:
            yield _opened(path, format, columns, directory / "text", stack), format
        return
    first: MapFormat | None = None
    for number, part in enumerate(_parts(path, directory)):
        with ExitStack() as stack, naming(part.name):
            kind = _format_of(part.name)
            if kind is not (first := first or kind):
                raise Invalid(
                    "file",
                    f"must be {first.name} like the parts before it, got {kind.name}",
                    "All parts of a map have one format",
                )
            with reading(part.path, kind.name):
                source = _opened(part.path, kind, columns, directory / f"text-{number}", stack)
            yield replace(source, part=part.name), kind
    if first is None:
        raise Invalid("file", "the tar has no part of a map", "Its files must be Parquet, CSV or JSON lines")


@contextmanager
def naming(part: str | None) -> Iterator[None]:
    """Add the name of the part to errors."""
    try:
        yield
    except (Invalid, TooLarge) as error:
        if part is None or "part" in error.extra:
            raise
        raise _in_part(error, part) from error


def _in_part(error: BucketlineError, part: str) -> BucketlineError:
    extra = {**error.extra, "part": part}
    if isinstance(error, Invalid):
        field = extra.pop("field")
        return Invalid(field, f"{part}: {error.detail.removeprefix(f'{field}: ')}", **extra)
    return TooLarge(f"{part}: {error.detail}", **extra)


def _opened(
    path: Path, format: MapFormat, columns: RequestedColumns, unpacked: Path, stack: ExitStack
) -> FileSource:
    assert format.read is not None
    with path.open("rb") as file:
        start = file.read(8)
    for magic, name, command in _PACKERS:
        if start.startswith(magic):
            if name != "gzip" or not format.is_text:
                why = "" if format.is_text else f" ({format.name} has its own compression)"
                raise Invalid(
                    "file", f"must not be compressed with {name}{why}", f"Decompress it first: {command} FILE"
                )
            path = _gunzip(path, unpacked)
    return format.read(path, columns, stack)


def _gunzip(path: Path, target: Path) -> Path:
    packed_bytes = path.stat().st_size
    with gzip.open(path) as source, target.open("wb") as file:
        while block := source.read(_COPY_BYTES):
            file.write(block)
            check_unpacked("the file", file.tell(), packed_bytes)
    return target


class _TarMember(NamedTuple):
    name: str
    path: Path


def _parts(path: Path, directory: Path) -> Iterator[_TarMember]:
    """The files in a tar, except empty and hidden ones and those that begin with "_", such as Spark's ``_SUCCESS``."""
    with path.open("rb") as archive:
        number = 0
        while (head := archive.read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
            try:
                info = tarfile.TarInfo.frombuf(head, "utf-8", "backslashreplace")
            except tarfile.HeaderError as exc:
                raise broken("tar", str(exc)) from exc
            start = archive.tell()
            if info.size < 0 or info.type not in (*_FILES, *_PASSED_OVER):
                raise broken("tar", f"{info.name[:80]!r} is not a regular file")
            if info.type in _FILES and info.size and not _is_hidden(info.name):
                target = directory / f"part-{number}"
                _copy(archive, info.size, target)
                yield _TarMember(info.name, target)
                number += 1
            archive.seek(start + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)


def _is_hidden(path: str) -> bool:
    return any(name.startswith((".", "_")) for name in path.split("/") if name not in (".", ".."))


def _copy(archive: IO[bytes], num_bytes: int, target: Path) -> None:
    with target.open("wb") as file:
        while file.tell() < num_bytes:
            block = archive.read(min(_COPY_BYTES, num_bytes - file.tell()))
            if not block:
                raise broken("tar", "it ends early")
            file.write(block)


def _format_of(part: str) -> MapFormat:
    try:
        found = format_for_suffix(Path(part))
    except Invalid:
        found = None
    if found is None or found.read is None:
        raise Invalid(
            "file",
            "its name does not end like a map file",
            "The tar must consist of parts of a map. If it has images: bucketline scan FILE -o MAP.parquet",
        )
    return found
