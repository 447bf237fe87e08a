"""The stream of an epoch: which batch stands at each position, and where each batch stands.

The batches of a kind are numbered from 0. ``lockstep`` consecutive ones of a kind are a *uniform unit*; what is left
over of all kinds, ordered by cost, fills *mixed units*, so that the batches of a step have neighbouring costs. (For a
given set of batches no grouping has a smaller sum of each unit's dearest: it is that of all batches sorted by cost and
cut into units.) The planner shuffles units with a keyed permutation, and turns each mixed unit by a keyed number of
places, so that no rank always gets the dearest batch. Where every kind has whole units, as with
``steps: "same_shape"``, there are no mixed ones.

Everything is O(kinds) an epoch and O(1) a batch, and inverts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.line.permutation import KeyedPermutations

_I64 = NDArray[np.int64]
MAX_COUNTED = 1 << 22
"""Batches that are looked at one by one to tell the imbalance of steps that span units."""

UNITS = 0
"""The domain of the units among the epoch's permutations."""


class Units(NamedTuple):
    """The units of an epoch that deals ``num_batches`` int64[K] of each of K kinds, before they are shuffled.

    ``starts`` int64[K]: where each kind's uniform units begin; ``num_uniform``, ``num_units``: how many there are.
    ``order`` int64[K]: the kinds, dearest first; ``places`` int64[K]: in that order, where each kind's left-over
    batches begin among all of them; ``firsts`` int64[K]: by kind, the number of its first left-over batch.
    """

    lockstep: int
    starts: _I64
    num_uniform: int
    num_units: int
    order: _I64
    places: _I64
    firsts: _I64

    @classmethod
    def of(cls, num_batches: _I64, order: _I64, lockstep: int) -> Units:
        """``num_batches`` have a multiple of ``lockstep`` as their sum."""
        uniform = num_batches // lockstep
        firsts = uniform * lockstep
        left = (num_batches - firsts)[order]
        num_mixed, rest = divmod(int(left.sum()), lockstep)
        assert not rest, "an epoch deals whole units"
        num_uniform = int(uniform.sum())
        starts, places = np.cumsum(uniform) - uniform, np.cumsum(left) - left
        return cls(lockstep, starts, num_uniform, num_uniform + num_mixed, order, places, firsts)

    @property
    def num_mixed(self) -> int:
        return self.num_units - self.num_uniform

    def mixed(self) -> _I64:
        """int64[num_mixed, lockstep]: the kinds of the mixed units' batches, dearest first in each."""
        places = np.arange(self.num_mixed * self.lockstep)
        at = np.searchsorted(self.places, places, side="right") - 1
        return self.order[at].reshape(-1, self.lockstep)

    def showing(self, shapes: Sequence[Sequence[int]], num_batches: _I64) -> list[int]:
        """Units that show a batch of each of the ``shapes``, lists of kinds, as far as the epoch deals one: in this
        order, a uniform one where there is one, and none for a shape that a mixed one before it has shown."""
        found: dict[int, None] = {}
        shown: set[int] = set()
        mixed = self.mixed()
        for kinds in shapes:
            dealt = [kind for kind in kinds if num_batches[kind]]
            if not dealt or not shown.isdisjoint(dealt):
                continue
            uniform = [kind for kind in dealt if self.firsts[kind]]
            if uniform:
                found[int(self.starts[uniform[0]])] = None
                continue
            place = int(self.places[np.flatnonzero(self.order == dealt[0])[0]])
            found[self.num_uniform + place // self.lockstep] = None
            shown.update(mixed[place // self.lockstep].tolist())
        return list(found)


class Stream:
    """``permutations``: the epoch's, whose domain ``UNITS`` has ``units.num_units``. ``turns`` int64[num_mixed]: by how
    many places each mixed unit is turned. ``begin``: units that come first, in this order, and ``end`` last; those that
    stood there go where these stood."""

    def __init__(
        self,
        units: Units,
        permutations: KeyedPermutations,
        turns: _I64,
        begin: Sequence[int] = (),
        end: Sequence[int] = (),
    ) -> None:
        self.units = units
        self._permutations = permutations
        self._turns = turns
        slots = [*range(len(begin)), *range(units.num_units - len(end), units.num_units)]
        # of most epochs none: looking at none takes a tenth of what it takes to start one
        self._moved_slots = self._moved_units = np.empty(0, dtype=np.int64)
        if slots:
            self._moved_slots, self._moved_units = self._moved(slots, [*begin, *end])

    @property
    def num_batches(self) -> int:
        return self.units.num_units * self.units.lockstep

    def batches(self, positions: _I64) -> tuple[_I64, _I64]:
        """The kinds of the batches at ``positions`` int64[n], and their numbers among those of their kind."""
        of = self.units
        slots, within = np.divmod(positions, of.lockstep)
        units = self._units(slots)
        kinds = np.searchsorted(of.starts, units, side="right") - 1
        numbers = (units - of.starts[kinds]) * of.lockstep + within
        if of.num_mixed:
            at = np.flatnonzero(units >= of.num_uniform)
            mixed = units[at] - of.num_uniform
            places = mixed * of.lockstep + (within[at] + self._turns[mixed]) % of.lockstep
            turn = np.searchsorted(of.places, places, side="right") - 1
            kinds[at] = of.order[turn]
            numbers[at] = of.firsts[kinds[at]] + places - of.places[turn]
        return kinds, numbers

    def positions(self, kinds: _I64, numbers: _I64) -> _I64:
        """int64[n]: where batches stand, which the epoch deals; the inverse of ``batches``."""
        of = self.units
        units, within = np.divmod(numbers, of.lockstep)
        units = units + of.starts[kinds]
        at = np.flatnonzero(numbers >= of.firsts[kinds])
        if len(at):
            turn = np.argsort(of.order)[kinds[at]]
            mixed, place = np.divmod(of.places[turn] + numbers[at] - of.firsts[kinds[at]], of.lockstep)
            units[at] = of.num_uniform + mixed
            within[at] = (place - self._turns[mixed]) % of.lockstep
        return self._slots(units) * of.lockstep + within

    def _units(self, slots: _I64) -> _I64:
        units = self._permutations.forward(np.full(len(slots), UNITS), slots)
        if len(self._moved_slots):
            at = np.minimum(np.searchsorted(self._moved_slots, slots), len(self._moved_slots) - 1)
            units = np.where(self._moved_slots[at] == slots, self._moved_units[at], units)
        return units

    def _slots(self, units: _I64) -> _I64:
        slots = self._permutations.inverse(np.full(len(units), UNITS), units)
        for slot, unit in zip(self._moved_slots, self._moved_units, strict=True):
            slots[units == unit] = slot
        return slots

    def _moved(self, slots: Sequence[int], chosen: Sequence[int]) -> tuple[_I64, _I64]:
        """Slots, ascending, whose units are not the permutation's where the ``chosen`` units stand at ``slots``, and
        those units."""
        domains = np.full(len(slots), UNITS)
        units = self._permutations.forward(domains, np.array(slots, dtype=np.int64)).tolist()
        homes = self._permutations.inverse(domains, np.array(chosen, dtype=np.int64)).tolist()
        unit_at: dict[int, int] = {}
        slot_of: dict[int, int] = {}
        for slot, own, unit, home in zip(slots, units, chosen, homes, strict=True):
            here, there = unit_at.get(slot, own), slot_of.get(unit, home)
            unit_at[slot], slot_of[unit] = unit, slot
            if here != unit:
                unit_at[there], slot_of[here] = here, there
        moved = np.array(sorted(unit_at.items()), dtype=np.int64).reshape(-1, 2)
        return moved[:, 0].copy(), moved[:, 1].copy()

    def imbalance(self, costs: NDArray[np.float64], world_size: int) -> float:
        """Over the steps that deal the stream to ``world_size`` ranks: the sum of each step's dearest batch over the
        sum of each step's mean batch, 1 where there is no step. ``costs`` float64[K] of a batch of each kind. Where
        steps span units, of as many steps as have ``MAX_COUNTED`` batches."""
        lockstep = self.units.lockstep
        dearest = mean = 0.0
        if lockstep % world_size == 0:
            kinds = self._mixed()
            dearest = mean = float((self.units.firsts * costs).sum()) / world_size
        else:
            num_steps = min(self.num_batches, MAX_COUNTED) // world_size
            kinds, _ = self.batches(np.arange(num_steps * world_size))
        steps = costs[kinds].reshape(-1, world_size)
        dearest += float(steps.max(axis=1).sum())
        mean += float(steps.mean(axis=1).sum())
        return dearest / mean if mean else 1.0

    def num_mixed_steps(self, offset: int, world_size: int, shapes: _I64) -> int:
        """Of the steps that deal the stream from position ``offset`` on to ``world_size`` ranks, how many span units,
        or lie in a mixed unit with several of the ``shapes`` int64[K]. O(lockstep) for each mixed unit."""
        lockstep = self.units.lockstep
        # where a step begins inside its unit repeats after lockstep steps at the latest: count one such period
        num_steps = max(0, self.num_batches - offset) // world_size
        begins = (offset + world_size * np.arange(min(lockstep, num_steps))) % lockstep
        is_spanning = begins + world_size > lockstep
        periods, rest = divmod(num_steps, lockstep)
        found = periods * int(is_spanning.sum()) + int(is_spanning[:rest].sum())
        mixed = shapes[self._mixed()]
        has_several = (mixed != mixed[:, :1]).any(axis=1)
        slots = self._slots(self.units.num_uniform + np.flatnonzero(has_several))
        within = np.arange(lockstep)
        steps, at = np.divmod(slots[:, np.newaxis] * lockstep + within - offset, world_size)
        # those that lie in their unit as a whole
        is_inside = (
            (steps >= 0) & (steps < num_steps) & (within >= at) & (within - at + world_size <= lockstep)
        )
        # a step and a shape in one number
        pairs = np.unique(steps[is_inside] * len(shapes) + mixed[has_several][is_inside])
        return found + int((np.unique(pairs // len(shapes), return_counts=True)[1] > 1).sum())

    def _mixed(self) -> _I64:
        """int64[num_mixed, lockstep]: the kinds of the mixed units' batches, in the order of the stream."""
        turned = (np.arange(self.units.lockstep) + self._turns[:, np.newaxis]) % self.units.lockstep
        return np.take_along_axis(self.units.mixed(), turned, axis=1)
