"""Where the rows of a map stand in its files, of which there may be several; some rows may be left out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.maps import lazy_compute as pc
from bucketline_service.maps.file_source import FileSource, RowChunk
from bucketline_service.maps.numeric_columns import plain


class RowPlaces:
    """Counts the rows that are kept, over all files, and those that are skipped."""

    def __init__(self) -> None:
        self.num_kept = 0
        self.num_skipped = 0
        self._sources: list[tuple[int, FileSource]] = []  # from which kept row on, ascending

    def add(
        self, source: FileSource, first_row: int, chunk: RowChunk, *, skip: bool
    ) -> tuple[FileSource, RowChunk]:
        """The next rows, from ``first_row`` of their file on: those that are kept, and a source that knows where each
        of these stands. ``skip`` those without a width or a height."""
        is_kept = _has_size(chunk, source.is_text) if skip else None
        if is_kept is None or is_kept.all():
            row_of = _moved(first_row - self.num_kept)
        else:
            chunk = chunk.of_rows(is_kept)
            row_of = _picked(first_row, self.num_kept, np.packbits(is_kept))
            self.num_skipped += int(np.count_nonzero(~is_kept))
        source = replace(source, row_of=row_of)
        if len(chunk.ids):
            self._sources.append((self.num_kept, source))
        self.num_kept += len(chunk.ids)
        return source, chunk

    def refuse_duplicate(self, ids: Any, row: int, earlier: int) -> Invalid:
        """Both rows as counted here."""
        source, before = self._source_of(row), self._source_of(earlier)
        at = f"row {before.row_of(earlier) + 1}" + (f" of {before.part}" if before.part else "")
        value = ids[row].as_py()
        return source.refuse(
            source.names.id, row, f"{{}} is there before, in {at}", value, "Every image has an id of its own"
        )

    def _source_of(self, row: int) -> FileSource:
        return self._sources[bisect_right(self._sources, row, key=lambda each: each[0]) - 1][1]


def _moved(by: int) -> Callable[[int], int]:
    return lambda row: row + by


def _picked(first_row: int, first_kept: int, bits: NDArray[np.uint8]) -> Callable[[int], int]:
    """``bits``: a bit for each row of the chunk, set where it is kept."""
    return lambda row: first_row + int(np.flatnonzero(np.unpackbits(bits))[row - first_kept])


def _has_size(chunk: RowChunk, is_text: bool) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.logical_and(
        *(_has_value(side, is_text) for side in (chunk.widths, chunk.heights))
    )
    return found


def _has_value(array: Any, is_text: bool) -> NDArray[np.bool_]:
    """bool[n]: neither null, nor empty text, nor not a number, which text may say as well."""
    array = plain(array)
    has = pc.is_valid(array)
    if is_text:
        text = pc.ascii_lower(pc.ascii_trim_whitespace(array))
        has = pc.invert(pc.is_in(text, pa.array(["", "nan"], text.type)))
    elif pa.types.is_floating(array.type):
        has = pc.invert(pc.is_null(array, nan_is_null=True))
    found: NDArray[np.bool_] = has.to_numpy(zero_copy_only=False)
    return found
