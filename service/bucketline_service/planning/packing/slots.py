"""Which image stands in which slot of which pack, by arithmetic alone, forward and back.

As for other batches (``line.remainders``), all images stand on a tape and stretches of it are served in turn. Here the
tape has the images length after length, the longest first, and each slot length has one stretch, the longest first: all
slots of that length, of all packs, are served from it. A stretch begins only after all images that are longer than its
slots, so every slot gets an image that fits. A pack is one *run* of slots of each of its lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_I64 = NDArray[np.int64]


class Stretches(NamedTuple):
    """One for each slot length that has slots, longest first, all int64[T]: ``classes``: the index of its slots' length
    among the lengths; ``num_slots``: how many slots it serves; ``begins``, ``lengths`` in places of the tape, where
    lengths are at least the slots. The stretches lie in order, and end with the tape; the places before the first hold
    images that are longer than any slot."""

    classes: _I64
    num_slots: _I64
    begins: _I64
    lengths: _I64


class Runs(NamedTuple):
    """The runs of slots of n batches, batch after batch, of a pack the longest slots first; all int64[m]:
    ``stretches``: of which each run is; ``firsts``: the number of its first slot there; ``sizes`` in slots. ``bounds``
    int64[n + 1]: batch i has slots ``bounds[i]`` … ``bounds[i + 1] - 1`` of all."""

    bounds: _I64
    stretches: _I64
    firsts: _I64
    sizes: _I64


class SlotPlaces(NamedTuple):
    """Of n slots, all int64[n]: the batch's ``kinds``, the batch's ``numbers`` among those of the kind, and the
    ``slots`` inside the batch."""

    kinds: _I64
    numbers: _I64
    slots: _I64


def stretches(slots: _I64, images: _I64, draw: int = 0) -> Stretches:
    """The stretches for ``slots`` and ``images``, both int64[S], of each length, ascending. Where there are more
    images than slots, some are left out: ``draw``, uniform in [0, 2**32), decides which stretches leave out one more.

    A stretch may have more places than its slots need, and whichever places have no slot then are left out; so a loss
    among short images can be moved to longer ones, by letting the stretches of these go on further, but not the other
    way. All images have the same chance, except where there are more images of some length or longer than slots: these
    have at least that loss. The shares (``_due``) are the least concave function of the slots above what must be left
    out at each length or longer. The places up to the end of a stretch are the slots up to there and the share, rounded
    down after the draw is added. So over all draws a stretch has exactly its share; and where of each length or longer
    at most one in n images has no slot, images are left out one time in n at most, but for less than a quarter of an
    image of each length: a stretch leaves out whole images, and its neighbours' ends move with it.

    Raises ``ValueError`` where there are more slots of a length or shorter ones than images to fill them.
    """
    if (np.cumsum(slots) > np.cumsum(images)).any():
        raise ValueError("there are more slots than images that fit into them")
    classes, ends = _ends(slots)
    due = _due(ends, _must_leave_out(slots, images))
    # + draw / 2**32, in integers
    left_out = [
        ((each.numerator << 32) + draw * each.denominator) // (each.denominator << 32) for each in due
    ]
    edges = ends + np.array(left_out, dtype=np.int64)
    return Stretches(classes, np.diff(ends), edges[:-1], np.diff(edges))


def _ends(slots: _I64) -> tuple[_I64, _I64]:
    """The lengths that have slots, longest first, int64[T]; how many slots the first t of them have, int64[T + 1]."""
    classes = np.flatnonzero(slots)[::-1]
    return classes, np.append(0, np.cumsum(slots[classes]))


def _must_leave_out(slots: _I64, images: _I64) -> _I64:
    """int64[T + 1]: images that the first t stretches must leave out together at least: those longer than the slots of
    the stretch that follows, or all images, less the slots up to there."""
    classes, ends = _ends(slots)
    longer = np.append(np.cumsum(images[::-1])[::-1], 0)
    return np.append(longer[classes + 1], longer[0]) - ends


def _due(ends: _I64, least: _I64) -> list[Fraction]:
    """The least concave function of the slots ``ends`` int64[T + 1] that is nowhere below ``least`` int64[T + 1]."""
    points = list(zip(ends.tolist(), least.tolist(), strict=True))
    hull: list[tuple[int, int]] = []
    for x, y in points:
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x0) > (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    due = [Fraction(hull[0][1])]
    for (x0, y0), (x1, y1) in pairwise(hull):
        due += [y0 + Fraction((y1 - y0) * (x - x0), x1 - x0) for x, _ in points if x0 < x <= x1]
    return due


@dataclass(frozen=True, eq=False)
class PackLine:
    """The packs' slots, numbered stretch by stretch. R runs, kind by kind, inside one by stretch, all int64[R]:
    ``run_stretches``, ``run_sizes`` in slots, ``run_firsts``: the slot of the stretch with which the kind's packs
    begin, ``run_offsets``: the slot of a pack where the run begins. ``run_begins`` int64[J + 1]: of each kind."""

    run_begins: _I64
    run_stretches: _I64
    run_sizes: _I64
    run_firsts: _I64
    run_offsets: _I64
    _order: _I64  # int64[R]: the runs by stretch, then kind
    _ordered_firsts: _I64  # int64[R]: of these the first slot among those of all stretches
    _stretch_firsts: _I64  # int64[T]: likewise of each stretch

    @classmethod
    def of(cls, kinds: _I64, counts: _I64) -> PackLine:
        """``kinds`` int64[J, S], ``counts`` int64[J]: as in ``PackKinds``; counts may be 0. The stretches are those of
        ``stretches(counts @ kinds, …)``."""
        # int64[J, T]: longest first, as the stretches are
        classes, ends = _ends(counts @ kinds)
        sizes = kinds[:, classes]
        firsts = np.cumsum(counts[:, np.newaxis] * sizes, axis=0) - counts[:, np.newaxis] * sizes
        of_kind, of_stretch = np.nonzero(sizes)
        order = np.lexsort((of_kind, of_stretch))
        run_firsts = firsts[of_kind, of_stretch]
        return cls(
            run_begins=np.searchsorted(of_kind, np.arange(len(kinds) + 1)),
            run_stretches=of_stretch,
            run_sizes=sizes[of_kind, of_stretch],
            run_firsts=run_firsts,
            run_offsets=(np.cumsum(sizes, axis=1) - sizes)[of_kind, of_stretch],
            _order=order,
            _ordered_firsts=(ends[of_stretch] + run_firsts)[order],
            _stretch_firsts=ends[:-1],
        )

    def runs(self, kinds: _I64, numbers: _I64) -> Runs:
        """Those of the packs ``numbers[i]`` of kind ``kinds[i]``, int64[n] each."""
        nums = np.diff(self.run_begins)[kinds]
        ends = np.cumsum(nums)
        of_pack = np.repeat(np.arange(len(kinds)), nums)
        runs = np.arange(len(of_pack)) + (self.run_begins[kinds] - ends + nums)[of_pack]
        sizes = self.run_sizes[runs]
        bounds = np.append(0, np.cumsum(sizes))[np.append(0, ends)]
        return Runs(bounds, self.run_stretches[runs], self.run_firsts[runs] + numbers[of_pack] * sizes, sizes)

    def find(self, stretches: _I64, numbers: _I64) -> SlotPlaces:
        """The inverse of ``runs``: the packs that have slot ``numbers[i]`` of stretch ``stretches[i]``, and where."""
        # a run without slots, of a kind without packs, begins where the next one does: the last one is meant
        of_all = self._stretch_firsts[stretches] + numbers
        runs = self._order[np.searchsorted(self._ordered_firsts, of_all, side="right") - 1]
        packs, within = np.divmod(numbers - self.run_firsts[runs], self.run_sizes[runs])
        kinds = np.searchsorted(self.run_begins, runs, side="right") - 1
        return SlotPlaces(kinds, packs, self.run_offsets[runs] + within)
