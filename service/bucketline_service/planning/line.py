"""The ``line`` planner: an epoch costs nothing to start (DESIGN 4.2, docs/planning.md).

Everything per epoch is arithmetic on the line: a keyed permutation of the units gives each stretch of the stream its
bucket, a keyed permutation inside each bucket gives each place its image, and both invert. Seed, epoch and position are
all that a batch depends on.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.permutation import ROUNDS, KeyedPermutations, epoch_words
from bucketline_service.planning.plan import BatchBlock, Place
from bucketline_service.planning.tails import Layout

_I64 = NDArray[np.int64]
_PERMUTATIONS, _ROTATIONS = 0, 1  # streams of the epoch's key words
_UNITS = 0  # the permutations' domain 0; domain 1 + b is bucket b
_EPOCHS_KEPT = 4


@dataclass(frozen=True)
class _Epoch:
    permutations: KeyedPermutations
    rotations: _I64  # int64[G]: the place of its stretch where a target begins to serve


class LinePlanner:
    """Implements ``plan.Planner``. B buckets in order of aspect, G targets, N assigned images.

    ``order`` uint32[N]: rows by bucket, ascending inside one (``order.fill_order``); may be memory-mapped.
    ``counts`` int64[B]; ``layout``: one of ``tails.POLICIES`` applied to them with ``lockstep * batch_sizes``.
    ``batch_sizes`` int64[G]. ``bucket_of``: the bucket of a row, -1 where it was pruned.
    """

    def __init__(
        self,
        order: NDArray[np.uint32],
        counts: _I64,
        layout: Layout,
        *,
        batch_sizes: _I64,
        lockstep: int,
        seed: int,
        bucket_of: Callable[[int], int],
    ) -> None:
        self._order = order
        self._starts = np.cumsum(counts) - counts
        self._counts = counts
        self._layout = layout
        self._batch_sizes = batch_sizes
        self._lockstep = lockstep
        self._seed = seed
        self._bucket_of = bucket_of
        self._unit_starts = np.cumsum(layout.num_units) - layout.num_units
        self._num_units = int(layout.num_units.sum())
        # a target without places serves none: 1 keeps the modulus defined
        self._lengths = np.maximum(layout.lengths, 1)
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._lock = threading.Lock()

    def num_batches(self, epoch: int, world_size: int) -> int:
        return self._num_units * self._lockstep

    def is_at_hand(self, epoch: int, world_size: int) -> bool:
        return True

    def batches(self, epoch: int, positions: _I64, world_size: int) -> BatchBlock:
        if len(positions) and not 0 <= positions.min() <= positions.max() < self.num_batches(
            epoch, world_size
        ):
            raise IndexError(f"positions out of [0, {self.num_batches(epoch, world_size)})")
        keyed = self._epoch(epoch)
        targets, first = self._firsts(keyed, positions)
        sizes = self._batch_sizes[targets]
        bounds = np.zeros(len(positions) + 1, dtype=np.int64)
        np.cumsum(sizes, out=bounds[1:])
        served = np.repeat(first - bounds[:-1], sizes) + np.arange(bounds[-1])
        rows, repeats = self._rows(keyed, np.repeat(targets, sizes), served)
        return BatchBlock(buckets=targets, bounds=bounds, rows=rows, repeats=repeats)

    def mixed_steps(self, epoch: int, offset: int, world_size: int) -> int:
        return int(self.spans(offset, world_size)[2:].sum())

    def spans(self, offset: int, world_size: int) -> _I64:
        """int64[K]: at k, how many of the steps that deal the stream from ``offset`` on span k units. The same in every
        epoch."""
        # where a step begins inside its unit repeats after lockstep steps at the latest: count one such period
        num_steps = max(0, self._num_units * self._lockstep - offset) // world_size
        begins = (offset + world_size * np.arange(min(self._lockstep, num_steps))) % self._lockstep
        spans = -(-(begins + world_size) // self._lockstep)
        num = int(spans.max(initial=0)) + 1
        periods, rest = divmod(num_steps, self._lockstep)
        found: _I64 = periods * np.bincount(spans, minlength=num) + np.bincount(spans[:rest], minlength=num)
        return found

    def num_only_after(self, epoch: int, position: int) -> int:
        """How many images the epoch's stream has at ``position`` or after it, and not before. Needs no ``order``."""
        positions = np.arange(position, self._num_units * self._lockstep, dtype=np.int64)
        targets, first = self._firsts(self._epoch(epoch), positions)
        begins, lengths = self._layout.begins[targets], self._lengths[targets]
        whole, rest = np.divmod(self._batch_sizes[targets], lengths)
        stops = begins + lengths
        # a batch covers its stretch `whole` times, and from here to there once more, where need be around its end
        here = begins + first % lengths
        there = here + rest
        over = (there > stops).astype(np.int64)
        again = np.where(over, there - lengths, begins)
        # past this place images come once less in the epoch
        fewer = begins + self._layout.served[targets] % lengths
        one = np.ones_like(over)
        cuts = np.concatenate([here, np.minimum(there, stops), begins, again, begins, stops, fewer])
        edges, at = np.unique(cuts, return_inverse=True)
        change = np.concatenate([one, -one, over, -over, whole, -whole, 0 * one])
        covered = np.cumsum(np.bincount(at, weights=change, minlength=len(edges)))[:-1]
        targets = np.searchsorted(self._layout.begins, edges[:-1], side="right") - 1
        places = edges[:-1] - self._layout.begins[targets]
        comings = -((places - self._layout.served[targets]) // self._lengths[targets])
        return int(np.diff(edges)[(covered > 0) & (covered == comings)].sum())

    def _firsts(self, keyed: _Epoch, positions: _I64) -> tuple[_I64, _I64]:
        """Of the batches at ``positions`` the targets, and the index of each one's first image among those that its
        target serves."""
        slots, within = np.divmod(positions, self._lockstep)
        units = keyed.permutations.forward(np.full(len(slots), _UNITS), slots)
        targets = np.searchsorted(self._unit_starts, units, side="right") - 1
        batches = (units - self._unit_starts[targets]) * self._lockstep + within
        return targets, batches * self._batch_sizes[targets]

    def _rows(self, keyed: _Epoch, targets: _I64, served: _I64) -> tuple[_I64, NDArray[np.bool_]]:
        """The images at index ``served[i]`` of what ``targets[i]`` serves, and which of them are there again."""
        layout = self._layout
        lengths = self._lengths[targets]
        tape = layout.begins[targets] + (served + keyed.rotations[targets]) % lengths
        pieces = np.searchsorted(layout.piece_begins, tape, side="right") - 1
        buckets = layout.piece_buckets[pieces]
        places = layout.piece_places[pieces] + tape - layout.piece_begins[pieces]
        inside = keyed.permutations.forward(1 + buckets, places)
        return self._order[self._starts[buckets] + inside].astype(np.int64), served >= lengths

    def locate(self, epoch: int, row: int, world_size: int) -> list[Place]:
        bucket = self._bucket_of(row)
        if bucket < 0:
            return []
        keyed, layout = self._epoch(epoch), self._layout
        begin = int(self._starts[bucket])
        inside = int(np.searchsorted(self._order[begin : begin + int(self._counts[bucket])], row))
        place = int(keyed.permutations.inverse(np.array([1 + bucket]), np.array([inside]))[0])
        mine = np.flatnonzero(layout.piece_buckets == bucket)
        piece = mine[np.searchsorted(layout.piece_places[mine], place, side="right") - 1]
        tape = int(layout.piece_begins[piece]) + place - int(layout.piece_places[piece])
        # of targets that begin at one tape place all but the last have empty stretches
        target = int(np.searchsorted(layout.begins, tape, side="right")) - 1
        length = int(self._lengths[target])
        first = (tape - int(layout.begins[target]) - int(keyed.rotations[target])) % length
        served = np.arange(first, int(layout.served[target]), length)
        return self._places(keyed, target, served, length)

    def _places(self, keyed: _Epoch, target: int, served: _I64, length: int) -> list[Place]:
        batches, slots = np.divmod(served, int(self._batch_sizes[target]))
        units, within = np.divmod(batches, self._lockstep)
        units = keyed.permutations.inverse(np.full(len(units), _UNITS), units + self._unit_starts[target])
        positions = units * self._lockstep + within
        found = [
            Place(position, slot, target, index >= length)
            for position, slot, index in zip(positions.tolist(), slots.tolist(), served.tolist(), strict=True)
        ]
        return sorted(found)

    def _epoch(self, epoch: int) -> _Epoch:
        with self._lock:
            keyed = self._epochs.get(epoch)
            if keyed is None:
                keyed = self._epochs[epoch] = self._key(epoch)
                if len(self._epochs) > _EPOCHS_KEPT:
                    self._epochs.popitem(last=False)
            else:
                self._epochs.move_to_end(epoch)
            return keyed

    def _key(self, epoch: int) -> _Epoch:
        sizes = np.append(self._num_units, self._counts)
        words = epoch_words(self._seed, epoch, _PERMUTATIONS, len(sizes) * ROUNDS)
        # 2**64 mod length is below 2**32 / 2**64 of the range for any real map: the bias can not be seen
        rotations = epoch_words(self._seed, epoch, _ROTATIONS, len(self._lengths)) % self._lengths.astype(
            np.uint64
        )
        leaves_out = self._layout.left_out > 0
        return _Epoch(KeyedPermutations(sizes, words), np.where(leaves_out, rotations.astype(np.int64), 0))
