"""The images nearest to the boundaries between buckets, the first and the last of each bucket in order of aspect.

Images of one aspect are in order of their class, then of a 64-bit mix of their row, which spreads a tie over the map
without a seed. One pass over all rows, of which few are kept: after the first rows nearly none is nearer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.line.permutation import splitmix

_I64 = NDArray[np.int64]
_F64 = NDArray[np.float64]
_U64 = NDArray[np.uint64]

_MERGED_AT_LEAST = 1 << 12  # images that wait until they are merged


class Entries(NamedTuple):
    """Images that are assigned to ``buckets``, all [n]: ``classes``: indices of theirs; ``rows`` of the map;
    ``counts``: how many images each row stands for; ``widths``, ``heights`` in pixels; ``aspects``; ``mixes`` of the
    rows."""

    buckets: _I64
    classes: _I64
    rows: _I64
    counts: _I64
    widths: _I64
    heights: _I64
    aspects: _F64
    mixes: _U64

    def at(self, indices: NDArray[np.integer] | NDArray[np.bool_]) -> Entries:
        columns: Any = (column[indices] for column in self)
        return Entries(*columns)


class _Limits(NamedTuple):
    """Of each side, the lower and the upper, and bucket the last image that is kept, all [2, B + 1]: one that is
    farther from the boundary cannot be. Bucket B stands for none."""

    aspects: _F64
    classes: _I64
    mixes: _U64


class BoundaryImages:
    """Of B buckets the first and last images, of each so many that they are ``reach`` images or more, or all."""

    def __init__(self, num_buckets: int, reach: int) -> None:
        self._num_buckets = num_buckets
        self._reach = reach
        shape = (2, num_buckets + 1)
        aspects = np.full(shape, np.inf)
        aspects[1] = -np.inf
        aspects[:, -1] *= -1  # no image of no bucket is near
        self._limits = _Limits(aspects, np.zeros(shape, np.int64), np.zeros(shape, np.uint64))
        none = np.empty(0, np.int64)
        self._kept = Entries(none, none, none, none, none, none, np.empty(0), np.empty(0, np.uint64))
        self._waiting: list[Entries] = []

    def near(
        self,
        codes: NDArray[np.int16],
        buckets: _I64,
        classes: _I64,
        begin: int,
        sides: tuple[NDArray[np.uint32], NDArray[np.uint32]],
        counts: _I64 | None,
    ) -> Entries:
        """Those of n consecutive rows from ``begin`` on that may be among the nearest, as far as is known. ``codes``
        int16[n]: indices of ``buckets`` and ``classes`` int64[k], -1 for none. ``sides``: widths and heights in pixels.
        May be called from several threads."""
        limits = self._limits
        of = np.append(np.where(buckets < 0, self._num_buckets, buckets), self._num_buckets)
        aspects = sides[0] / sides[1]
        is_near = np.zeros(len(codes), dtype=np.bool_)
        for side in (0, 1):
            limit = limits.aspects[side][of][codes]
            is_near |= aspects > limit if side else aspects < limit
            # of the limit's aspect may be very many: the mix of a row is found only where it decides
            at = np.flatnonzero(aspects == limit)
            ahead = np.append(classes, 0) - limits.classes[side][of]
            ahead = (-ahead if side else ahead)[codes[at]]
            is_near[at[ahead < 0]] = True
            at = at[ahead == 0]
            mixes, of_limit = splitmix((at + begin).astype(np.uint64)), limits.mixes[side][of][codes[at]]
            is_near[at[mixes >= of_limit if side else mixes <= of_limit]] = True
        at = np.flatnonzero(is_near)
        return Entries(
            of[codes[at]],
            classes[codes[at]],
            at + begin,
            np.ones(len(at), np.int64) if counts is None else counts[at],
            sides[0][at].astype(np.int64),
            sides[1][at].astype(np.int64),
            aspects[at],
            splitmix((at + begin).astype(np.uint64)),
        )

    def add(self, found: Entries) -> None:
        """What ``near`` has found."""
        self._waiting.append(found)
        if sum(len(each.rows) for each in self._waiting) >= max(_MERGED_AT_LEAST, len(self._kept.rows)):
            self._merge()

    def entries(self) -> Entries:
        """By bucket, in order of aspect."""
        self._merge()
        return self._kept

    def _merge(self) -> None:
        columns: Any = (np.concatenate(column) for column in zip(self._kept, *self._waiting, strict=True))
        every = Entries(*columns)
        self._waiting = []
        every = every.at(np.lexsort((every.mixes, every.classes, every.aspects, every.buckets)))
        starts = np.searchsorted(every.buckets, np.arange(self._num_buckets + 1))
        sums = np.append(0, np.cumsum(every.counts))
        totals = sums[starts]
        from_start = sums[:-1] - totals[every.buckets]  # images before it in its bucket
        from_end = totals[every.buckets + 1] - sums[1:]
        is_kept = (from_start < self._reach) | (from_end < self._reach)
        aspects = self._limits.aspects.copy()
        classes, mixes = self._limits.classes.copy(), self._limits.mixes.copy()
        for side, ahead in enumerate((from_start, from_end)):
            is_last = (ahead < self._reach) & (ahead + every.counts >= self._reach)
            of = every.buckets[is_last]
            aspects[side, of], classes[side, of] = every.aspects[is_last], every.classes[is_last]
            mixes[side, of] = every.mixes[is_last]
        self._kept = every.at(is_kept)
        self._limits = _Limits(aspects, classes, mixes)
