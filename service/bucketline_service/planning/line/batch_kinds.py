"""Batch kinds: what the batches of a stream are made of.

All batches of a kind have the same numbers of images of the same targets: a *run* of consecutive images of each. Most
kinds draw from one target. Where a target's last batch may be short it is a kind of its own, and so are the empty
batches that fill the last unit. Packs draw from several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.line.remainders import Layout, Tape
from bucketline_service.planning.packing.slots import PackLine, Runs, SlotPlaces

_I64 = NDArray[np.int64]
_F64 = NDArray[np.float64]


class BatchKinds(Protocol):
    """K kinds. Batch n of a kind is the n-th of those that the epoch deals."""

    @property
    def costs(self) -> _F64:
        """float64[K] of a batch."""

    @property
    def num_batches(self) -> _I64:
        """int64[K] that the epoch deals."""

    @property
    def shapes(self) -> _I64:
        """int64[K]: the number of the shape of a batch, 0 for the largest."""

    @property
    def sizes(self) -> _I64:
        """int64[K]: images of a batch."""

    def named(self, kinds: _I64) -> _I64:
        """What a batch of each is called where it is handed out, ``BatchBlock.buckets``."""

    def runs(self, kinds: _I64, numbers: _I64) -> Runs:
        """The images of batches ``numbers[i]`` of kind ``kinds[i]``: of the target ``stretches[j]`` those that it
        serves as its ``firsts[j]``-th to ``firsts[j] + sizes[j] - 1``-th."""

    def of_images(self, targets: _I64, served: _I64) -> SlotPlaces:
        """The inverse: where the ``served[i]``-th image that ``targets[i]`` serves is."""


def num_empty(kinds: BatchKinds) -> int:
    """Batches without an image."""
    return int(kinds.num_batches[kinds.sizes == 0].sum())


def by_shape(kinds: BatchKinds) -> list[list[int]]:
    """The kinds of each shape, the largest first, without those that have no image."""
    found: list[list[int]] = [[] for _ in range(int(kinds.shapes.max()) + 1)]
    for kind in np.flatnonzero(kinds.sizes > 0).tolist():
        found[int(kinds.shapes[kind])].append(kind)
    return found


class Dealt(NamedTuple):
    """What an epoch deals. ``is_turned`` bool[G]: whether the target begins to serve at a drawn place of its stretch,
    because it does not serve all places equally often."""

    tape: Tape
    kinds: BatchKinds
    is_turned: NDArray[np.bool_]


class Dealing(Protocol):
    """What epochs deal that have the same numbers of samples."""

    @property
    def num_units(self) -> int:
        """Units of each of these epochs."""

    def deal(self, words: Sequence[int], *, shows_each: bool = False) -> Dealt:
        """The epoch with these two key words, integers in [0, 2**64). ``shows_each``: with a batch of each target or
        kind of pack, as far as there are batches for it."""


@dataclass(frozen=True)
class TargetKinds:
    """Kinds of one target each, all [K]: ``targets``; ``sizes``: images of a batch; ``starts``: which of the images
    that its target serves is the first of the kind's first batch. Implements ``BatchKinds``."""

    targets: _I64
    sizes: _I64
    starts: _I64
    costs: _F64
    num_batches: _I64
    shapes: _I64

    @classmethod
    def of(cls, layout: Layout, costs: _F64, shapes: _I64, lockstep: int) -> TargetKinds:
        """``costs`` float64[G] of a whole batch of each target, and ``shapes`` int64[G]. A short batch is taken to cost
        its share of a whole one. With ``layout.is_short`` kind g is that of target g's whole batches, kind G + g its
        short one, and the last the empty ones, as many as the last unit lacks."""
        num_batches = layout.num_batches
        targets = np.arange(len(num_batches))
        if not layout.is_short:
            return cls(targets, layout.batch_sizes, np.zeros_like(targets), costs, num_batches, shapes)
        full, rests = np.divmod(layout.lengths, layout.batch_sizes)
        num_empty = -int(num_batches.sum()) % lockstep
        cheapest = int(np.argmin(np.where(num_batches > 0, costs, np.inf)))
        return cls(
            np.concatenate([targets, targets, [cheapest]]),
            np.concatenate([layout.batch_sizes, rests, [0]]),
            np.concatenate([np.zeros_like(targets), full * layout.batch_sizes, [0]]),
            np.concatenate([costs, costs * rests / layout.batch_sizes, [0.0]]),
            np.concatenate([full, rests > 0, [num_empty]]).astype(np.int64),
            np.concatenate([shapes, shapes, [shapes[cheapest]]]),
        )

    def named(self, kinds: _I64) -> _I64:
        return self.targets[kinds]

    def runs(self, kinds: _I64, numbers: _I64) -> Runs:
        sizes = self.sizes[kinds]
        bounds = np.zeros(len(kinds) + 1, dtype=np.int64)
        np.cumsum(sizes, out=bounds[1:])
        return Runs(bounds, self.targets[kinds], self.starts[kinds] + numbers * sizes, sizes)

    def of_images(self, targets: _I64, served: _I64) -> SlotPlaces:
        numbers, slots = np.divmod(served, self.sizes[targets])
        kinds = targets
        is_short = numbers >= self.num_batches[targets]
        if is_short.any():
            kinds = np.where(is_short, targets + (len(self.sizes) - 1) // 2, targets)
            numbers = np.where(is_short, 0, numbers)
        return SlotPlaces(kinds, numbers, slots)


@dataclass(frozen=True)
class PackedKinds:
    """Kinds of pack. ``line``: their slots; ``targets`` int64[T]: that of each of its stretches; ``stretches``
    int64[G]: the inverse, for targets that have slots. Implements ``BatchKinds``."""

    line: PackLine
    targets: _I64
    stretches: _I64
    costs: _F64
    num_batches: _I64
    shapes: _I64
    sizes: _I64

    def named(self, kinds: _I64) -> _I64:
        return kinds

    def runs(self, kinds: _I64, numbers: _I64) -> Runs:
        found = self.line.runs(kinds, numbers)
        return found._replace(stretches=self.targets[found.stretches])

    def of_images(self, targets: _I64, served: _I64) -> SlotPlaces:
        return self.line.find(self.stretches[targets], served)
