"""The distinct sizes among the images, and how many images have each: what most answers hang on, and little of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning import passes
from bucketline_service.planning.images import Part

MAX_DISTINCT = 1 << 24
_U64 = NDArray[np.uint64]
_I64 = NDArray[np.int64]
_32 = np.uint64(32)

_Counted = tuple[_U64, _I64]
"""Sizes as width << 32 | height, and how many images have each."""
_NONE: _Counted = (np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64))


def distinct_sizes(part: Part, rows: _I64 | None = None, max_distinct: int = MAX_DISTINCT) -> Part:
    """The distinct ones among the sizes of ``rows``, of all unless given, chunk by chunk: a part with ``counts``. Where
    more than ``max_distinct`` are distinct, or images differ in more than size, the images as they are: finding that
    out takes 2 GB at most."""
    if part.codes is not None or part.num_frames is not None:
        return _as_they_are(part, rows)
    widths, heights = part.widths, part.heights
    num = len(widths if rows is None else rows)
    table = _Table(num)
    found = _NONE
    parts, num_held = [found], 0
    for begin in range(0, num, passes.CHUNK):
        here = slice(begin, begin + passes.CHUNK) if rows is None else rows[begin : begin + passes.CHUNK]
        parts.append(_distinct(*table.take(widths[here], heights[here])))
        num_held += len(parts[-1][0])
        # as much again as is merged already: each size is moved log N times
        if num_held > passes.CHUNK + len(found[0]):
            found = _merged(parts)
            parts, num_held = [found], 0
        if len(found[0]) > max_distinct:
            return _as_they_are(part, rows)
    packed, counts = _merged([*parts, table.counted()])
    if len(packed) > max_distinct:
        return _as_they_are(part, rows)
    return Part(
        (packed >> _32).astype(np.uint32), packed.astype(np.uint32), repeats=part.repeats, counts=counts
    )


def _as_they_are(part: Part, rows: _I64 | None) -> Part:
    if rows is None:
        return part
    codes, frames = (None if each is None else each[rows] for each in (part.codes, part.num_frames))
    return Part(part.widths[rows], part.heights[rows], codes, part.repeats, frames)


class _Table:
    """Counts the sizes of most images without sorting, ten times as fast: a cell for each pair of sides below ``SIDE``.
    64 MB; where there is but a chunk of images it is not worth its while, and there is none."""

    SIDE = 4_096

    def __init__(self, num_images: int) -> None:
        self._counts = np.zeros(self.SIDE**2 if num_images > passes.CHUNK else 0, dtype=np.uint32)

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

    def counted(self) -> _Counted:
        cells = np.flatnonzero(self._counts)
        widths, heights = np.divmod(cells.astype(np.uint64), np.uint64(self.SIDE))
        return (widths << _32) | heights, self._counts[cells].astype(np.int64)


def _distinct(widths: NDArray[np.uint32], heights: NDArray[np.uint32]) -> _Counted:
    packed, counts = np.unique((widths.astype(np.uint64) << _32) | heights, return_counts=True)
    return packed, counts.astype(np.int64, copy=False)


def _merged(parts: list[_Counted]) -> _Counted:
    """Each size once."""
    packed = np.concatenate([each for each, _ in parts])
    counts = np.concatenate([each for _, each in parts])
    order = np.argsort(packed, kind="stable")
    packed, counts = packed[order], counts[order]
    firsts = np.flatnonzero(np.append(True, packed[1:] != packed[:-1])[: len(packed)])
    return packed[firsts], np.add.reduceat(counts, firsts) if len(firsts) else counts
