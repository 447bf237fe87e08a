"""Reads an uploaded file, checks all of it, and writes the object file of the map, all in one staging directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bucketline_service.atomic_files import synced
from bucketline_service.errors import Invalid, TooLarge
from bucketline_service.maps import lazy_compute as pc
from bucketline_service.maps.archives import naming, sources
from bucketline_service.maps.column_names import RequestedColumns, ResolvedColumns
from bucketline_service.maps.column_writers import OptionalColumnWriters
from bucketline_service.maps.decompression_limits import check_unpacked
from bucketline_service.maps.digest import content_digest
from bucketline_service.maps.file_source import FileSource, RowChunk, broken, reading
from bucketline_service.maps.formats import MapFormat
from bucketline_service.maps.id_column import ID_HINT, as_int_ids, check_ids, duplicate_row
from bucketline_service.maps.numeric_columns import check_sides, plain
from bucketline_service.maps.optional_columns import OPTIONAL, summarise, upright
from bucketline_service.maps.resolution_map import schema
from bucketline_service.maps.row_places import RowPlaces
from bucketline_service.maps.sidecar import write_sidecar
from bucketline_service.maps.size_histogram import SizeHistogram
from bucketline_service.maps.spool import IdKind, Spool

MAX_IMAGES = 2**32 - 1
"""Rows are stored as uint32 in the order of ids."""


class CheckedMap(NamedTuple):
    """A map that has passed all checks: an array for each column, memory-mapped from the staging directory. ``names``:
    the columns that were read, from the last part where there are several."""

    digest: str
    ids: Any
    widths: Any
    heights: Any
    by_id: NDArray[np.uint32]
    histogram: dict[str, Any]
    optional: dict[str, Any]
    names: ResolvedColumns
    num_skipped: int


def read_checked(
    path: Path,
    format: MapFormat,
    columns: RequestedColumns,
    directory: Path,
    max_images: int,
    stack: ExitStack,
) -> CheckedMap:
    """Read, check and digest ``path``; ``Invalid`` names the row that is wrong. Columns are written to
    ``directory``."""
    with reading(path, format.name):
        packed_bytes = path.stat().st_size
    if packed_bytes == 0:
        raise Invalid("file", "is empty", "A map needs at least one image")
    builder = _MapBuilder(Spool(directory, stack), columns.skip_missing_sizes)
    found = sources(path, format, columns, directory)
    while True:
        with reading(path, format.name):
            each = next(found, None)
        if each is None:
            return builder.checked()
        source, kind = each
        with naming(source.part):
            for chunk in _chunks(source, path, kind):
                try:
                    builder.append(source, chunk)
                except pa.ArrowException as exc:  # a value that Arrow cannot convert
                    raise broken(kind.name, str(exc).splitlines()[0][:300]) from exc
                check_unpacked("the map", builder.spool.num_bytes, packed_bytes)
                if builder.spool.num_images > max_images:
                    raise TooLarge(f"a map must have at most {max_images:,} images", limit=max_images)


def _chunks(source: FileSource, path: Path, format: MapFormat) -> Iterator[RowChunk]:
    """The chunks of a source; errors of the parser become ``Invalid``."""
    chunks = iter(source.chunks)
    while True:
        with reading(path, format.name):
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


class _MapBuilder:
    """The columns of a map while it is read."""

    def __init__(self, spool: Spool, skip_missing_sizes: bool) -> None:
        self.spool = spool
        self._skip = skip_missing_sizes
        self._rows = RowPlaces()
        self._optional = OptionalColumnWriters(spool)
        self._histogram = SizeHistogram()
        self._source: FileSource | None = None
        self._num_read = 0

    def append(self, source: FileSource, chunk: RowChunk) -> None:
        """Check and append the next rows of ``source``."""
        if source is not self._source:
            self._source, self._num_read = source, 0
        first_row, self._num_read = self._num_read, self._num_read + len(chunk.ids)
        row = self._rows.num_kept
        source, chunk = self._rows.add(source, first_row, chunk, skip=self._skip)
        if not len(chunk.ids):
            return
        widths = check_sides(source, source.names.width, chunk.widths, row)
        heights = check_sides(source, source.names.height, chunk.heights, row)
        optional = {
            kind: OPTIONAL[kind].check(source, name, array, row)
            for kind, (name, array) in chunk.optional.items()
        }
        if "orientation" in optional:
            widths, heights = upright(widths, heights, optional.pop("orientation"))
        self._append_ids(source, check_ids(source, source.names.id, chunk.ids, row), row)
        self.spool.append_sizes(widths, heights)
        self._histogram.add(widths, heights)
        for kind, values in optional.items():
            self._optional.add(kind, values, row, partial(_row_error, source, *chunk.optional[kind], row))

    def _append_ids(self, source: FileSource, ids: Any, row: int) -> None:
        """Ids of text are integers if all of them are; in other formats the first id decides for all parts of a map."""
        spool = self.spool
        numbers = as_int_ids(ids) if source.is_text and spool.id_kind != "string" else None
        ids = ids if numbers is None else numbers
        kind = "int64" if pa.types.is_int64(ids.type) else "string"
        if spool.id_kind not in (None, kind):
            if not source.is_text:
                before = "an integer" if spool.id_kind == "int64" else "a string"
                detail = f"must be {before} like the ids before it, got {{}}"
                raise source.row_error(source.names.id, row, detail, ids[0].as_py(), ID_HINT)
            if kind == "string":
                spool.make_ids_strings()
        spool.append_ids(ids)

    def checked(self) -> CheckedMap:
        """The whole map; ``Invalid`` for a duplicate id."""
        spool = self.spool
        if not spool.num_images:
            skipped = self._rows.num_skipped
            of = f" with a size; {skipped:,} without were left out" if skipped else ""
            raise Invalid("file", f"has no rows{of}", "A map needs at least one image")
        ids = spool.ids()
        widths, heights = (spool.column(name, pa.uint32()) for name in ("widths", "heights"))
        by_id = _sorted_rows(ids)
        duplicate = duplicate_row(ids, by_id)
        if duplicate is not None:
            raise self._rows.duplicate_error(ids, *duplicate)
        optional = self._optional.finish(spool.num_images)
        digest = content_digest(ids, widths.to_numpy(), heights.to_numpy(), optional)
        histogram = self._histogram.as_json()
        assert self._source is not None
        names, num_skipped = self._source.names, self._rows.num_skipped
        return CheckedMap(digest, ids, widths, heights, by_id, histogram, optional, names, num_skipped)


def _row_error(
    source: FileSource, name: str, array: Any, first_row: int, row: int, detail: str, hint: str
) -> Invalid:
    """The error for a row of the chunk that begins with ``first_row``."""
    return source.row_error(name, first_row + row, detail, plain(array)[row].as_py(), hint)


def _sorted_rows(ids: Any) -> NDArray[np.uint32]:
    """The rows in the order of their ids (strings by their bytes); equal ids remain in file order."""
    num = len(ids)
    if num < 2 or pc.all(pc.less_equal(ids.slice(0, num - 1), ids.slice(1))).as_py():
        return np.arange(num, dtype=np.uint32)
    if pa.types.is_int64(ids.type):
        return np.argsort(ids.to_numpy(), kind="stable").astype(np.uint32)
    rows: NDArray[np.uint32] = pc.array_sort_indices(ids).to_numpy().astype(np.uint32)
    return rows


def write_object(checked: CheckedMap, path: Path) -> None:
    """Write the object file at ``path`` and its sidecar, both synced to disk."""
    columns = [checked.ids, checked.widths, checked.heights, pa.array(checked.by_id)]
    columns += checked.optional.values()
    batch = pa.RecordBatch.from_arrays(columns, schema=schema(checked.ids.type, checked.optional))
    with synced(path) as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    id_kind: IdKind = "int64" if pa.types.is_int64(checked.ids.type) else "string"
    summaries = summarise(checked.optional)
    write_sidecar(path, checked.digest, len(checked.ids), id_kind, checked.histogram, summaries)
