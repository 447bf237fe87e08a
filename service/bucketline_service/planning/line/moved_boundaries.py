"""``tails: "shift"``: whole batches in every bucket by boundaries that move a little, at the least crop.

Images in order of aspect, buckets in order of aspect: each bucket holds a run of the images, from one boundary to the
next. A bucket's images rarely fill whole batches; so boundaries are moved past some images, which then go to the
neighbouring bucket, until every bucket of a section does but one: the remainder of a section lies in its largest
bucket, whose images take turns in it.

An image that moves costs the square of ``max(0, crop loss there - crop loss in its own bucket)``: with the least *sum*
single images would lose much, and squares cost nothing in the mean. Between two sizes of one aspect, where nothing is
cropped, the share of the pixels that the smaller one lacks counts instead. A move that costs nothing counts as the
least that can be told apart, so that no image moves in vain. The cheapest boundaries are found by dynamic
programming over the positions of one boundary after the other. A position matters only by how many samples lie before
it, modulo the batch size; with one batch size these are the points of a lattice, and the cost of a boundary grows on
both sides of its natural place, so that few points about it are enough.

Losses are integers in units of 2**-30. They are rounded down to 2**-15 before they are squared, so that squares are
integers too: no sum depends on its order, and the distinct sizes of images give the same plan as the images themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.geometry import crop_loss
from bucketline_service.planning.line.boundary_images import Entries

_I64 = NDArray[np.int64]

_LATTICE_REACH = 2
"""How many batches from its natural place a boundary may move, where all batches have one size."""

_FULL_REACH = 4_096
"""Where batch sizes differ and the maps have at most so many images, a boundary may move past all of them."""

_MIN_REACH = 256

_MOST_COMPARED = 8
"""How many buckets are tried as the one that holds the remainder, where that may be dear."""

_MOST_POSITIONS = 1 << 22
"""That are looked at, of all boundaries together: some seconds, and 200 MB where batch sizes differ."""

_MOST_WEIGHED = 1 << 10
"""Samples of one image that count in the costs, so that their sums stay below 2**63."""


class MovedImages(NamedTuple):
    """Images that go to another bucket than their own, all int64[n]: indices of ``entries``, how many images of each,
    and the bucket that each goes to. ``max_extra_crop``: the most that one of them loses more than in its own, a share
    of its pixels."""

    entries: _I64
    counts: _I64
    buckets: _I64
    max_extra_crop: float


class Bins(NamedTuple):
    """The buckets of a section that have images of their own, in order of aspect, all int64[J]: their numbers, images,
    samples, images a batch, and the sides of the bucket in pixels."""

    buckets: _I64
    counts: _I64
    samples: _I64
    batch_sizes: _I64
    widths: _I64
    heights: _I64


class _Bounds(NamedTuple):
    """``positions`` int64[J + 1] of the boundaries, and what they cost together."""

    positions: _I64
    cost: int


class _Window(NamedTuple):
    """Where a boundary may lie, all int64[P]: ``positions``: images before it in the section; ``samples``: samples
    before it; ``ends``, ``begins``: what it costs the bucket that ends there and the one that begins there, relative to
    the boundary's natural place."""

    positions: _I64
    samples: _I64
    ends: _I64
    begins: _I64

    def where(self, is_meant: NDArray[np.bool_]) -> _Window:
        return _Window(*(column[is_meant] for column in self))


def reach(batch_sizes: _I64, samples: _I64, num_images: int, num_bins: int) -> int | None:
    """How many images on each side of every boundary ``moved`` looks at. ``batch_sizes`` int64[B]; ``samples``: the
    distinct numbers of samples that images have; ``num_bins``: buckets that have images. None where the positions up to
    the points of the lattice would be more than can be looked at; where batch sizes differ, fewer are."""
    most = _MOST_POSITIONS // (2 * num_bins)
    if len(samples) == 1 and (batch_sizes == batch_sizes[0]).all():
        found = _LATTICE_REACH * int(batch_sizes[0]) // math.gcd(int(batch_sizes[0]), int(samples[0]))
        return found if min(found, num_images) <= most else None
    wanted = num_images if num_images <= _FULL_REACH else max(_MIN_REACH, 4 * int(batch_sizes.max()))
    return min(wanted, most)


