"""Where each row of a map is in its files, of which there may be several, and from which rows may be skipped."""

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
    """Counts the rows kept and skipped over all files."""

    def __init__(self) -> None:
        self.num_kept = 0
        self.num_skipped = 0
        self._sources: list[tuple[int, FileSource]] = []
        """By the first kept row that each applies to, ascending."""

    def add(
        self, source: FileSource, first_row: int, chunk: RowChunk, *, skip: bool
    ) -> tuple[FileSource, RowChunk]:
        """Add the rows of a file from ``first_row`` on. Returns the rows kept, and a source that knows their places in
        the file. With ``skip`` rows without a width or a height are left out."""
        is_kept = _has_size(chunk, source.is_text) if skip else None
        if is_kept is None or is_kept.all():
            row_of = _shifted(first_row - self.num_kept)
        else:
            chunk = chunk.of_rows(is_kept)
            row_of = _selected(first_row, self.num_kept, np.packbits(is_kept))
            self.num_skipped += int(np.count_nonzero(~is_kept))
        source = replace(source, row_of=row_of)
        if len(chunk.ids):
            self._sources.append((self.num_kept, source))
        self.num_kept += len(chunk.ids)
        return source, chunk

    def duplicate_error(self, ids: Any, row: int, earlier: int) -> Invalid:
        """The error for two kept rows with the same id."""
        source, first = self._source_of(row), self._source_of(earlier)
        at = f"row {first.row_of(earlier) + 1}" + (f" of {first.part}" if first.part else "")
        detail = f"duplicate id {{}}, first seen in {at}"
        return source.row_error(
            source.names.id, row, detail, ids[row].as_py(), "Every image needs its own id"
        )

    def _source_of(self, row: int) -> FileSource:
        return self._sources[bisect_right(self._sources, row, key=lambda each: each[0]) - 1][1]


def _shifted(by: int) -> Callable[[int], int]:
    return lambda row: row + by


def _selected(first_row: int, first_kept: int, bits: NDArray[np.uint8]) -> Callable[[int], int]:
    """``bits``: one bit a row of the chunk, set where it is kept."""
    return lambda row: first_row + int(np.flatnonzero(np.unpackbits(bits))[row - first_kept])


def _has_size(chunk: RowChunk, is_text: bool) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = _has_value(chunk.widths, is_text) & _has_value(chunk.heights, is_text)
    return found


def _has_value(array: Any, is_text: bool) -> NDArray[np.bool_]:
    """bool[n]: false for null, NaN and, in text, for the empty string and "nan"."""
    array = plain(array)
    has = pc.is_valid(array)
    if is_text:
        text = pc.ascii_lower(pc.ascii_trim_whitespace(array))
        has = pc.invert(pc.is_in(text, pa.array(["", "nan"], text.type)))
    elif pa.types.is_floating(array.type):
        has = pc.invert(pc.is_null(array, nan_is_null=True))
    found: NDArray[np.bool_] = has.to_numpy(zero_copy_only=False)
    return found
