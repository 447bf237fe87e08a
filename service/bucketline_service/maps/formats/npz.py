"""Reads ``.npz``: one-dimensional arrays of equal length, as a stream, and never unpickled."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa

from bucketline_service.errors import Invalid
from bucketline_service.maps.column_names import RequestedColumns, ResolvedColumns, resolve
from bucketline_service.maps.file_source import CHUNK_ROWS, MAX_ID_BYTES, FileSource, RowChunk, broken

_MAX_ITEM_BYTES = 4 * MAX_ID_BYTES  # numpy stores a character in four bytes
_CHUNK_BYTES = 1 << 26
_MAX_HEADER_BYTES = 10_000
"""Limit of an array's header. numpy has the same one, but only checks it after reading; real headers take 120 bytes."""
_MAX_DIRECTORY_BYTES = 1 << 20
"""Limit of the archive's directory, which is read into memory: about 10,000 arrays."""
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # numpy writes no others
_HINT = "Save it as np.savez(path, id=…, width=…, height=…)"


class _Member(NamedTuple):
    """An array of the archive, with ``file`` at the beginning of its data."""

    name: str
    file: IO[bytes]
    dtype: np.dtype[Any]
    num_rows: int


def read_npz(path: Path, columns: RequestedColumns, stack: ExitStack) -> FileSource:
    _check_directory(path)
    archive = stack.enter_context(zipfile.ZipFile(path))
    suffix = ".npy"
    available = [name.removesuffix(suffix) for name in archive.namelist() if name.endswith(suffix)]
    names = resolve(columns, available)
    members = {name: _open(archive.getinfo(name + suffix), archive, name, stack) for name in names.all()}
    num_rows = members[names.id].num_rows
    for member in members.values():
        if member.num_rows != num_rows:
            detail = f"must have {num_rows:,} values like {names.id}, got {member.num_rows:,}"
            raise Invalid(member.name, detail)
    return FileSource(names, _chunks(names, members, num_rows))


def _check_directory(path: Path) -> None:
    with path.open("rb") as file:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end and end[zipfile._ECD_SIZE] > _MAX_DIRECTORY_BYTES:  # type: ignore[attr-defined]
        raise broken("npz", f"its directory is larger than {_MAX_DIRECTORY_BYTES:,} bytes")


def _open(info: zipfile.ZipInfo, archive: zipfile.ZipFile, name: str, stack: ExitStack) -> _Member:
    if info.compress_type not in _COMPRESSIONS:
        raise broken("npz", f"array {name!r} has a compression that numpy does not write")
    file = stack.enter_context(archive.open(info))
    shape, dtype = _header(name, file)
    if dtype.kind not in "biufUS":
        raise Invalid(
            name,
            f"must be an array of numbers or strings, got {dtype}",
            "Arrays of Python objects are never read",
        )
    if dtype.kind in "US" and dtype.itemsize == 0:
        raise Invalid(name, "row 1: must not be empty, got an array of empty strings", _HINT, row=1)
    if dtype.itemsize > _MAX_ITEM_BYTES:
        raise Invalid(
            name,
            f"must be narrower than {_MAX_ITEM_BYTES:,} bytes, got {dtype}",
            f"Ids have at most {MAX_ID_BYTES:,} bytes",
        )
    if len(shape) != 1:
        raise Invalid(name, f"must have one dimension, got the shape {shape}", _HINT)
    if shape[0] < 0:
        raise broken("npz", f"array {name!r} has the shape {shape}")
    return _Member(name, file, dtype, int(shape[0]))


def _header(name: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and dtype of an array; errors name the array."""
    try:
        version = np.lib.format.read_magic(file)
        length = file.read(2 if version == (1, 0) else 4)
        num_bytes = int.from_bytes(length, "little")
        if num_bytes > _MAX_HEADER_BYTES:
            raise ValueError(f"a header of {num_bytes:,} bytes")
        header = io.BytesIO(length + file.read(num_bytes))
        read = (
            np.lib.format.read_array_header_1_0 if len(length) == 2 else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(header)
    except Exception as exc:  # numpy evaluates the header as Python, which may raise anything
        reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        raise broken("npz", f"array {name!r}: {reason}") from exc
    return shape, dtype


def _chunks(names: ResolvedColumns, members: dict[str, _Member], num_rows: int) -> Iterator[RowChunk]:
    widest = max(member.dtype.itemsize for member in members.values())
    step = min(CHUNK_ROWS, _CHUNK_BYTES // widest)
    for start in range(0, num_rows, step):
        count = min(step, num_rows - start)
        parts = {name: _read(member, count) for name, member in members.items()}
        yield RowChunk.of(names, parts.__getitem__)


def _read(member: _Member, count: int) -> Any:
    size = count * member.dtype.itemsize
    data = member.file.read(size)
    if len(data) < size:
        raise broken("npz", f"array {member.name!r} ends early")
    values = np.frombuffer(data, member.dtype)
    return pa.array(values.astype(member.dtype.newbyteorder("=")))
