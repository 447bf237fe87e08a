"""Reads Parquet, Arrow streams and Arrow files (Feather)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bucketline_service.maps.column_names import RequestedColumns, ResolvedColumns, resolve
from bucketline_service.maps.decompression_limits import check_arrow_file, check_arrow_stream, check_parquet
from bucketline_service.maps.file_source import CHUNK_ROWS, FileSource, RowChunk, broken

_FILE_MAGIC = b"ARROW1"
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def read_parquet(path: Path, columns: RequestedColumns, stack: ExitStack) -> FileSource:
    file = stack.enter_context(pq.ParquetFile(str(path)))
    names = resolve(columns, file.schema_arrow.names)
    check_parquet(file, path.stat().st_size)
    batches = file.iter_batches(batch_size=CHUNK_ROWS, columns=names.all(), use_threads=False)
    return FileSource(names, _chunks(batches, names))


def read_arrow(path: Path, columns: RequestedColumns, stack: ExitStack) -> FileSource:
    file = stack.enter_context(pa.OSFile(str(path)))
    if file.read(len(_FILE_MAGIC)) == _FILE_MAGIC:
        check_arrow_file(path)
        reader = stack.enter_context(pa.ipc.open_file(file))
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        _check_end_of_stream(file)
        check_arrow_stream(path)
        reader = stack.enter_context(pa.ipc.open_stream(file))
        batches = iter(reader)
    names = resolve(columns, reader.schema.names)
    return FileSource(names, _chunks(_validated(batches, names), names))


def _check_end_of_stream(file: Any) -> None:
    """A stream that was cut between two batches looks complete except for the end mark, which every writer in use
    sets."""
    file.seek(max(0, file.size() - len(_END_OF_STREAM)))
    if file.read() != _END_OF_STREAM:
        raise broken("arrow", "the stream has no end mark")
    file.seek(0)


def _validated(batches: Iterator[Any], names: ResolvedColumns) -> Iterator[Any]:
    """Arrow does not check offsets and indices on reading, and following invalid ones crashes the process."""
    for batch in batches:
        batch = batch.select(names.all())
        batch.validate(full=True)
        yield batch


def _chunks(batches: Iterator[Any], names: ResolvedColumns) -> Iterator[RowChunk]:
    for batch in batches:
        for start in range(0, batch.num_rows, CHUNK_ROWS):
            part = batch.slice(start, CHUNK_ROWS)
            yield RowChunk.of(names, part.column)
