"""The distinct sizes among the images, and how many images have each: few numbers that most stats depend on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning import chunked_passes
from bucketline_service.planning.images import Part

MAX_DISTINCT = 1 << 24
_U64 = NDArray[np.uint64]
_I64 = NDArray[np.int64]
_32 = np.uint64(32)


def distinct_sizes(part: Part, rows: _I64 | None = None, max_distinct: int = MAX_DISTINCT) -> Part:
    """The distinct sizes of a part with their ``counts``, of ``rows`` int64[n] or of all images, found chunk by chunk.

    Images with another number of repeats or frames count as another size. If there are more than ``max_distinct``, or
    one does not fit into 64 bits, the result is the images as they are; finding that out takes at most 2 GB.
    """
    columns: list[NDArray[Any]] = [part.widths, part.heights]
    columns += [each for each in (part.codes, part.num_frames) if each is not None]
    is_plain = len(columns) == 2
    bits = [32, 32] if is_plain else [int(each.max(initial=0)).bit_length() for each in columns]
    if sum(bits) > 64:
        return _as_they_are(part, rows)
    num = len(part.widths if rows is None else rows)
    table = _Table(num if is_plain else 0)
    sizes = chunked_passes.ValueCounts(np.uint64)
    for begin in range(0, num, chunked_passes.CHUNK):
        chunk = slice(begin, begin + chunked_passes.CHUNK)
        taken = [each[chunk if rows is None else rows[chunk]] for each in columns]
        sizes.add(_pack(table.take(*taken) if is_plain else taken, bits))
        if sizes.num_merged > max_distinct:
            return _as_they_are(part, rows)
    packed, counts = sizes.merged(table.counted())
    if len(packed) > max_distinct:
        return _as_they_are(part, rows)
    widths, heights, *more = _unpack(packed, bits)
    codes = None if part.codes is None else more.pop(0)
    frames = None if part.num_frames is None else more.pop(0)
    return Part(widths, heights, codes, part.repeats, frames, counts)


def _pack(columns: Sequence[NDArray[Any]], bits: list[int]) -> _U64:
    """The columns of each row in one number, the first uppermost."""
    packed = columns[0].astype(np.uint64)
    for column, num_bits in zip(columns[1:], bits[1:], strict=True):
        packed = (packed << np.uint64(num_bits)) | column.astype(np.uint64)
    return packed


def _unpack(packed: _U64, bits: list[int]) -> list[NDArray[np.uint32]]:
    columns = []
    for num_bits in reversed(bits):
        columns.append((packed & np.uint64(2**num_bits - 1)).astype(np.uint32))
        packed = packed >> np.uint64(num_bits)
    return columns[::-1]


def _as_they_are(part: Part, rows: _I64 | None) -> Part:
    if rows is None:
        return part
    codes, frames = (None if each is None else each[rows] for each in (part.codes, part.num_frames))
    return Part(part.widths[rows], part.heights[rows], codes, part.repeats, frames)


class _Table:
    """Counts the sizes of most images without sorting, ten times as fast: a cell for each pair of sides below ``SIDE``.
    64 MB; where there is but a chunk of images it does not pay, and there is no table."""

    SIDE = 4_096

    def __init__(self, num_images: int) -> None:
        self._counts = np.zeros(self.SIDE**2 if num_images > chunked_passes.CHUNK else 0, dtype=np.uint32)

    def take(
        self, widths: NDArray[np.uint32], heights: NDArray[np.uint32]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Count these images; the sizes of those that have no cell."""
        if not len(self._counts):
            return widths, heights
        is_large = (widths >= self.SIDE) | (heights >= self.SIDE)
        large = widths[is_large], heights[is_large]
        if len(large[0]):
            widths, heights = widths[~is_large], heights[~is_large]
        np.add.at(self._counts, widths.astype(np.int64) * self.SIDE + heights, np.uint32(1))
        return large

    def counted(self) -> chunked_passes.Counted:
        """Sizes, packed; and how many images have each."""
        cells = np.flatnonzero(self._counts)
        widths, heights = np.divmod(cells.astype(np.uint64), np.uint64(self.SIDE))
        return (widths << _32) | heights, self._counts[cells].astype(np.int64)
