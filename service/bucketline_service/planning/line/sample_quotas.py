"""SampleQuotas: what an epoch takes of each group, and for which bucket.

Think of a group's images, in an order of the epoch's own, gone through again and again: round after round. A quota is
a stretch of that walk, from ``begins`` to ``ends`` rounds. An image that comes once is a quota [0, 1); one with two
repeats [0, 2); one that comes half the time [0, 0.5); of clips of which a tier keeps a third, the tier has [0, 1/3) and
the next lower one [1/3, 1), so that each comes once, here or there. All the same arithmetic.

A border that is not a whole number of images is rounded up or down by the epoch's own draw, one for each group, so
that every image comes as often as asked, exactly so in expectation, and no epoch is off by a whole image.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning.line.image_classes import ImageClasses, ImageClassifier
from bucketline_service.planning.line.permutation import epoch_words

_I64 = NDArray[np.int64]
_ROUNDING = 2  # stream of the epoch's key words
_2_53 = 2.0**53

MAX_SAMPLES = 2**48
"""Of an epoch: up to here the borders of quotas have digits left for parts of an image."""


class Cuts(NamedTuple):
    """One epoch's: ``lows``, ``highs`` int64[Q]: the walk's images that each quota takes; ``starts`` int64[Q]: where
    they begin among the samples of all buckets; ``counts`` int64[B]: samples of each bucket."""

    lows: _I64
    highs: _I64
    starts: _I64
    counts: _I64


class SampleQuotas:
    """Of Q quotas, by bucket: ``buckets``, ``groups`` int64[Q]; ``begins``, ``ends`` float64[Q] in rounds. ``table``
    has a row (bucket, group, begin, end) for each. Raises ``Invalid`` for more than ``MAX_SAMPLES``."""

    def __init__(
        self, table: Iterable[tuple[int, int, float, float]], groups: ImageClasses, num_buckets: int
    ) -> None:
        table = sorted(table)
        self.buckets = np.array([row[0] for row in table], dtype=np.int64)
        self.groups = np.array([row[1] for row in table], dtype=np.int64)
        self.begins = np.array([row[2] for row in table])
        self.ends = np.array([row[3] for row in table])
        self.num_buckets = num_buckets
        sizes = groups.counts[self.groups]
        self._borders = _whole_where_meant(np.stack([self.begins * sizes, self.ends * sizes]))
        if self.samples.sum() > MAX_SAMPLES:
            detail = (
                f"an epoch would have {self.samples.sum():,.0f} samples, but may have at most {MAX_SAMPLES:,}"
            )
            raise Invalid("num_repeats", detail, "Use fewer repeats, of images or of maps")
        self._wholes = np.floor(self._borders)
        self._fractions = self._borders - self._wholes
        self._num_groups = len(groups.keys)
        is_partial = (self.begins % 1 > 0) | (self.ends % 1 > 0)
        self.is_thinned = np.zeros(self._num_groups, dtype=np.bool_)
        """bool[G]: whether an epoch takes some of the class's images more often than others, and so must draw which."""
        self.is_thinned[self.groups[is_partial]] = True

    @classmethod
    def of(cls, classifier: ImageClassifier, groups: ImageClasses, num_buckets: int) -> SampleQuotas:
        """What the spec makes of these groups."""
        table = []
        for group, (key, samples) in enumerate(
            zip(groups.keys.tolist(), groups.samples.tolist(), strict=True)
        ):
            ways = classifier.ways(key)
            table += [(bucket, group, begin * samples, end * samples) for bucket, begin, end in ways]
        return cls(table, groups, num_buckets)

    @property
    def is_steady(self) -> bool:
        """Whether every epoch takes the same numbers."""
        return not self._fractions.any()

    @property
    def samples(self) -> NDArray[np.float64]:
        """float64[Q]: samples that an epoch asks for, in expectation."""
        samples: NDArray[np.float64] = self._borders[1] - self._borders[0]
        return samples

    def bucket_samples(self) -> NDArray[np.float64]:
        """float64[B]: the same, of each bucket."""
        found = np.bincount(self.buckets, weights=self.samples, minlength=self.num_buckets)
        return found.astype(np.float64)

    def ways(self) -> list[_I64]:
        """The quotas of each class, -1 where it has no more: int64[G] for the first of each, for the second, …"""
        return listed(self.groups, np.arange(len(self.groups)), self._num_groups)

    def members(self, counts: _I64) -> _I64:
        """int64[B]: images that may come in each bucket, of groups of ``counts``."""
        found = np.bincount(self.buckets, weights=counts[self.groups], minlength=self.num_buckets)
        return found.astype(np.int64)

    def cuts(self, seed: int, epoch: int) -> Cuts:
        if self.is_steady:
            return self._cut(np.zeros(self._num_groups))
        words = epoch_words(seed, epoch, _ROUNDING, self._num_groups)
        return self._cut((words >> np.uint64(11)).astype(np.float64) / _2_53)

    def least(self) -> _I64:
        """int64[B]: the fewest samples that an epoch has of each bucket. A neighbour's rounding up takes them."""
        return self._counts(self._wholes[1] - self._wholes[0] - (self._fractions[0] > self._fractions[1]))

    def most(self) -> _I64:
        """int64[B]: the most."""
        return self._counts(self._wholes[1] - self._wholes[0] + (self._fractions[1] > self._fractions[0]))

    def _counts(self, sizes: NDArray[np.floating[Any]] | _I64) -> _I64:
        return np.bincount(self.buckets, weights=sizes, minlength=self.num_buckets).astype(np.int64)

    @property
    def least_together(self) -> int:
        """Samples that every epoch has, in all buckets. The quotas of a class follow one another from 0, or all begin
        at 0: none has fewer samples than when its end is rounded down."""
        return int(self._cut(np.zeros(self._num_groups)).counts.sum())

    def _cut(self, draws: NDArray[np.float64]) -> Cuts:
        # the same draw at both sides of a border, so that neighbours meet
        rounded = self._wholes + (self._fractions + draws[self.groups] >= 1.0)
        lows, highs = rounded.astype(np.int64)
        sizes = highs - lows
        return Cuts(lows, highs, np.cumsum(sizes) - sizes, self._counts(sizes))


def listed(keys: _I64, values: _I64, num_keys: int) -> list[_I64]:
    """The ``values`` of each key, -1 where it has no more: int64[num_keys] for the first of each, for the second, …"""
    found: list[_I64] = []
    seen = [0] * num_keys
    for key, value in zip(keys.tolist(), values.tolist(), strict=True):
        if seen[key] == len(found):
            found.append(np.full(num_keys, -1, dtype=np.int64))
        found[seen[key]][key] = value
        seen[key] += 1
    return found


def _whole_where_meant(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Products of floats may be off in their last digits: 0.29 of 100 images are 29."""
    nearest = np.rint(values)
    return np.where(np.abs(values - nearest) <= nearest * 2.0**-49, nearest, values)
