"""Which packs an epoch deals, and the tape that their slots are filled from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.line.batch_kinds import Dealt, PackedKinds
from bucketline_service.planning.line.dealt_batches import systematic, with_each
from bucketline_service.planning.line.remainders import Tape, pieces_of, whole
from bucketline_service.planning.packing.pack_kinds import PackKinds
from bucketline_service.planning.packing.slots import PackLine, stretches

_I64 = NDArray[np.int64]


class DealtPacks:
    """Of epochs of ``counts`` int64[B] samples of each length, the longest first, in units of ``lockstep`` packs.
    Implements ``Dealing``. ``costs`` float64[J] and ``shapes`` int64[J] of a pack of each kind.

    The packs that do not fill a unit are left out, of each kind its share; the stretches then spread over all images
    what has no slot. A target is the stretch of one length of slot, and has the number of that length's bucket.
    """

    def __init__(
        self,
        packs: PackKinds,
        counts: _I64,
        num_units: int,
        lockstep: int,
        costs: NDArray[np.float64],
        shapes: _I64,
    ) -> None:
        self._packs = packs
        self._counts = counts
        self._costs = costs
        self._shapes = shapes
        self.num_units = num_units
        self._out = packs.num_packs - num_units * lockstep

    def deal(self, words: Sequence[int], *, shows_each: bool = False) -> Dealt:
        kinds, there = self._packs.kinds, self._packs.counts
        dealt = there
        if self._out:
            dealt = there - systematic(there.tolist(), self._packs.num_packs, self._out, words[0])
        if shows_each:
            dealt = with_each(dealt, there, self._costs)
        num_buckets = len(self._counts)
        found = stretches(dealt @ kinds, self._counts[::-1], words[1] >> 32)
        targets = num_buckets - 1 - found.classes
        lengths, served = np.zeros(num_buckets, np.int64), np.zeros(num_buckets, np.int64)
        lengths[targets], served[targets] = found.lengths, found.num_slots
        # the images that are longer than all slots belong to the longest length, which then has none
        lengths[0] += found.begins[0] if len(targets) else self._counts.sum()
        tape = Tape(np.cumsum(lengths) - lengths, lengths, served, *self._pieces)
        numbers = np.zeros(num_buckets, dtype=np.int64)
        numbers[targets] = np.arange(len(targets))
        line = PackLine.of(kinds, dealt)
        of = PackedKinds(line, targets, numbers, self._costs, dealt, self._shapes, kinds.sum(axis=1))
        return Dealt(tape, of, tape.left_out > 0)

    @cached_property
    def _pieces(self) -> tuple[_I64, _I64, _I64]:
        return pieces_of(whole(self._counts))
