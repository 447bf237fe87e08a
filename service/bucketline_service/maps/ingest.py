"""From a file that somebody sent to an object file that is ready to be moved into place. All in one staging
directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bucketline_service.errors import Invalid, TooLarge
from bucketline_service.maps import lazy_compute as pc
from bucketline_service.maps.archives import naming, sources
from bucketline_service.maps.column_names import RequestedColumns, ResolvedColumns
from bucketline_service.maps.column_writers import OptionalColumnWriters, WrittenColumn
from bucketline_service.maps.decompression_limits import check_unpacked
from bucketline_service.maps.digest import content_digest
from bucketline_service.maps.file_source import FileSource, RowChunk, broken, reading
from bucketline_service.maps.formats import MapFormat
from bucketline_service.maps.id_column import as_int_ids, check_ids, check_sides, duplicate_row
from bucketline_service.maps.numeric_columns import plain
from bucketline_service.maps.optional_columns import OPTIONAL, upright
from bucketline_service.maps.resolution_map import schema
from bucketline_service.maps.row_places import RowPlaces
from bucketline_service.maps.sidecar import write_sidecar
from bucketline_service.maps.size_histogram import SizeHistogram
from bucketline_service.maps.spool import IdKind, Spool

MAX_IMAGES = 2**32 - 1
"""Rows are kept as uint32 where they are sorted by id."""


class CheckedMap(NamedTuple):
    """A whole file that has passed: one array a column, over the staging directory's memory map. ``names``: the columns
    that were read, of the last part where there are several."""

    digest: str
    ids: Any
    widths: Any
    heights: Any
    by_id: NDArray[np.uint32]
    histogram: dict[str, Any]
    optional: dict[str, WrittenColumn]
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
    """Read, check and digest ``path``; ``Invalid`` says which row is wrong. Columns are spooled to
    ``directory``."""
    with reading(path, format.name):
        packed_bytes = path.stat().st_size
    if packed_bytes == 0:
        raise Invalid("file", "is empty", "A map needs at least one image")
    coming = _MapBuilder(Spool(directory, stack), columns.skip_missing_sizes)
    found = sources(path, format, columns, directory)
    while True:
        with reading(path, format.name):
            each = next(found, None)
        if each is None:
            return coming.checked()
        source, kind = each
        with naming(source.part):
            for chunk in _chunks(source, path, kind):
                try:
                    coming.append(source, chunk)
                except pa.ArrowException as exc:  # values that it cannot hold or convert
                    raise broken(kind.name, str(exc).splitlines()[0][:300]) from exc
                check_unpacked("the map", coming.staging.num_bytes, packed_bytes)
                if coming.staging.num_images > max_images:
                    raise TooLarge(f"the map has more than {max_images:,} images", limit=max_images)


def _chunks(source: FileSource, path: Path, format: MapFormat) -> Iterator[RowChunk]:
    """What its parser says of a bad file becomes ``Invalid``."""
    chunks = iter(source.chunks)
    while True:
        with reading(path, format.name):
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


class _MapBuilder:
    """The columns of a map that is being read."""

    def __init__(self, staging: Spool, skip_missing_sizes: bool) -> None:
        self.staging = staging
        self._skip = skip_missing_sizes
        self._rows = RowPlaces()
        self._optional = OptionalColumnWriters(staging)
        self._histogram = SizeHistogram()
        self._source: FileSource | None = None
        self._num_read = 0

    def append(self, source: FileSource, chunk: RowChunk) -> None:
        """The next rows of ``source``, checked."""
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
        self.staging.append_sizes(widths, heights)
        self._histogram.add(widths, heights)
        for kind, values in optional.items():
            self._optional.add(kind, values, row, partial(_refuse, source, *chunk.optional[kind], row))

    def _append_ids(self, source: FileSource, ids: Any, row: int) -> None:
        """Text says by all of its ids which kind they are; other formats, and so all parts of a map, by the first."""
        staging = self.staging
        numbers = as_int_ids(ids) if source.is_text and staging.id_kind != "string" else None
        ids = ids if numbers is None else numbers
        kind = "int64" if pa.types.is_int64(ids.type) else "string"
        if staging.id_kind not in (None, kind):
            if not source.is_text:
                raise source.refuse(
                    source.names.id, row, f"{{}} is of another kind than the ids before, which are {staging.id_kind}",
                    ids[0].as_py(), "One kind of id in a map",
                )  # fmt: skip
            if kind == "string":
                staging.make_ids_strings()
        staging.append_ids(ids)

    def checked(self) -> CheckedMap:
        """All of it, where no id comes twice."""
        staging = self.staging
        if not staging.num_images:
            left = (
                f": {self._rows.num_skipped:,} are left out as they have no size"
                if self._rows.num_skipped
                else ""
            )
            raise Invalid("file", f"has no rows{left}", "A map needs at least one image")
        ids = staging.ids()
        widths, heights = (staging.column(name, pa.uint32()) for name in ("widths", "heights"))
        by_id = _sorted_rows(ids)
        twice = duplicate_row(ids, by_id)
        if twice is not None:
            raise self._rows.refuse_duplicate(ids, *twice)
        optional = self._optional.finish(staging.num_images)
        arrays = {kind: each.array for kind, each in optional.items()}
        digest = content_digest(ids, widths.to_numpy(), heights.to_numpy(), arrays)
        histogram = self._histogram.as_json()
        assert self._source is not None
        return CheckedMap(
            digest,
            ids,
            widths,
            heights,
            by_id,
            histogram,
            optional,
            self._source.names,
            self._rows.num_skipped,
        )


def _refuse(
    source: FileSource, name: str, array: Any, first_row: int, row: int, detail: str, hint: str
) -> Invalid:
    """For a row of a chunk that begins with ``first_row``."""
    return source.refuse(name, first_row + row, detail, plain(array)[row].as_py(), hint)


def _sorted_rows(ids: Any) -> NDArray[np.uint32]:
    """Rows in the order of their ids (strings by their bytes), equal ids in file order."""
    num = len(ids)
    if num < 2 or pc.all(pc.less_equal(ids.slice(0, num - 1), ids.slice(1))).as_py():
        return np.arange(num, dtype=np.uint32)
    if pa.types.is_int64(ids.type):
        return np.argsort(ids.to_numpy(), kind="stable").astype(np.uint32)
    rows: NDArray[np.uint32] = pc.array_sort_indices(ids).to_numpy().astype(np.uint32)
    return rows


def write_object(checked: CheckedMap, path: Path) -> None:
    """The object file at ``path`` and its sidecar, both on the disk when this returns."""
    columns = [checked.ids, checked.widths, checked.heights, pa.array(checked.by_id)]
    columns += [each.array for each in checked.optional.values()]
    batch = pa.RecordBatch.from_arrays(columns, schema=schema(checked.ids.type, checked.optional))
    with path.open("wb") as file:
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        file.flush()
        os.fsync(file.fileno())
    id_kind: IdKind = "int64" if pa.types.is_int64(checked.ids.type) else "string"
    optional = {kind: each.summary for kind, each in checked.optional.items()}
    write_sidecar(path, checked.digest, len(checked.ids), id_kind, checked.histogram, optional)
