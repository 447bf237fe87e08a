"""What becomes of the images that do not fill a batch: the tail policies, as layouts of one tape.

All assigned images stand on a *tape*, bucket after bucket; a layout cuts it into one stretch for each *target* (a
bucket that batches are drawn from). A target serves ``num_batches * batch_size`` places of its stretch:

- fewer than it has: the rest is left out. Serving starts at a keyed point of the stretch and wraps around, so that it
  is a different rest each epoch and every place has the same chance;
- more than it has (``pad``): it wraps around as well, and what comes again is a repeat.

So one piece of arithmetic serves every policy, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_I64 = NDArray[np.int64]

Edges = Sequence[int] | None
"""Where the sections of buckets begin, and the last one ends. None: all buckets are one section."""


@dataclass(frozen=True)
class Tape:
    """The tape and its targets. B buckets, G targets, P pieces of tape.

    Target g has the stretch of ``lengths[g]`` places from ``begins[g]`` on, of which an epoch serves ``served[g]``,
    repeats included; all int64[G]; the stretches lie in order and cover the tape. Piece p is a run of consecutive
    places of one bucket: it begins at tape place ``piece_begins[p]``, which is place ``piece_places[p]`` of bucket
    ``piece_buckets[p]``; all int64[P], no piece is empty.
    """

    begins: _I64
    lengths: _I64
    served: _I64
    piece_begins: _I64
    piece_buckets: _I64
    piece_places: _I64

    @property
    def left_out(self) -> _I64:
        """int64[G]: images of the target's stretch that an epoch leaves out."""
        out: _I64 = np.maximum(self.lengths - self.served, 0)
        return out

    @property
    def repeated(self) -> _I64:
        """int64[G]: images that an epoch serves a further time."""
        again: _I64 = np.maximum(self.served - self.lengths, 0)
        return again

    def flows(self) -> list[tuple[int, int, int]]:
        """(bucket, target, images): how many images of a bucket lie in a target's stretch; zeros are not listed."""
        ends = np.append(self.piece_begins[1:], int(self.lengths.sum()))
        cuts = np.unique(np.concatenate([self.piece_begins, self.begins, ends]))
        begins, sizes = cuts[:-1], np.diff(cuts)
        buckets = self.piece_buckets[np.searchsorted(self.piece_begins, begins, side="right") - 1]
        targets = np.searchsorted(self.begins, begins, side="right") - 1
        totals: dict[tuple[int, int], int] = {}
        for bucket, target, size in zip(buckets.tolist(), targets.tolist(), sizes.tolist(), strict=True):
            totals[bucket, target] = totals.get((bucket, target), 0) + size
        return [(bucket, target, size) for (bucket, target), size in sorted(totals.items())]

    def in_service(self, num_buckets: int) -> NDArray[np.bool_]:
        """bool[B]: whether a place of the bucket is served. Which images stand where changes each epoch: where one
        place is, none is left out in every epoch."""
        found = np.zeros(num_buckets, dtype=np.bool_)
        found[[bucket for bucket, target, _ in self.flows() if self.served[target]]] = True
        return found


@dataclass(frozen=True)
class Layout(Tape):
    """A tape whose batches are of one target each: ``num_batches``, ``batch_sizes`` int64[G]. G is B, or B + 1 with a
    catch-all. ``is_short``: the last batch of a target has the images that are left for it, which may be few."""

    batch_sizes: _I64
    num_batches: _I64
    is_short: bool = False

    def dealing(self, num_batches: _I64) -> Layout:
        """The same tape, of which an epoch deals another number of batches, int64[G]."""
        served = num_batches * self.batch_sizes
        if self.is_short:
            served = np.minimum(served, self.lengths)
        return replace(self, num_batches=num_batches, served=served)


def pieces_of(pieces: list[tuple[int, int, int]]) -> tuple[_I64, _I64, _I64]:
    """``piece_begins``, ``piece_buckets`` and ``piece_places`` of (bucket, first place, size) in tape order."""
    table = np.array([piece for piece in pieces if piece[2] > 0], dtype=np.int64).reshape(-1, 3)
    return np.cumsum(table[:, 2]) - table[:, 2], table[:, 0].copy(), table[:, 1].copy()


def whole(counts: _I64) -> list[tuple[int, int, int]]:
    """(bucket, first place, size) of each bucket, of ``counts`` int64[B] places, one after the other."""
    return [(bucket, 0, size) for bucket, size in enumerate(counts.tolist())]


def _layout(
    batch_sizes: _I64, num_batches: _I64, lengths: _I64, pieces: list[tuple[int, int, int]]
) -> Layout:
    """``pieces``: (bucket, first place, size) in tape order."""
    return Layout(
        np.cumsum(lengths) - lengths,
        lengths,
        num_batches * batch_sizes,
        *pieces_of(pieces),
        batch_sizes=batch_sizes,
        num_batches=num_batches,
    )


