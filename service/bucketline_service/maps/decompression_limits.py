"""What a file says it unpacks to, before any of it is unpacked, and what a reader may take of memory: a few kB must not
cost gigabytes."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from bucketline_service.errors import TooLarge

MAX_RATIO = 100
"""Ids are all different, so that maps pack less than tenfold; sizes that are all the same pack to nothing."""

ALWAYS_BYTES = 1 << 28
"""What any file may unpack to, however small it is."""

ROW_BYTES = 16
"""An id, a width and a height, as they are kept."""

MEMORY_BYTES = 1 << 31
MEMORY_RATIO = 20
"""What reading may take of memory, and of it for each byte of the file. A row that packs to a byte takes 17 of them."""

_DICTIONARY = 2
_FOOTER_END = struct.Struct("<i6s")


def limit_memory(packed_bytes: int) -> None:
    """Of this process, which reads a file of that size. Files that are mapped do not count; only Linux counts so."""
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = MEMORY_BYTES + MEMORY_RATIO * packed_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def check_unpacked(what: str, num_bytes: int, packed_bytes: int) -> None:
    """``TooLarge`` where ``num_bytes`` is out of all proportion to what they are packed in."""
    limit = max(ALWAYS_BYTES, MAX_RATIO * packed_bytes)
    if num_bytes > limit:
        raise TooLarge(
            f"{what} unpacks to {num_bytes:,} bytes, of a file of which {limit:,} are taken: a file may unpack to "
            f"{MAX_RATIO} times its size, or to {ALWAYS_BYTES:,} bytes. Send it less compressed, or in another format",
            limit_bytes=limit,
        )


def check_parquet(file: Any, packed_bytes: int) -> None:
    """By the file's own footer: of each row group, with the columns that nobody reads. The columns' own sizes are not
    looked at: on a damaged footer pyarrow ends the process in ``row_group(0).column(0)``, where its readers raise."""
    about = file.metadata
    check_unpacked("the map", about.num_rows * ROW_BYTES, packed_bytes)
    for group in range(about.num_row_groups):
        check_unpacked(f"row group {group}", about.row_group(group).total_byte_size, packed_bytes)


def check_arrow_stream(path: Path) -> None:
    """Of each batch of the stream. The lengths of compressed buffers stand before each of them, and arrow believes
    them."""
    with pa.OSFile(str(path)) as file:
        for number, message in enumerate(pa.ipc.MessageReader.open_stream(file)):
            _check_message(number, message)


def check_arrow_file(path: Path) -> None:
    """The same of a file. Its messages are found as readers find them, by its footer: polars writes files that are no
    stream within."""
    with pa.OSFile(str(path)) as file:
        for number, offset in enumerate(_blocks(file), 1):
            file.seek(offset)
            _check_message(number, pa.ipc.read_message(file))


def _blocks(file: Any) -> list[int]:
    """Where the dictionaries and batches of an arrow file begin. At its end: the footer, its length, and the magic."""
    file.seek(max(0, file.size() - _FOOTER_END.size))
    length, magic = _FOOTER_END.unpack(file.read())
    start = file.size() - _FOOTER_END.size - length
    if magic != b"ARROW1" or not 0 < length <= MEMORY_BYTES or start < 0:
        raise struct.error("it has no footer")
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
    """The sum of the lengths of a batch's buffers, unpacked."""
    message = _follow(metadata, 0)
    batch = _follow(metadata, _field(metadata, message, 2))
    if _number("<B", metadata, _field(metadata, message, 1)) == _DICTIONARY:
        batch = _follow(metadata, _field(metadata, batch, 1))
    if not _field(metadata, batch, 2) or not _field(metadata, batch, 3):
        return len(body)  # no buffers, or none that is packed
    buffers = _follow(metadata, _field(metadata, batch, 2))
    total = 0
    for index in range(_number("<I", metadata, buffers)):
        at, length = struct.unpack_from("<qq", metadata, buffers + 4 + 16 * index)
        if length >= 8 and 0 <= at <= len(body) - 8:
            total += max(length - 8, _number("<q", body, at))
    return total


def _field(data: memoryview, table: int, slot: int) -> int:
    """Where a field of a flatbuffers table stands; 0 for one that is not there. A table's fields are found by way of a
    table of their offsets."""
    offsets = table - _number("<i", data, table)
    place = 4 + 2 * slot
    found = _number("<H", data, offsets + place) if place < _number("<H", data, offsets) else 0
    return table + found if found else 0


def _follow(data: memoryview, at: int) -> int:
    return at + _number("<I", data, at)


def _number(kind: str, data: memoryview, at: int) -> int:
    if at < 0:
        raise struct.error("an offset leads out of the message")
    found: int = struct.unpack_from(kind, data, at)[0]
    return found
