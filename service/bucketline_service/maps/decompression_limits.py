"""Limits of decompression: the size a file declares is checked before anything is decompressed, and a reader's memory
is limited, so that a few kB cannot cost gigabytes."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from bucketline_service.errors import TooLarge

MAX_RATIO = 100
"""Largest ratio of decompression. Ids are distinct, so that real maps compress less than tenfold."""

ALWAYS_BYTES = 1 << 28
"""What a file of any size may decompress to."""

ROW_BYTES = 16
"""An id, a width and a height, as they are stored."""

MEMORY_BYTES = 1 << 31
MEMORY_RATIO = 20
"""Memory of a reader: a constant, and so many bytes for each byte of the file. A row compressed to a byte takes 17."""

_DICTIONARY = 2
_FOOTER_END = struct.Struct("<i6s")


def limit_memory(packed_bytes: int) -> None:
    """Limit this process, which reads a file of that size. Memory-mapped files do not count. Linux only."""
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = MEMORY_BYTES + MEMORY_RATIO * packed_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def check_unpacked(what: str, num_bytes: int, packed_bytes: int) -> None:
    """``TooLarge`` where ``num_bytes``, the size of ``what`` decompressed, is out of proportion to the compressed
    size."""
    limit = max(ALWAYS_BYTES, MAX_RATIO * packed_bytes)
    if num_bytes > limit:
        raise TooLarge(
            f"{what} must decompress to at most {limit:,} bytes ({MAX_RATIO} times the size of the file, or "
            f"{ALWAYS_BYTES:,} if that is more), got {num_bytes:,}. Send it less compressed, or in another format",
            limit_bytes=limit,
        )


def check_parquet(file: Any, packed_bytes: int) -> None:
    """Check each row group, including columns that are not read, by the footer. The sizes of single columns are not
    used, since for a damaged footer ``row_group(0).column(0)`` crashes the process where pyarrow's readers raise."""
    about = file.metadata
    check_unpacked("the map", about.num_rows * ROW_BYTES, packed_bytes)
    for group in range(about.num_row_groups):
        check_unpacked(f"row group {group}", about.row_group(group).total_byte_size, packed_bytes)


def check_arrow_stream(path: Path) -> None:
    """Check each batch of a stream. The length of each compressed buffer precedes it, and Arrow allocates that much."""
    with pa.OSFile(str(path)) as file:
        for number, message in enumerate(pa.ipc.MessageReader.open_stream(file)):
            _check_message(number, message)


def check_arrow_file(path: Path) -> None:
    """Check each batch of a file. They are found by the footer, as readers do: the files of polars are not valid
    streams."""
    with pa.OSFile(str(path)) as file:
        for number, offset in enumerate(_blocks(file), 1):
            file.seek(offset)
            _check_message(number, pa.ipc.read_message(file))


def _blocks(file: Any) -> list[int]:
    """The offsets of the dictionaries and batches of an Arrow file, which ends with the footer, its length and a
    magic."""
    file.seek(max(0, file.size() - _FOOTER_END.size))
    length, magic = _FOOTER_END.unpack(file.read())
    start = file.size() - _FOOTER_END.size - length
    if magic != b"ARROW1" or not 0 < length <= MEMORY_BYTES or start < 0:
        raise struct.error("the footer is missing")
    file.seek(start)
    footer = memoryview(file.read(length))
    offsets: list[int] = []
    for slot in (2, 3):  # dictionaries, batches: structs of 24 bytes, the offset first
        at = _field(footer, _follow(footer, 0), slot)
        if at:
            blocks = _follow(footer, at)
            count = _number("<I", footer, blocks)
            offsets += (_number("<q", footer, blocks + 4 + 24 * index) for index in range(count))
    return offsets


def _check_message(number: int, message: Any) -> None:
    if message.type in ("record batch", "dictionary"):
        body = memoryview(message.body)
        num_bytes = _declared(memoryview(message.metadata), body)
        check_unpacked(f"batch {number}", num_bytes, len(body))


def _declared(metadata: memoryview, body: memoryview) -> int:
    """The total length of a batch's buffers, decompressed."""
    message = _follow(metadata, 0)
    batch = _follow(metadata, _field(metadata, message, 2))
    if _number("<B", metadata, _field(metadata, message, 1)) == _DICTIONARY:
        batch = _follow(metadata, _field(metadata, batch, 1))
    if not _field(metadata, batch, 2) or not _field(metadata, batch, 3):
        return len(body)  # without buffers, or without compression
    buffers = _follow(metadata, _field(metadata, batch, 2))
    total = 0
    for index in range(_number("<I", metadata, buffers)):
        at, length = struct.unpack_from("<qq", metadata, buffers + 4 + 16 * index)
        if length >= 8 and 0 <= at <= len(body) - 8:
            total += max(length - 8, _number("<q", body, at))
    return total


def _field(data: memoryview, table: int, slot: int) -> int:
    """The position of a field of a flatbuffers table, found through the table's vtable; 0 where it is absent."""
    offsets = table - _number("<i", data, table)
    place = 4 + 2 * slot
    found = _number("<H", data, offsets + place) if place < _number("<H", data, offsets) else 0
    return table + found if found else 0


def _follow(data: memoryview, at: int) -> int:
    return at + _number("<I", data, at)


def _number(kind: str, data: memoryview, at: int) -> int:
    if at < 0:
        raise struct.error("an offset points outside the message")
    found: int = struct.unpack_from(kind, data, at)[0]
    return found