def drop(counts: _I64, batch_sizes: _I64, multiple: int = 1, edges: Edges = None) -> Layout:
    """Leave the tails out. A bucket of fewer images than ``multiple`` batches is never served."""
    return _layout(batch_sizes, counts // (batch_sizes * multiple) * multiple, counts, whole(counts))


def pad(counts: _I64, batch_sizes: _I64, multiple: int = 1, edges: Edges = None) -> Layout:
    """Fill each tail with further comings of the same bucket's images."""
    return _layout(batch_sizes, -(-counts // (batch_sizes * multiple)) * multiple, counts, whole(counts))


def short(counts: _I64, batch_sizes: _I64, multiple: int = 1, edges: Edges = None) -> Layout:
    """Serve each tail in a short batch. ``multiple`` is 1."""
    return replace(pad(counts, batch_sizes, multiple, edges), served=counts, is_short=True)


def spill(counts: _I64, batch_sizes: _I64, multiple: int = 1, edges: Edges = None) -> Layout:
    """Cut the tape from both ends toward the largest bucket; each tail begins the neighbour's first batches. What is
    left of the largest bucket's stretch, fewer images than ``multiple`` batches, is all that this leaves out. Each
    section has a largest bucket of its own: no image goes to another tier or length."""
    lengths = np.zeros_like(counts)
    unit_sizes = batch_sizes * multiple
    edges = [0, len(counts)] if edges is None else edges
    for begin, end in pairwise(edges):
        middle = begin + int(np.argmax(counts[begin:end]))
        carried = 0
        for inward in (range(begin, middle), range(end - 1, middle, -1)):
            carry = 0
            for bucket in inward:
                units, carry_on = divmod(carry + int(counts[bucket]), int(unit_sizes[bucket]))
                lengths[bucket], carry = units * unit_sizes[bucket], carry_on
            carried += carry
        lengths[middle] = carried + counts[middle]
    return _layout(batch_sizes, lengths // unit_sizes * multiple, lengths, whole(counts))


def catch_all(counts: _I64, batch_sizes: _I64, multiple: int = 1, edges: Edges = None) -> Layout:
    """Gather all tails in one more target, the last (NovelAI's left-over bucket); what does not fill ``multiple``
    batches of it is left out. ``batch_sizes`` int64[B + 1]."""
    unit_sizes = batch_sizes * multiple
    heads = counts // unit_sizes[:-1] * unit_sizes[:-1]
    tails = counts - heads
    pieces = [(bucket, 0, size) for bucket, size in enumerate(heads.tolist())]
    pieces += [(bucket, heads[bucket], size) for bucket, size in enumerate(tails.tolist())]
    lengths = np.append(heads, tails.sum())
    return _layout(batch_sizes, lengths // unit_sizes * multiple, lengths, pieces)


class Policy(Protocol):
    """``counts`` int64[B] samples of each bucket; ``batch_sizes`` int64[G]; each target gets a multiple of ``multiple``
    batches: ``lockstep`` with ``steps: "same_shape"``, else 1."""

    def __call__(self, counts: _I64, batch_sizes: _I64, multiple: int = 1, edges: Edges = None) -> Layout: ...


POLICIES: dict[str, Policy] = {
    "shift": drop,
    "spill": spill,
    "pad": pad,
    "drop": drop,
    "catch_all": catch_all,
    "short": short,
}
"""By the name of ``tails``. ``shift`` moves images between buckets once, when a plan is built
(``moved_boundaries.py``); what its epochs leave out is the remainder of each section, all in one bucket."""

_ALONE = ("shift", "drop", "pad", "short")  # no image of one bucket stands in another's stretch


def may_serve(
    policy: str, least: _I64, most: _I64, batch_sizes: _I64, multiple: int = 1, edges: Edges = None
) -> NDArray[np.bool_]:
    """bool[B]: False where no epoch serves a place of the bucket, of ``least`` to ``most`` samples, int64[B]. True
    where one may: that is exact where the two are the same, and for ``shift``, ``drop``, ``pad`` and
    ``short``."""
    exact = POLICIES[policy](most, batch_sizes, multiple, edges).in_service(len(most))
    is_same = least == most
    if is_same.all() or policy in _ALONE:  # there, more samples take no batch away
        return exact
    unit_sizes = batch_sizes * multiple
    if policy == "catch_all":
        sizes = unit_sizes[:-1]
        tails = np.minimum(least % sizes + most - least, sizes - 1)
        return (most >= sizes) | ((most > 0) & bool(tails.sum() >= unit_sizes[-1]))
    for begin, end in pairwise([0, len(most)] if edges is None else edges):
        section = slice(begin, end)
        if not is_same[section].all():
            has_unit = bool(most[section].sum() >= unit_sizes[section].min())
            exact[section] = (most[section] > 0) & has_unit
    return exact


def least_batches(
    policy: str, counts: _I64, batch_sizes: _I64, multiple: int = 1, edges: Edges = None
) -> int:
    """How many batches there are at least where the buckets have ``counts`` samples or more. For ``spill`` and
    ``catch_all`` the larger of two bounds, for each section, and there may be more."""
    if policy in _ALONE:
        return int(POLICIES[policy](counts, batch_sizes, multiple, edges).num_batches.sum())
    # A sample more may end a unit of many where there were several of few. But what is left out of a section is less
    # than a unit; and what is carried to a bucket only adds to its own samples, so that it has no fewer units than
    # these alone make. The first bound is near where units are about equal, the second where a few are large.
    unit_sizes = batch_sizes * multiple
    edges = [0, len(counts)] if edges is None else edges
    largest = unit_sizes[-1] if policy == "catch_all" else 0
    own = counts // unit_sizes[: len(counts)]
    num_units = sum(
        max(
            int(counts[begin:end].sum()) // int(max(unit_sizes[begin:end].max(), largest)),
            int(own[begin:end].sum()),
        )
        for begin, end in pairwise(edges)
    )
    return num_units * multiple
