"""The ``line`` planner: an epoch costs nothing to start (docs/concepts/mathematics.md).

Everything per epoch is arithmetic: a keyed permutation of the units gives each position of the stream its batch
(``stream.py``), a keyed permutation inside each bucket gives each place its sample, and both are invertible. A batch
depends on seed, epoch and position alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from bucketline_service.planning.line.batch_kinds import Dealing, Dealt, by_shape, num_empty
from bucketline_service.planning.line.image_classes import ImageClasses
from bucketline_service.planning.line.permutation import ROUNDS, KeyedPermutations, epoch_words
from bucketline_service.planning.line.sample_quotas import Cuts, SampleQuotas
from bucketline_service.planning.line.stream import Stream, Units
from bucketline_service.planning.packing.slots import Runs
from bucketline_service.planning.planner_port import BatchBlock, Place

_I64 = NDArray[np.int64]
_PERMUTATIONS, _ROTATIONS, _DEALT, _TURNS = (
    0,
    1,
    3,
    4,
)  # streams of the epoch's key words; 2: sample_quotas.py
# of the permutations, domain UNITS is the units', 1 + b bucket b's, 1 + B + g group g's where any is thinned
_EPOCHS_KEPT = 4
_OUTLINES_KEPT = 64


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
class _Outline:
    """What an epoch has, before anything is drawn."""

    cuts: Cuts
    dealing: Dealing
    bucket_starts: _I64  # int64[B]: where each bucket's samples begin among all


@dataclass(frozen=True)
class _Epoch:
    outline: _Outline
    dealt: Dealt
    stream: Stream
    permutations: KeyedPermutations
    lengths: _I64  # int64[G]: of the targets' stretches, 1 where it is empty: that keeps the modulus defined
    rotations: _I64  # int64[G]: the place of its stretch where a target begins to serve


class LinePlanner:
    """Implements ``Planner``. B buckets, G targets, N assigned images.

    ``order`` uint32[N]: rows by group, ascending inside one; may be memory-mapped. ``quotas``: of those groups.
    ``dealing_of``: what epochs deal that have so many samples of each bucket, int64[B]. ``find``: the group of a row
    and its place there, None where it is in none. ``shows_largest_first``: epoch 0 begins with units that show a batch
    of each shape, the largest first. ``least_units``: so many has every epoch.
    """

    def __init__(
        self,
        order: NDArray[np.uint32],
        groups: ImageClasses,
        quotas: SampleQuotas,
        dealing_of: Callable[[_I64], Dealing],
        *,
        lockstep: int,
        seed: int,
        find: Callable[[int], tuple[int, int] | None],
        shows_largest_first: bool,
        least_units: int,
    ) -> None:
        self._order = order
        self._starts = groups.starts
        self._counts = groups.counts
        self._quotas = quotas
        self._dealing_of = dealing_of
        self._lockstep = lockstep
        self._seed = seed
        self._find = find
        self._shows_largest_first = shows_largest_first
        self._least_units = least_units
        self._is_thinned = bool(quotas.is_thinned.any())
        self._bucket_rows = self._direct()
        self._steady = self._new_outline(quotas.cuts(seed, 0)) if quotas.is_steady else None
        self._outlines: LRUCache[int, _Outline] = LRUCache(_OUTLINES_KEPT)
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
        return self._outline(epoch).dealing.num_units * self._lockstep

    def least_batches(self, world_size: int) -> int:
        return self._least_units * self._lockstep

    def is_at_hand(self, epoch: int, world_size: int) -> bool:
        return True

    def dealt(self, epoch: int) -> Dealt:
        """What the epoch deals."""
        return self._epoch(epoch).dealt

    def stream(self, epoch: int) -> Stream:
        return self._epoch(epoch).stream

    def batches(self, epoch: int, positions: _I64, world_size: int) -> BatchBlock:
        if len(positions) and not 0 <= positions.min() <= positions.max() < self.num_batches(
            epoch, world_size
        ):
            raise IndexError(f"positions out of [0, {self.num_batches(epoch, world_size)})")
        keyed = self._epoch(epoch)
        kinds, numbers = keyed.stream.batches(positions)
        runs = keyed.dealt.kinds.runs(kinds, numbers)
        ends = np.cumsum(runs.sizes)
        served = np.repeat(runs.firsts - ends + runs.sizes, runs.sizes) + np.arange(runs.bounds[-1])
        rows, repeats = self._rows(keyed, np.repeat(runs.stretches, runs.sizes), served)
        return BatchBlock(keyed.dealt.kinds.named(kinds), runs.bounds, rows, repeats)

    def mixed_steps(self, epoch: int, offset: int, world_size: int) -> int:
        keyed = self._epoch(epoch)
        return keyed.stream.num_mixed_steps(offset, world_size, keyed.dealt.kinds.shapes)

    def imbalance(self, epoch: int, world_size: int) -> float:
        """The cost of each step's dearest batch over the ranks' mean, both summed over the epoch's steps."""
        keyed = self._epoch(epoch)
        return keyed.stream.imbalance(keyed.dealt.kinds.costs, world_size)

    def num_served(self, epoch: int, position: int) -> int:
        """How many samples the epoch's stream has before ``position``."""
        keyed = self._epoch(epoch)
        return int(keyed.dealt.tape.served.sum() - self._runs_from(keyed, position).bounds[-1])

    def num_only_after(self, epoch: int, position: int) -> int:
        """How many samples the epoch's stream has at ``position`` or after it, and not before. Needs no ``order``."""
        fates = self.fates(epoch, position)
        return int(fates.sizes[(fates.undealt > 0) & (fates.dealt == 0)].sum())

    def fates(self, epoch: int, position: int) -> Fates:
        """Of all samples, where the stream is dealt up to ``position``. Needs no ``order``; its memory goes with the
        targets and the batches from ``position`` on."""
        keyed = self._epoch(epoch)
        tape, of = keyed.dealt.tape, keyed.lengths
        _, targets, first, sizes = self._runs_from(keyed, position)
        begins, lengths = tape.begins[targets], of[targets]
        whole, rest = np.divmod(sizes, lengths)
        stops = begins + lengths
        # a batch covers its stretch `whole` times, and from here to there once more, where need be around its end
        here = begins + first % lengths
        there = here + rest
        over = (there > stops).astype(np.int64)
        again = np.where(over, there - lengths, begins)
        one = np.ones_like(over)
        # where another target begins, and past which place of it samples come once less
        marks = np.concatenate([tape.begins, tape.begins + tape.served % of, [tape.lengths.sum()]])
        cuts = np.concatenate([here, np.minimum(there, stops), begins, again, begins, stops, marks])
        edges, at = np.unique(cuts, return_inverse=True)
        change = np.concatenate([one, -one, over, -over, whole, -whole, np.zeros_like(marks)])
        undealt = np.cumsum(np.bincount(at, weights=change, minlength=len(edges)))[:-1].astype(np.int64)
        targets = np.searchsorted(tape.begins, edges[:-1], side="right") - 1
        places = edges[:-1] - tape.begins[targets]
        comings = -((places - tape.served[targets]) // of[targets])
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

    def _runs_from(self, keyed: _Epoch, position: int) -> Runs:
        """The images of the batches from ``position`` on."""
        positions = np.arange(position, keyed.stream.num_batches, dtype=np.int64)
        return keyed.dealt.kinds.runs(*keyed.stream.batches(positions))

    def _rows(self, keyed: _Epoch, targets: _I64, served: _I64) -> tuple[_I64, NDArray[np.bool_]]:
        """The images at index ``served[i]`` of what ``targets[i]`` serves, and which of them are repeats."""
        _, at, is_again = self._at(keyed, targets, served)
        return self._order[at].astype(np.int64), is_again

    def _at(self, keyed: _Epoch, targets: _I64, served: _I64) -> tuple[_I64, _I64, NDArray[np.bool_]]:
        """Of the same the buckets, the places in ``order``, and which of them are repeats."""
        tape = keyed.dealt.tape
        lengths = keyed.lengths[targets]
        at_tape = tape.begins[targets] + (served + keyed.rotations[targets]) % lengths
        pieces = np.searchsorted(tape.piece_begins, at_tape, side="right") - 1
        buckets = tape.piece_buckets[pieces]
        places = tape.piece_places[pieces] + at_tape - tape.piece_begins[pieces]
        inside = keyed.permutations.forward(1 + buckets, places)
        if self._bucket_rows is not None:
            at = self._bucket_rows[buckets] + inside
        else:
            at = self._walk(keyed, keyed.outline.bucket_starts[buckets] + inside)
        return buckets, at, served >= lengths

    def _walk(self, keyed: _Epoch, samples: _I64) -> _I64:
        """Where in ``order`` each of these samples stands, counted through all buckets."""
        cuts = keyed.outline.cuts
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
        cuts = keyed.outline.cuts
        for quota in np.flatnonzero(self._quotas.groups == group).tolist():
            low, high = int(cuts.lows[quota]), int(cuts.highs[quota])
            bucket = int(self._quotas.buckets[quota])
            walked = np.arange(at + -(-max(low - at, 0) // num) * num, high, num)
            inside = walked - low + int(cuts.starts[quota] - keyed.outline.bucket_starts[bucket])
            yield bucket, keyed.permutations.inverse(np.full(len(inside), 1 + bucket), inside)

    def _comings(self, keyed: _Epoch, bucket: int, places: _I64) -> list[Place]:
        """Where a bucket's places come in the stream."""
        tape = keyed.dealt.tape
        mine = np.flatnonzero(tape.piece_buckets == bucket)
        pieces = mine[np.searchsorted(tape.piece_places[mine], places, side="right") - 1]
        at_tape = tape.piece_begins[pieces] + places - tape.piece_places[pieces]
        # of targets that begin at one tape place all but the last have empty stretches
        targets = np.searchsorted(tape.begins, at_tape, side="right") - 1
        lengths = keyed.lengths[targets]
        first = (at_tape - tape.begins[targets] - keyed.rotations[targets]) % lengths
        times = np.maximum(-((first - tape.served[targets]) // lengths), 0)
        again = np.arange(int(times.sum())) - np.repeat(np.cumsum(times) - times, times)
        served = np.repeat(first, times) + again * np.repeat(lengths, times)
        return self._places(keyed, np.repeat(targets, times), served, again > 0)

    def _places(self, keyed: _Epoch, targets: _I64, served: _I64, repeats: NDArray[np.bool_]) -> list[Place]:
        of = keyed.dealt.kinds
        kinds, numbers, slots = of.of_images(targets, served)
        columns = (keyed.stream.positions(kinds, numbers), slots, of.named(kinds), repeats)
        return [Place(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def _outline(self, epoch: int) -> _Outline:
        if self._steady is not None:
            return self._steady
        with self._lock:
            return self._outline_of(epoch)

    def _outline_of(self, epoch: int) -> _Outline:
        """Under the lock."""
        if self._steady is not None:
            return self._steady
        outline = self._outlines.get(epoch)
        if outline is None:
            outline = self._outlines[epoch] = self._new_outline(self._quotas.cuts(self._seed, epoch))
        return outline

    def _new_outline(self, cuts: Cuts) -> _Outline:
        return _Outline(cuts, self._dealing_of(cuts.counts), np.cumsum(cuts.counts) - cuts.counts)

    def _epoch(self, epoch: int) -> _Epoch:
        with self._lock:
            found = self._epochs.get(epoch)
            if found is None:
                found = self._epochs[epoch] = self._key(epoch)
            return found

    def _key(self, epoch: int) -> _Epoch:
        outline = self._outline_of(epoch)
        shows_each = self._shows_largest_first and epoch == 0
        dealt = outline.dealing.deal(
            epoch_words(self._seed, epoch, _DEALT, 2).tolist(), shows_each=shows_each
        )
        kinds = dealt.kinds
        # of equal costs by number
        units = Units.of(kinds.num_batches, np.argsort(-kinds.costs, kind="stable"), self._lockstep)
        # the cheapest, so that they are in the last unit
        end = (units.num_units - 1,) if num_empty(kinds) else ()
        begin: tuple[int, ...] = ()
        if shows_each:
            chosen = units.showing(by_shape(kinds), kinds.num_batches)
            begin = tuple(unit for unit in chosen if unit not in end)
        sizes = np.append(units.num_units, outline.cuts.counts)
        if self._is_thinned:
            sizes = np.append(sizes, self._counts)
        permutations = KeyedPermutations(
            sizes, epoch_words(self._seed, epoch, _PERMUTATIONS, len(sizes) * ROUNDS)
        )
        # 2**64 mod length is below 2**32 / 2**64 of the range for any real map: the bias is not measurable
        turns = (epoch_words(self._seed, epoch, _TURNS, units.num_mixed) % np.uint64(self._lockstep)).astype(
            np.int64
        )
        lengths = np.maximum(dealt.tape.lengths, 1)
        rotations = epoch_words(self._seed, epoch, _ROTATIONS, len(lengths)) % lengths.astype(np.uint64)
        return _Epoch(
            outline,
            dealt,
            Stream(units, permutations, turns, begin, end),
            permutations,
            lengths,
            np.where(dealt.is_turned, rotations.astype(np.int64), 0),
        )
