"""The ``line`` planner: an epoch costs nothing to start (docs/concepts/mathematics.md).

Everything per epoch is arithmetic: a keyed permutation of the units gives each stretch of the stream its bucket, a
keyed permutation inside each bucket gives each place its sample, and both are invertible. A batch depends on seed,
epoch and position alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from bucketline_service.planning.line.image_classes import ImageClasses
from bucketline_service.planning.line.permutation import ROUNDS, KeyedPermutations, epoch_words
from bucketline_service.planning.line.remainders import Layout
from bucketline_service.planning.line.sample_quotas import Cuts, SampleQuotas
from bucketline_service.planning.planner_port import BatchBlock, Place

_I64 = NDArray[np.int64]
_T = TypeVar("_T")
_PERMUTATIONS, _ROTATIONS = 0, 1  # streams of the epoch's key words
_UNITS = 0  # the permutations' domain 0; domain 1 + b is bucket b, 1 + B + g group g where any is thinned
_EPOCHS_KEPT = 4
_SHAPES_KEPT = 64


class Fates(NamedTuple):
    """What becomes of an epoch's samples, told by K stretches of them, all int64[K]. Sample ``begins`` … ``begins +
    sizes - 1`` of those that ``targets`` has, in the order in which it serves them, stand in the epoch's stream
    ``comings`` times, and ``undealt`` of these times at its end, where no step deals them."""

    targets: _I64
    begins: _I64
    sizes: _I64
    comings: _I64
    undealt: _I64

    @property
    def dealt(self) -> _I64:
        return self.comings - self.undealt

    def where(self, is_meant: NDArray[np.bool_]) -> Fates:
        """Some of the stretches."""
        return Fates(*(column[is_meant] for column in self))


class Samples(NamedTuple):
    """All int64[n]: ``rows`` of the map; the ``buckets`` that they are asked for in; their ``groups``; ``stretches``:
    of which stretch of the fates each is."""

    rows: _I64
    buckets: _I64
    groups: _I64
    stretches: _I64


@dataclass(frozen=True)
class _Shape:
    """What an epoch has, and not in which order."""

    cuts: Cuts
    layout: Layout
    bucket_starts: _I64  # int64[B]: where each bucket's samples begin among all
    unit_starts: _I64  # int64[G]: where each target's units begin among all
    num_units: int
    lengths: _I64  # int64[G]: of the targets' stretches, 1 where it is empty: that keeps the modulus defined


@dataclass(frozen=True)
class _Epoch:
    shape: _Shape
    permutations: KeyedPermutations
    rotations: _I64  # int64[G]: the place of its stretch where a target begins to serve
    moved: tuple[_I64, _I64]  # slots, ascending, whose units are not the permutation's, and those units


class LinePlanner:
    """Implements ``Planner``. B buckets, G targets, N assigned images.

    ``order`` uint32[N]: rows by group, ascending inside one; may be memory-mapped. ``quotas``: of those groups.
    ``layout_of``: one of ``tails.POLICIES``, of the samples of each bucket int64[B] and units of
    ``lockstep * batch_sizes``. ``batch_sizes`` int64[G]. ``find``: the group of a row and its place there, None where
    it is in none. ``largest_first``: the targets of each distinct shape, in the order in which epoch 0 begins with one
    unit of each; empty: it begins as it comes. ``least_units``: so many has every epoch, where they differ.
    """

    def __init__(
        self,
        order: NDArray[np.uint32],
        groups: ImageClasses,
        quotas: SampleQuotas,
        layout_of: Callable[[_I64], Layout],
        *,
        batch_sizes: _I64,
        lockstep: int,
        seed: int,
        find: Callable[[int], tuple[int, int] | None],
        largest_first: Sequence[Sequence[int]] = (),
        least_units: int = 0,
    ) -> None:
        self._order = order
        self._starts = groups.starts
        self._counts = groups.counts
        self._quotas = quotas
        self._layout_of = layout_of
        self._batch_sizes = batch_sizes
        self._lockstep = lockstep
        self._seed = seed
        self._find = find
        self._largest_first = largest_first
        self._least_units = least_units
        self._is_thinned = bool(quotas.is_thinned.any())
        self._bucket_rows = self._direct()
        self._steady = self._new_shape(quotas.cuts(seed, 0)) if quotas.is_steady else None
        self._shapes: LRUCache[int, _Shape] = LRUCache(_SHAPES_KEPT)
        self._epochs: LRUCache[int, _Epoch] = LRUCache(_EPOCHS_KEPT)
        self._lock = threading.Lock()

    def _direct(self) -> _I64 | None:
        """int64[B]: where each bucket's rows begin, where every bucket is one group that comes once: no quota need be
        looked for."""
        quotas = self._quotas
        is_plain = len(np.unique(quotas.buckets)) == len(quotas.buckets)
        if not is_plain or quotas.begins.any() or (quotas.ends != 1.0).any():
            return None
        starts = np.zeros(quotas.num_buckets, dtype=np.int64)
        starts[quotas.buckets] = self._starts[quotas.groups]
        return starts

    @property
    def is_steady(self) -> bool:
        return self._steady is not None

    def num_batches(self, epoch: int, world_size: int) -> int:
        return self._shape(epoch).num_units * self._lockstep

    def least_batches(self, world_size: int) -> int:
        num_units = self._least_units if self._steady is None else self._steady.num_units
        return num_units * self._lockstep

    def is_at_hand(self, epoch: int, world_size: int) -> bool:
        return True

    def layout(self, epoch: int) -> Layout:
        """The epoch's."""
        return self._shape(epoch).layout

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
        return int(self.spans(epoch, offset, world_size)[2:].sum())

    def spans(self, epoch: int, offset: int, world_size: int) -> _I64:
        """int64[K]: at k, how many of the steps that deal the stream from ``offset`` on span k units."""
        # where a step begins inside its unit repeats after lockstep steps at the latest: count one such period
        num_steps = max(0, self.num_batches(epoch, world_size) - offset) // world_size
        begins = (offset + world_size * np.arange(min(self._lockstep, num_steps))) % self._lockstep
        spans = -(-(begins + world_size) // self._lockstep)
        num = int(spans.max(initial=0)) + 1
        periods, rest = divmod(num_steps, self._lockstep)
        found: _I64 = periods * np.bincount(spans, minlength=num) + np.bincount(spans[:rest], minlength=num)
        return found

    def num_served(self, epoch: int, position: int) -> int:
        """How many samples the epoch's stream has before ``position``."""
        num = self.num_batches(epoch, 1)
        targets, _ = self._firsts(self._epoch(epoch), np.arange(position, num, dtype=np.int64))
        return int(self.layout(epoch).served.sum() - self._batch_sizes[targets].sum())

    def num_only_after(self, epoch: int, position: int) -> int:
        """How many samples the epoch's stream has at ``position`` or after it, and not before. Needs no ``order``."""
        fates = self.fates(epoch, position)
        return int(fates.sizes[(fates.undealt > 0) & (fates.dealt == 0)].sum())

    def fates(self, epoch: int, position: int) -> Fates:
        """Of all samples, where the stream is dealt up to ``position``. Needs no ``order``; its memory goes with the
        targets and the batches from ``position`` on."""
        keyed = self._epoch(epoch)
        layout, of = keyed.shape.layout, keyed.shape.lengths
        positions = np.arange(position, keyed.shape.num_units * self._lockstep, dtype=np.int64)
        targets, first = self._firsts(keyed, positions)
        begins, lengths = layout.begins[targets], of[targets]
        whole, rest = np.divmod(self._batch_sizes[targets], lengths)
        stops = begins + lengths
        # a batch covers its stretch `whole` times, and from here to there once more, where need be around its end
        here = begins + first % lengths
        there = here + rest
        over = (there > stops).astype(np.int64)
        again = np.where(over, there - lengths, begins)
        one = np.ones_like(over)
        # where another target begins, and past which place of it samples come once less
        marks = np.concatenate([layout.begins, layout.begins + layout.served % of, [layout.lengths.sum()]])
        cuts = np.concatenate([here, np.minimum(there, stops), begins, again, begins, stops, marks])
        edges, at = np.unique(cuts, return_inverse=True)
        change = np.concatenate([one, -one, over, -over, whole, -whole, np.zeros_like(marks)])
        undealt = np.cumsum(np.bincount(at, weights=change, minlength=len(edges)))[:-1].astype(np.int64)
        targets = np.searchsorted(layout.begins, edges[:-1], side="right") - 1
        places = edges[:-1] - layout.begins[targets]
        comings = -((places - layout.served[targets]) // of[targets])
        return Fates(targets, places, np.diff(edges), comings, undealt)

    def samples(self, epoch: int, fates: Fates, begin: int, stop: int) -> Samples:
        """The ``begin``-th to the ``stop - 1``-th of the samples in these stretches of the epoch; fewer where there are
        not so many."""
        ends = np.cumsum(fates.sizes)
        numbers = np.arange(begin, min(stop, int(fates.sizes.sum())), dtype=np.int64)
        stretches = np.searchsorted(ends, numbers, side="right")
        served = numbers - (ends - fates.sizes)[stretches] + fates.begins[stretches]
        buckets, at, _ = self._at(self._epoch(epoch), fates.targets[stretches], served)
        groups = np.searchsorted(self._starts, at, side="right") - 1
        return Samples(self._order[at].astype(np.int64), buckets, groups, stretches)

    def _firsts(self, keyed: _Epoch, positions: _I64) -> tuple[_I64, _I64]:
        """Of the batches at ``positions`` the targets, and the index of each one's first sample among those that its
        target serves."""
        slots, within = np.divmod(positions, self._lockstep)
        units = keyed.permutations.forward(np.full(len(slots), _UNITS), slots)
        moved_slots, moved_units = keyed.moved
        if len(moved_slots):
            at = np.minimum(np.searchsorted(moved_slots, slots), len(moved_slots) - 1)
            units = np.where(moved_slots[at] == slots, moved_units[at], units)
        targets = np.searchsorted(keyed.shape.unit_starts, units, side="right") - 1
        batches = (units - keyed.shape.unit_starts[targets]) * self._lockstep + within
        return targets, batches * self._batch_sizes[targets]

    def _rows(self, keyed: _Epoch, targets: _I64, served: _I64) -> tuple[_I64, NDArray[np.bool_]]:
        """The images at index ``served[i]`` of what ``targets[i]`` serves, and which of them are repeats."""
        _, at, is_again = self._at(keyed, targets, served)
        return self._order[at].astype(np.int64), is_again

    def _at(self, keyed: _Epoch, targets: _I64, served: _I64) -> tuple[_I64, _I64, NDArray[np.bool_]]:
        """Of the same the buckets, the places in ``order``, and which of them are repeats."""
        layout = keyed.shape.layout
        lengths = keyed.shape.lengths[targets]
        tape = layout.begins[targets] + (served + keyed.rotations[targets]) % lengths
        pieces = np.searchsorted(layout.piece_begins, tape, side="right") - 1
        buckets = layout.piece_buckets[pieces]
        places = layout.piece_places[pieces] + tape - layout.piece_begins[pieces]
        inside = keyed.permutations.forward(1 + buckets, places)
        if self._bucket_rows is not None:
            at = self._bucket_rows[buckets] + inside
        else:
            at = self._walk(keyed, keyed.shape.bucket_starts[buckets] + inside)
        return buckets, at, served >= lengths

    def _walk(self, keyed: _Epoch, samples: _I64) -> _I64:
        """Where in ``order`` each of these samples stands, counted through all buckets."""
        cuts = keyed.shape.cuts
        quotas = np.searchsorted(cuts.starts, samples, side="right") - 1
        groups = self._quotas.groups[quotas]
        at = (cuts.lows[quotas] + samples - cuts.starts[quotas]) % self._counts[groups]
        if self._is_thinned:
            drawn = np.flatnonzero(self._quotas.is_thinned[groups])
            domains = 1 + self._quotas.num_buckets + groups[drawn]
            at[drawn] = keyed.permutations.forward(domains, at[drawn])
        return self._starts[groups] + at

    def num_asked(self, epoch: int, row: int) -> int:
        return sum(len(places) for _, places in self._asked(self._epoch(epoch), row))

    def locate(self, epoch: int, row: int, world_size: int) -> list[Place]:
        keyed = self._epoch(epoch)
        found = [self._comings(keyed, bucket, places) for bucket, places in self._asked(keyed, row)]
        return sorted(chain.from_iterable(found))

    def _asked(self, keyed: _Epoch, row: int) -> Iterator[tuple[int, _I64]]:
        """Of the image's samples in this epoch: bucket after bucket, their places in it."""
        found = self._find(row)
        if found is None:
            return
        group, at = found
        if self._quotas.is_thinned[group]:
            domain = np.array([1 + self._quotas.num_buckets + group])
            at = int(keyed.permutations.inverse(domain, np.array([at]))[0])
        num = int(self._counts[group])
        cuts = keyed.shape.cuts
        for quota in np.flatnonzero(self._quotas.groups == group).tolist():
            low, high = int(cuts.lows[quota]), int(cuts.highs[quota])
            bucket = int(self._quotas.buckets[quota])
            walked = np.arange(at + -(-max(low - at, 0) // num) * num, high, num)
            inside = walked - low + int(cuts.starts[quota] - keyed.shape.bucket_starts[bucket])
            yield bucket, keyed.permutations.inverse(np.full(len(inside), 1 + bucket), inside)

    def _comings(self, keyed: _Epoch, bucket: int, places: _I64) -> list[Place]:
        """Where a bucket's places come in the stream."""
        layout = keyed.shape.layout
        mine = np.flatnonzero(layout.piece_buckets == bucket)
        pieces = mine[np.searchsorted(layout.piece_places[mine], places, side="right") - 1]
        tape = layout.piece_begins[pieces] + places - layout.piece_places[pieces]
        # of targets that begin at one tape place all but the last have empty stretches
        targets = np.searchsorted(layout.begins, tape, side="right") - 1
        lengths = keyed.shape.lengths[targets]
        first = (tape - layout.begins[targets] - keyed.rotations[targets]) % lengths
        times = np.maximum(-((first - layout.served[targets]) // lengths), 0)
        again = np.arange(int(times.sum())) - np.repeat(np.cumsum(times) - times, times)
        served = np.repeat(first, times) + again * np.repeat(lengths, times)
        return self._places(keyed, np.repeat(targets, times), served, again > 0)

    def _places(self, keyed: _Epoch, targets: _I64, served: _I64, repeats: NDArray[np.bool_]) -> list[Place]:
        batches, slots = np.divmod(served, self._batch_sizes[targets])
        units, within = np.divmod(batches, self._lockstep)
        units = units + keyed.shape.unit_starts[targets]
        at = keyed.permutations.inverse(np.full(len(units), _UNITS), units)
        for slot, unit in zip(*keyed.moved, strict=True):
            at[units == unit] = slot
        columns = (at * self._lockstep + within, slots, targets, repeats)
        return [Place(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def _shape(self, epoch: int) -> _Shape:
        if self._steady is not None:
            return self._steady
        with self._lock:
            return self._shape_of(epoch)

    def _shape_of(self, epoch: int) -> _Shape:
        """Under the lock."""
        if self._steady is not None:
            return self._steady
        shape = self._shapes.get(epoch)
        if shape is None:
            shape = self._shapes[epoch] = self._new_shape(self._quotas.cuts(self._seed, epoch))
        return shape

    def _new_shape(self, cuts: Cuts) -> _Shape:
        layout = self._layout_of(cuts.counts)
        return _Shape(
            cuts,
            layout,
            np.cumsum(cuts.counts) - cuts.counts,
            np.cumsum(layout.num_units) - layout.num_units,
            int(layout.num_units.sum()),
            np.maximum(layout.lengths, 1),
        )

    def _epoch(self, epoch: int) -> _Epoch:
        with self._lock:
            found = self._epochs.get(epoch)
            if found is None:
                found = self._epochs[epoch] = self._key(epoch)
            return found

    def _key(self, epoch: int) -> _Epoch:
        shape = self._shape_of(epoch)
        sizes = np.append(shape.num_units, shape.cuts.counts)
        if self._is_thinned:
            sizes = np.append(sizes, self._counts)
        words = epoch_words(self._seed, epoch, _PERMUTATIONS, len(sizes) * ROUNDS)
        # 2**64 mod length is below 2**32 / 2**64 of the range for any real map: the bias is not measurable
        rotations = epoch_words(self._seed, epoch, _ROTATIONS, len(shape.lengths)) % shape.lengths.astype(
            np.uint64
        )
        leaves_out = shape.layout.left_out > 0
        permutations = KeyedPermutations(sizes, words)
        moved = self._begin(shape, permutations) if epoch == 0 else _NOTHING
        return _Epoch(shape, permutations, np.where(leaves_out, rotations.astype(np.int64), 0), moved)

    def _begin(self, shape: _Shape, permutations: KeyedPermutations) -> tuple[_I64, _I64]:
        """Change places in the unit order so that it begins with a unit of each shape: what stood there goes where that
        unit stood."""
        serving = shape.layout.num_units > 0
        firsts = [next((t for t in targets if serving[t]), None) for targets in self._largest_first]
        chosen = np.array(
            [shape.unit_starts[target] for target in firsts if target is not None], dtype=np.int64
        )
        slots = np.arange(len(chosen))
        domains = np.full(len(chosen), _UNITS)
        units = permutations.forward(domains, slots).tolist()
        unit_at: dict[int, int] = {}
        slot_of: dict[int, int] = {}
        homes = permutations.inverse(domains, chosen).tolist()
        for slot, (unit, home) in enumerate(zip(chosen.tolist(), homes, strict=True)):
            here, there = unit_at.get(slot, units[slot]), slot_of.get(unit, home)
            unit_at[slot], slot_of[unit] = unit, slot
            if here != unit:
                unit_at[there], slot_of[here] = here, there
        moved = np.array(sorted(unit_at.items()), dtype=np.int64).reshape(-1, 2)
        return moved[:, 0].copy(), moved[:, 1].copy()


_NOTHING = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
