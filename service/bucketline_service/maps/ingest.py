"""From a file that somebody sent to an object file that is ready to be moved into place. All in one staging
directory."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bucketline_service.errors import Invalid, TooLarge
from bucketline_service.maps import compute as pc
from bucketline_service.maps.bombs import check_unpacked
from bucketline_service.maps.checks import as_int_ids, check_ids, check_sides, duplicate_row, refuse_duplicate
from bucketline_service.maps.columns import Columns, Names
from bucketline_service.maps.digest import content_digest
from bucketline_service.maps.formats import Format
from bucketline_service.maps.histogram import Histogram
from bucketline_service.maps.incoming import Finished, IncomingColumns
from bucketline_service.maps.numeric import plain
from bucketline_service.maps.optional import OPTIONAL, upright
from bucketline_service.maps.resolution_map import schema
from bucketline_service.maps.sidecar import write_sidecar
from bucketline_service.maps.source import Chunk, Source, broken, reading
from bucketline_service.maps.staging import IdKind, Staging

MAX_IMAGES = 2**32 - 1
"""Rows are kept as uint32 where they are sorted by id."""


class Checked(NamedTuple):
    """A whole file that has passed: one array a column, over the staging directory's memory map."""

    digest: str
    ids: Any
    widths: Any
    heights: Any
    by_id: NDArray[np.uint32]
    histogram: dict[str, Any]
    optional: dict[str, Finished]
    names: Names


def read_checked(
    path: Path, format: Format, columns: Columns, directory: Path, max_images: int, stack: ExitStack
) -> Checked:
    """Read, check and digest ``path``; ``Invalid`` says which row is wrong. Columns are spooled to
    ``directory``."""
    with reading(path, format.name):
        packed_bytes = path.stat().st_size
        if packed_bytes == 0:
            raise Invalid("file", "is empty", "A map needs at least one image")
        source = format.read(path, columns, stack)
    staging = Staging(directory, stack)
    incoming = IncomingColumns(staging)
    histogram = Histogram()
    chunks = iter(source.chunks)
    while True:
        with reading(path, format.name):
            chunk = next(chunks, None)
        if chunk is None:
            break
        try:
            _append(source, chunk, staging, incoming, histogram)
        except pa.ArrowException as exc:  # values that it can not hold or convert
            raise broken(format.name, str(exc).splitlines()[0][:300]) from exc
        check_unpacked("the map", staging.num_bytes, packed_bytes)
        if staging.num_images > max_images:
            raise TooLarge(f"the map has more than {max_images:,} images", limit=max_images)
    if not staging.num_images:
        raise Invalid("file", "has no rows", "A map needs at least one image")
    return _checked(source, staging, incoming, histogram)


def _append(
    source: Source, chunk: Chunk, staging: Staging, incoming: IncomingColumns, histogram: Histogram
) -> None:
    if not len(chunk.ids):
        return
    row = staging.num_images
    widths = check_sides(source, source.names.width, chunk.widths, row)
    heights = check_sides(source, source.names.height, chunk.heights, row)
    optional = {
        kind: OPTIONAL[kind].check(source, name, array, row) for kind, (name, array) in chunk.optional.items()
    }
    if "orientation" in optional:
        widths, heights = upright(widths, heights, optional.pop("orientation"))
    ids = check_ids(source, source.names.id, chunk.ids, row)
    if source.is_text and staging.id_kind != "string":
        numbers = as_int_ids(ids)
        if numbers is not None:
            ids = numbers
        elif staging.id_kind == "int64":
            staging.make_ids_strings()
    staging.append(ids, widths, heights)
    histogram.add(widths, heights)
    for kind, values in optional.items():
        incoming.add(kind, values, row, partial(_refuse, source, *chunk.optional[kind], row))


def _refuse(
    source: Source, name: str, array: Any, first_row: int, row: int, detail: str, hint: str
) -> Invalid:
    """For a row of a chunk that begins with ``first_row``."""
    return source.refuse(name, first_row + row, detail, plain(array)[row].as_py(), hint)


def _checked(source: Source, staging: Staging, incoming: IncomingColumns, histogram: Histogram) -> Checked:
    ids = staging.ids()
    widths, heights = (staging.column(name, pa.uint32()) for name in ("widths", "heights"))
    by_id = _sorted_rows(ids)
    twice = duplicate_row(ids, by_id)
    if twice is not None:
        raise refuse_duplicate(source, ids, *twice)
    optional = incoming.finish()
    arrays = {kind: each.array for kind, each in optional.items()}
    digest = content_digest(ids, widths.to_numpy(), heights.to_numpy(), arrays)
    return Checked(digest, ids, widths, heights, by_id, histogram.as_json(), optional, source.names)


def _sorted_rows(ids: Any) -> NDArray[np.uint32]:
    """Rows in the order of their ids (strings by their bytes), equal ids in file order."""
    num = len(ids)
    if num < 2 or pc.all(pc.less_equal(ids.slice(0, num - 1), ids.slice(1))).as_py():
        return np.arange(num, dtype=np.uint32)
    if pa.types.is_int64(ids.type):
        return np.argsort(ids.to_numpy(), kind="stable").astype(np.uint32)
    rows: NDArray[np.uint32] = pc.array_sort_indices(ids).to_numpy().astype(np.uint32)
    return rows


def write_object(checked: Checked, path: Path) -> None:
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
