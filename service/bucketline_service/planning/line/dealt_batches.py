"""How many batches of each target an epoch deals, where all whole batches together do not make whole units.

What does not fill the last unit is left out, or the last unit is filled with repeats, *evenly over images*: drawing
whole batches evenly would not do, because a bucket whose remainder is left out anyhow must bear less of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.line.batch_kinds import Dealt, TargetKinds
from bucketline_service.planning.line.remainders import Layout

_I64 = NDArray[np.int64]


class DealtBatches:
    """Of epochs of one ``layout`` of G targets, in ``num_units`` units of ``lockstep`` batches: what does not fill the
    last unit is left out, or the last unit is filled. Implements ``Dealing``. ``costs`` float64[G] and ``shapes``
    int64[G] of a batch of each target.

    Let target g have n images, B of them in a batch, m batches, and so n - m B images that none of them takes. To serve
    every image equally often, by a share of 1 - s, an epoch must leave out ``(n s - (n - m B)) / B`` of its batches;
    s follows from how many are left out of all. Targets that leave out more anyhow leave out no batch. All weights are
    multiplied to integers, so that nothing is rounded; they pass 2**63.
    """

    def __init__(
        self, layout: Layout, num_units: int, lockstep: int, costs: NDArray[np.float64], shapes: _I64
    ) -> None:
        self._layout = layout
        self._lockstep = lockstep
        self._costs = costs
        self._shapes = shapes
        self.num_units = num_units
        # where the last batch of a target may be short, empty batches fill the last unit
        self._out = 0 if layout.is_short else int(layout.num_batches.sum()) - num_units * lockstep

    @cached_property
    def _weights(self) -> tuple[list[int], int]:
        """Of each target how much of what is left out, or filled in, it bears; and the sum."""
        of = self._layout
        is_there = of.num_batches > 0  # others are served in no epoch
        scale = math.lcm(*np.unique(of.batch_sizes[is_there]).tolist())
        of_batches = [scale // size for size in of.batch_sizes.tolist()]
        lengths = [int(n) * share for n, share in zip(of.lengths * is_there, of_batches, strict=True)]
        rests = (of.lengths - of.served) * is_there
        missing = [int(n) * share for n, share in zip(rests, of_batches, strict=True)]
        total, of_all = sum(lengths), self._out * scale + sum(missing)
        sign = -1 if self._out < 0 else 1
        weights = [
            max(0, sign * (length * of_all - rest * total))
            for length, rest in zip(lengths, missing, strict=True)
        ]
        return weights, sum(weights)

    def deal(self, words: Sequence[int], *, shows_each: bool = False) -> Dealt:
        num_batches = self._layout.num_batches
        if self._out:
            sign = 1 if self._out > 0 else -1
            num_batches = num_batches - sign * systematic(*self._weights, abs(self._out), words[0])
        if shows_each:
            num_batches = with_each(num_batches, self._layout.num_batches, self._costs)
        dealt = self._layout.dealing(num_batches)
        # ``pad`` repeats as well, from the first place on
        is_turned = (dealt.left_out > 0) | (num_batches > self._layout.num_batches)
        return Dealt(dealt, TargetKinds.of(dealt, self._costs, self._shapes, self._lockstep), is_turned)


def systematic(weights: Sequence[int], total: int, num: int, word: int) -> _I64:
    """int64[n]: of ``num`` the share of each, by ``weights`` whose sum is ``total``: the integer below it or the one
    above. A systematic sample, by a word that is uniform in [0, 2**64)."""
    at = word * total >> 64
    before, found = 0, []
    running = 0
    for weight in weights:
        running += weight
        now = (running * num + at) // total
        found.append(now - before)
        before = now
    return np.array(found, dtype=np.int64)


def with_each(num_batches: _I64, there: _I64, costs: NDArray[np.float64]) -> _I64:
    """The same number of batches, with one of each of which any is ``there``, dearest first, as far as there are some
    with several to take it from."""
    num_batches = num_batches.copy()
    for each in np.argsort(-costs, kind="stable"):
        if there[each] and not num_batches[each]:
            most = int(np.argmax(num_batches))
            if num_batches[most] < 2:
                break
            num_batches[most] -= 1
            num_batches[each] = 1
    return num_batches
