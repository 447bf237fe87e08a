"""How many batches of each target an epoch deals, where all whole batches together do not make whole units.

What does not fill the last unit is left out, or the last unit is filled with repeats, *evenly over images*: drawing
whole batches evenly would not do, because a bucket whose remainder is left out anyhow must bear less of it.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.line.remainders import Layout

_I64 = NDArray[np.int64]


class DealtBatches:
    """Of epochs of one ``layout`` of G targets, in units of ``lockstep`` batches. ``fills``: the last unit is filled;
    otherwise what does not fill it is left out.

    Let target g have n images, B of them in a batch, m batches, and so n - m B images that none of them takes. To serve
    every image equally often, by a share of 1 - s, an epoch must leave out ``(n s - (n - m B)) / B`` of its batches;
    s follows from how many are left out of all. Targets that leave out more anyhow leave out no batch. All weights are
    multiplied to integers, so that nothing is rounded; they pass 2**63.
    """

    def __init__(self, layout: Layout, lockstep: int, *, fills: bool = False) -> None:
        self._layout = layout
        num = int(layout.num_batches.sum())
        self.num_units = -(-num // lockstep) if fills or layout.is_short else num // lockstep
        # where the last batch of a target may be short, empty batches fill the last unit
        self._out = 0 if layout.is_short else num - self.num_units * lockstep

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

    def draw(self, word: int) -> _I64:
        """int64[G]: of the epoch with this key word, an integer in [0, 2**64). A systematic sample: each target bears
        the integer below its share or the one above."""
        if not self._out:
            return self._layout.num_batches
        weights, total = self._weights
        at = word * total >> 64
        before, found = 0, []
        running = 0
        for weight in weights:
            running += weight
            now = (running * abs(self._out) + at) // total
            found.append(now - before)
            before = now
        drawn = np.array(found, dtype=np.int64)
        return self._layout.num_batches - (drawn if self._out > 0 else -drawn)
