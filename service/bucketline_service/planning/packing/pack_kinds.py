"""Pack kinds: the few packs, each used many times, that hold all images in the fewest budgets of tokens.

This is the cutting-stock problem with one freedom more, that a short image may take a longer slot. It is solved as
Gilmore and Gomory do ("A linear programming approach to the cutting-stock problem", 1961): a linear programme over the
kinds that are known, whose dual prices say what a slot is worth; the most valuable pack at these prices, a knapsack,
joins the kinds until none is worth more than a pack costs. What rounding down leaves is packed by an integer programme
over all kinds seen on the way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.packing.knapsack import most_valuable
from bucketline_service.planning.packing.lengths import grid
from bucketline_service.planning.packing.solver import INFINITY, Program

ONE_LEFT_OUT_IN = 200
"""At most one in so many images of each length or longer has no slot."""

_NO_GAIN = 1e-6  # of a pack: ten times the tolerance of the linear programme's prices
_MAX_NODES = 50  # of the integer search: with 32 lengths most data sets take one, and it at most two seconds
_GAP = 5e-3  # of the packs that are searched for, which are about as many as lengths: so less than one

_I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PackKinds:
    """``lengths`` int64[S] in tokens, ascending. ``kinds`` int64[J, S]: slots of each length in a pack of each kind,
    never of more than ``max_tokens`` together; the kinds with the longest slots come first. ``counts`` int64[J]:
    packs of each kind, at least 1.

    ``fit_pack_kinds`` finds them once for a data set. HiGHS may decide ties in another way in another version, so a
    plan must keep them, not find them again.
    """

    max_tokens: int
    lengths: _I64
    kinds: _I64
    counts: _I64

    @classmethod
    def none(cls, max_tokens: int, lengths: _I64 | None = None) -> PackKinds:
        """No packs yet, of images of ``lengths`` int64[S]."""
        lengths = np.array([max_tokens]) if lengths is None else lengths
        return cls(max_tokens, lengths, np.empty((0, len(lengths)), np.int64), np.empty(0, np.int64))

    @property
    def num_packs(self) -> int:
        return int(self.counts.sum())

    @property
    def slots(self) -> _I64:
        """int64[S]: slots of each length in all packs."""
        slots: _I64 = self.counts @ self.kinds
        return slots


def fit_pack_kinds(images: _I64, lengths: _I64, max_tokens: int) -> PackKinds:
    """The packs of ``max_tokens`` tokens for ``images`` int64[S] of each of the ascending ``lengths`` int64[S], which
    are as ``choose_lengths`` gives them.

    Every slot can be filled with an image of its length or a shorter one, and at every length all but one in
    ``ONE_LEFT_OUT_IN`` of the images of that length or longer have a slot. The number of packs is near the least for
    these lengths: what exceeds the bound of the linear programme comes from rounding, so is at most about as many packs
    as there are lengths. Time and memory do not depend on the number of images.
    """
    if not images.any():
        return PackKinds.none(max_tokens, lengths)
    kinds, packs = generate_columns(images, lengths, max_tokens)
    counts = np.floor(packs + 1e-9).astype(np.int64)
    more, num_more = first_fit_decreasing(_not_held(images, counts @ kinds), lengths, max_tokens)
    kinds = np.concatenate([kinds, more])
    counts = np.append(counts, np.zeros_like(num_more))
    start = np.append(np.zeros(len(kinds) - len(more), dtype=np.int64), num_more)
    counts += _pack_the_rest(images, images - counts @ kinds, kinds, start)
    # what first fit and the knapsack have both found is one kind; the longest slots are compared first
    different, of = np.unique(-kinds[:, ::-1], axis=0, return_inverse=True)
    counts = np.bincount(of.reshape(-1), weights=counts, minlength=len(different)).astype(np.int64)
    return PackKinds(max_tokens, lengths, -different[counts > 0, ::-1], counts[counts > 0])


def generate_columns(images: _I64, lengths: _I64, max_tokens: int) -> tuple[_I64, NDArray[np.float64]]:
    """The linear programme's optimum over all packs that fit: kinds int64[C, S], all that the search has seen, and
    how much of each is used, float64[C]; the sum of these is the least number of packs, which no whole packs that hold
    all images can have less of.

    Slots of a length or shorter ones are never more than the images of that length or shorter ones, who alone can fill
    them; all lengths together have as many slots as images.
    """
    least_from = np.append(images.sum(), np.zeros(len(images) - 1, dtype=np.int64))
    program = _slot_program(np.cumsum(images), least_from)
    cells = grid(max_tokens)
    # a length that is no multiple of the grid is the budget itself, and fills all cells
    sizes, capacity = lengths // cells, max_tokens // cells
    kinds = np.diag(max_tokens // lengths)
    for kind in kinds:
        _add_kind(program, kind)
    seen = {kind.tobytes() for kind in kinds}
    while True:
        values, prices = program.solve()
        worth, kind = most_valuable(prices[: len(images)], sizes, capacity)
        if (
            worth <= 1 + _NO_GAIN or kind.tobytes() in seen
        ):  # a known kind gains nothing, whatever rounding says
            return kinds, values[len(images) :]
        seen.add(kind.tobytes())
        kinds = np.concatenate([kinds, kind[np.newaxis]])
        _add_kind(program, kind)


def _slot_program(most_up_to: _I64, least_from: _I64) -> Program:
    """The fewest packs with at most ``most_up_to`` int64[S] slots of each length or shorter ones, and at least
    ``least_from`` int64[S] of each length or longer ones.

    The first S variables are the slots of each length or shorter ones; the first S rows say so, each by what it adds to
    the one before. So a pack counts only in the rows of its own lengths, and their prices are those of a slot. The last
    S rows hold the slots of each length or longer ones: all slots, less those of shorter ones.
    """
    num = len(most_up_to)
    nothing = np.zeros(num)
    program = Program(np.append(nothing, least_from), np.append(nothing, np.full(num, INFINITY)))
    # [variable, row]: the slots up to a length end its own row and begin the next one
    next_one = np.eye(num, k=1, dtype=np.int64)
    adds_up = next_one - np.eye(num, dtype=np.int64)
    longer = -next_one
    longer[-1] = 1
    for column, most in zip(np.hstack([adds_up, longer]), most_up_to.tolist(), strict=True):
        program.add(column, 0.0, most)
    return program


def _add_kind(program: Program, kind: _I64) -> None:
    program.add(np.append(kind, np.zeros_like(kind)), 1.0)


def _not_held(images: _I64, slots: _I64) -> _I64:
    """int64[S]: images of each length that have no slot, where a slot holds one of its length, else a shorter one."""
    rest = images - slots
    for length in range(len(rest) - 1, 0, -1):
        # slots beyond the images of their length take shorter ones
        spare = min(0, int(rest[length]))
        rest[length] -= spare
        rest[length - 1] += spare
    return rest


def first_fit_decreasing(images: _I64, lengths: _I64, max_tokens: int) -> tuple[_I64, _I64]:
    """Packs for ``images`` int64[S] of each length, filled one after the other with the longest image that fits. Kinds
    int64[J, S], and how many of each follow each other, int64[J]."""
    rest = images.copy()
    kinds, counts = [np.empty((0, len(lengths)), dtype=np.int64)], []
    while rest.any():
        kind = np.zeros_like(rest)
        room = max_tokens
        for length in range(len(lengths) - 1, -1, -1):
            kind[length] = min(int(rest[length]), room // int(lengths[length]))
            room -= int(kind[length] * lengths[length])
        count = int((rest[kind > 0] // kind[kind > 0]).min())
        rest -= count * kind
        kinds.append(kind[np.newaxis])
        counts.append(count)
    return np.concatenate(kinds), np.array(counts, dtype=np.int64)


def _pack_the_rest(images: _I64, rest: _I64, kinds: _I64, start: _I64) -> _I64:
    """Of each kind the packs that hold the ``rest`` int64[S] of the images, the fewest: int64[C]. ``rest`` is below 0
    where shorter images stand in slots of that length. ``start`` int64[C] holds all of it."""
    may_be_left_out = np.cumsum(images[::-1]) // ONE_LEFT_OUT_IN
    least_from = (np.cumsum(rest[::-1]) - may_be_left_out)[::-1]
    program = _slot_program(np.cumsum(rest), least_from)
    for kind in kinds:
        _add_kind(program, kind)
    found = program.solve_in_integers(_MAX_NODES, _GAP)
    if found is None or found[len(rest) :].sum() >= start.sum():
        return start  # which leaves no image out
    return found[len(rest) :]