def moved(bins: Bins, entries: Entries, samples: _I64, reach: int) -> MovedImages | None:
    """The images of a section that move; None where no boundaries make whole batches. Fewer images than a batch stay
    where they are. ``entries``: the first and last images of each bucket, in order (``BoundaryImages``);
    ``samples`` int64[E]: how often an epoch asks for each image of an entry."""
    sizes = bins.batch_sizes
    by_size = np.argsort(-bins.samples, kind="stable")
    by_size = by_size[sizes[by_size] <= bins.samples.sum()]
    if not len(by_size):
        return _NONE
    line = _Line(bins, entries, samples, reach)
    is_lattice = (sizes == sizes[0]).all() and (samples == samples[:1]).all()
    # A lattice has a point for every number of batches: if the largest bucket cannot hold the remainder, none can.
    # Elsewhere the largest may be dear, or impossible: of a few the cheapest, else the first of all that can.
    num_compared = 1 if is_lattice else max(1, min(_MOST_COMPARED, _MOST_POSITIONS // line.num_positions))
    cheapest: _Bounds | None = None
    for tried, largest in enumerate(by_size.tolist()):
        if tried >= num_compared and (is_lattice or cheapest is not None):
            break
        found = line.bounds(largest)
        if found is not None and (cheapest is None or found.cost < cheapest.cost):
            cheapest = found
    return None if cheapest is None else line.moved(cheapest.positions)


_NOTHING = np.empty(0, dtype=np.int64)
_NONE = MovedImages(_NOTHING, _NOTHING, _NOTHING, 0.0)


class _Line:
    """The images about the boundaries of a section, one by one, and what each costs on either side."""

    def __init__(self, bins: Bins, entries: Entries, samples: _I64, reach: int) -> None:
        self._bins = bins
        self._entries = entries
        self._samples = samples
        self._natural = np.append(0, np.cumsum(bins.counts))
        self._natural_samples = np.append(0, np.cumsum(bins.samples))
        starts = np.searchsorted(entries.buckets, bins.buckets, side="left")
        stops = np.searchsorted(entries.buckets, bins.buckets, side="right")
        parts = [np.arange(*part) for part in zip(starts.tolist(), stops.tolist(), strict=True)]
        lows = [_singly(part, entries.counts, reach)[:reach] for part in parts]
        highs = [_singly(part, entries.counts, reach)[-reach:] for part in parts]
        # of each inner boundary, the entries of the images before it and after it
        self._around = [
            (_joined(highs[bucket - 1 :: -1], reach, from_end=True), _joined(lows[bucket:], reach))
            for bucket in range(1, len(parts))
        ]

    def _costs(self, entries: _I64, owns: _I64, bucket: int) -> _I64:
        """int64[n]: what it costs to have each image in a bucket, 0 where that is its own."""
        bins = self._bins
        extra = self._extra(entries, owns, bucket)
        is_alike = bins.widths[owns] * bins.heights[bucket] == bins.widths[bucket] * bins.heights[owns]
        areas, area = (bins.widths * bins.heights)[owns], bins.widths[bucket] * bins.heights[bucket]
        missing = 1.0 - np.minimum(areas, area) / np.maximum(areas, area)
        extra = np.where(is_alike, np.rint(missing * 2.0**30).astype(np.int64), extra) >> 15
        weights = np.minimum(self._samples[entries], _MOST_WEIGHED)
        costs: _I64 = np.where(owns == bucket, 0, np.maximum(extra**2, 1) * weights)
        return costs

    def _extra(self, entries: _I64, owns: _I64, bucket: int) -> _I64:
        """What each image loses more in a bucket than in its own, int64[n] of 2**-30, at least 0."""
        of, bins = self._entries, self._bins

        def loss(buckets: _I64 | int) -> _I64:
            widths, heights = bins.widths[buckets], bins.heights[buckets]
            lost = crop_loss(of.widths[entries], of.heights[entries], widths, heights)
            return np.rint(lost * 2.0**30).astype(np.int64)

        extra: _I64 = np.maximum(loss(bucket) - loss(owns), 0)
        return extra

    def _window(self, boundary: int) -> _Window:
        """Of the boundary before bucket ``boundary``."""
        before, after = self._around[boundary - 1]
        entries = np.concatenate([before, after])
        owns = np.searchsorted(self._bins.buckets, self._entries.buckets[entries])
        samples = self._samples[entries]
        sides = []
        for bucket in (boundary - 1, boundary):
            sums = np.append(0, np.cumsum(self._costs(entries, owns, bucket)))
            sides.append(sums - sums[len(before)])
        num_samples = np.append(0, np.cumsum(samples))
        return _Window(
            self._natural[boundary] - len(before) + np.arange(len(entries) + 1),
            self._natural_samples[boundary] + num_samples - num_samples[len(before)],
            *sides,
        )

    @property
    def num_positions(self) -> int:
        """Of all inner boundaries, at least 1."""
        return 1 + sum(len(before) + len(after) for before, after in self._around)

    def bounds(self, largest: int) -> _Bounds | None:
        """The cheapest boundaries with which each bucket holds whole batches, but for ``largest``, which
        holds one or more and the remainder. None where there are none."""
        sizes, total = self._bins.batch_sizes, int(self._natural_samples[-1])
        num = len(sizes)
        zero = np.zeros(1, dtype=np.int64)
        window = _Window(zero, zero, zero, zero)
        costs = zero
        chosen: list[_I64] = []
        windows = [window]
        for bucket in range(num):
            if bucket == num - 1:
                ahead = _Window(self._natural[-1:], self._natural_samples[-1:], zero, zero)
            else:
                ahead = self._window(bucket + 1)
                if (sizes == sizes[0]).all():
                    rest = 0 if bucket < largest else total
                    ahead = ahead.where((ahead.samples - rest) % sizes[0] == 0)
            found, at = _cheapest(
                window.samples, costs - window.begins, ahead.samples, int(sizes[bucket]), bucket == largest
            )
            is_there = at >= 0
            if not is_there.any():
                return None
            ahead = ahead.where(is_there)
            costs = found[is_there] + ahead.ends
            chosen.append(at[is_there])
            windows.append(ahead)
            window = ahead
        bounds = np.empty(num + 1, dtype=np.int64)
        at_last = 0
        for boundary in range(num, -1, -1):
            bounds[boundary] = windows[boundary].positions[at_last]
            if boundary:
                at_last = int(chosen[boundary - 1][at_last])
        return _Bounds(bounds, int(costs[0]))

    def moved(self, bounds: _I64) -> MovedImages:
        places, entries = [], []
        for boundary in range(1, len(bounds) - 1):
            before, after = self._around[boundary - 1]
            first = int(self._natural[boundary]) - len(before)
            natural, now = int(self._natural[boundary]), int(bounds[boundary])
            passed = np.arange(min(natural, now), max(natural, now))
            places.append(passed)
            entries.append(np.concatenate([before, after])[passed - first])
        if not places:
            return _NONE
        # an image may be passed by several boundaries
        place, firsts = np.unique(np.concatenate(places), return_index=True)
        entry = np.concatenate(entries)[firsts]
        bins = self._bins
        target = np.searchsorted(bounds, place, side="right") - 1
        owns = np.searchsorted(bins.buckets, self._entries.buckets[entry])
        extra = 0
        for bucket in np.unique(target).tolist():
            here = target == bucket
            extra = max(extra, int(self._extra(entry[here], owns[here], bucket).max()))
        numbers, counts = np.unique(np.stack([entry, bins.buckets[target]]), axis=1, return_counts=True)
        return MovedImages(numbers[0], counts.astype(np.int64), numbers[1], extra / 2.0**30)


def _singly(part: _I64, counts: _I64, most: int) -> _I64:
    """The entries once for each of their images, at most ``most`` times each."""
    return np.repeat(part, np.minimum(counts[part], most))


def _joined(parts: Sequence[_I64], num: int, *, from_end: bool = False) -> _I64:
    """The first ``num`` of these parts joined; ``from_end``: parts come last first, and the last ``num`` are meant."""
    taken: list[_I64] = []
    for part in parts:
        if num <= 0:
            break
        taken.append(part[-num:] if from_end else part[:num])
        num -= len(part)
    return np.concatenate(taken[::-1] if from_end else taken)


def _cheapest(
    starts: _I64, costs: _I64, stops: _I64, batch_size: int, has_remainder: bool
) -> tuple[_I64, _I64]:
    """Of each of ``stops`` int64[T] the least of ``costs`` int64[S] among the ``starts`` int64[S] from which a bucket
    may reach to it, and the index of that start, -1 where there is none. Both are in samples, ascending. The samples
    between are a multiple of the batch size, or with ``has_remainder`` a batch or more. Of equal costs the first."""
    order = np.argsort(costs, kind="stable")
    ranks = np.empty(len(costs), dtype=np.int64)
    ranks[order] = np.arange(len(costs))
    none = len(costs)
    if has_remainder:
        least = np.append(none, np.minimum.accumulate(ranks))
        found = least[np.searchsorted(starts, stops - batch_size, side="right")]
    else:
        # By remainder, then number of samples; a start before a stop with as many. The running least of each remainder
        # is one running least over all where each remainder's ranks lie below those of the one before.
        samples = np.concatenate([starts, stops])
        rests = samples % batch_size
        is_stop = np.arange(len(samples)) >= len(starts)
        line = np.lexsort((is_stop, samples, rests))
        part = np.cumsum(np.diff(rests[line], prepend=-1) > 0) * (none + 1)
        of_line = np.append(ranks, np.full(len(stops), none))[line] - part
        least = np.empty(len(samples), dtype=np.int64)
        least[line] = np.minimum.accumulate(of_line) + part
        found = least[len(starts) :]
    is_there = found < none
    at = np.full(len(stops), -1, dtype=np.int64)
    at[is_there] = order[found[is_there]]
    return np.where(is_there, costs[np.maximum(at, 0)], 0), at
