"""The ``novelai`` planner: the batches of NovelAI's published BucketManager, bit for bit.

Source: NovelAI/novelai-aspect-ratio-bucketing, bucketmanager.py (2022). Its two random generators are numpy's
legacy RandomState, whose streams numpy keeps unchanged (NEP 19). One generator, the same on every rank,
permutes the ids of each epoch and deals them to the ranks; the other, of each rank, shuffles the rank's
buckets and draws from which one the next batch comes, with probability in proportion to what each has left.
What does not fill a batch goes to a catch-all bucket.

Every epoch begins in the state in which the one before has left the generators: epochs are planned in
sequence, and the states at the start of each are kept as checkpoints.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import MutableMapping
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets.ladder_generators import Ladder, Size
from bucketline_service.planning.novelai.generator_states import (
    States,
    fingerprint,
    initial,
    load,
    pack,
    save,
    unpack,
)
from bucketline_service.planning.planner_port import BatchBlock, Place

Checkpoints = MutableMapping[tuple[int, int], bytes]


class _Stream(NamedTuple):
    """An epoch in stream order: ``buckets`` int32[num]; ``rows`` uint32 or int64 [num, batch_size]."""

    buckets: NDArray[np.int32]
    rows: NDArray[Any]


class NovelaiPlanner:
    """A ``Planner``. Position p of an epoch is step ``p // world_size`` of rank ``p % world_size``.

    ``ids`` int64[N], distinct; ``buckets`` int32[N], the ladder index of each row or -1 where the image is
    pruned or not part of the run; rows are positions in both, in the order of the map. Bucket K =
    ``len(ladder)`` is the catch-all; ``targets`` are the (width, height) of buckets 0 to K. No image comes
    twice in an epoch.

    The plan for a world size is that of BucketManagers made with that ``world_size`` and run from epoch 0 on.

    ``checkpoints`` maps (world_size, epoch) to the generators' states at the epoch's start: 2,500 bytes for
    each rank and 2,500 more. They are read at or before the epoch that is wanted; what is damaged, or of
    other images or another version, is passed over. Planning writes them, and never deletes one: it is the
    caller's to forget old ones. Writing must not raise: a state that cannot be kept is dropped, and planned again
    when it is needed. Without a mapping they stay in memory.

    Raises ``Invalid`` where the images do not fill one batch on every rank, and for an epoch further than
    ``max_replay`` epochs from the last checkpoint.
    """

    def __init__(
        self,
        ids: NDArray[np.int64],
        buckets: NDArray[np.int32],
        ladder: Ladder,
        batch_size: int,
        seed: int,
        *,
        checkpoints: Checkpoints | None = None,
        kept_epochs: int = 3,
        max_replay: int = 1000,
    ) -> None:
        if batch_size < 1:
            raise Invalid("batch_size", f"{batch_size} is out of range", "Use at least 1")
        if not 0 <= seed < 2**32:
            raise Invalid("seed", f"{seed} is out of range", "The novelai planner accepts 0 to 4294967295")
        self.targets: list[Size] = [*ladder.sizes, ladder.base]
        # The catch-all may have the size of a bucket: the first target of the same size stands for each.
        first = {target: i for i, target in reversed(list(enumerate(self.targets)))}
        self._shapes = np.array([first[target] for target in self.targets], dtype=np.int32)
        self._batch_size = batch_size
        self._seed = seed
        self._catch_all = len(ladder)
        self._buckets = np.ascontiguousarray(buckets, dtype=np.int32)
        # What is kept for an epoch is row numbers: half the memory where they fit.
        dtype = np.uint32 if len(ids) < 2**32 else np.int64
        members = np.flatnonzero(self._buckets >= 0)
        self._by_id = members[np.argsort(ids[members], kind="stable")].astype(dtype)
        self._by_bucket = members[np.argsort(self._buckets[members], kind="stable")].astype(dtype)
        ordered = ids[self._by_id]
        if np.any(ordered[1:] == ordered[:-1]):
            raise Invalid("ids", "must be unique, got a duplicate", "Give each image its own id")
        if len(members) < batch_size:
            raise _too_few("batch_size", len(members), batch_size, 1)
        self._plan_digest = fingerprint(ids, self._buckets, batch_size, seed)
        self._checkpoints: Checkpoints = {} if checkpoints is None else checkpoints
        self._max_replay = max_replay
        self._streams: LRUCache[tuple[int, int], _Stream] = LRUCache(kept_epochs)
        self._guard = threading.Lock()  # of the streams: held for moments
        self._planning = threading.Lock()  # held while epochs are planned

    def num_batches(self, epoch: int, world_size: int) -> int:
        if epoch < 0:
            raise Invalid("epoch", f"{epoch} is out of range", "Epochs count from 0")
        if world_size < 1:
            raise Invalid("world_size", f"{world_size} is out of range", "Use at least 1")
        steps = len(self._by_id) // (self._batch_size * world_size)
        if steps == 0:
            raise _too_few("world_size", len(self._by_id), self._batch_size, world_size)
        return steps * world_size

    @property
    def is_steady(self) -> bool:
        return True

    def least_batches(self, world_size: int) -> int:
        return self.num_batches(0, world_size)

    def is_at_hand(self, epoch: int, world_size: int) -> bool:
        with self._guard:
            return (world_size, epoch) in self._streams

    def batches(self, epoch: int, positions: NDArray[np.int64], world_size: int) -> BatchBlock:
        num = self.num_batches(epoch, world_size)
        positions = np.asarray(positions, dtype=np.int64)
        if len(positions) and not 0 <= positions.min() <= positions.max() < num:
            raise IndexError(f"positions must be within [0, {num})")
        stream = self._stream(epoch, world_size)
        rows = stream.rows[positions].astype(np.int64).reshape(-1)
        bounds = np.arange(len(positions) + 1, dtype=np.int64) * self._batch_size
        repeats = np.zeros(len(rows), dtype=np.bool_)
        return BatchBlock(stream.buckets[positions].astype(np.int64), bounds, rows, repeats)

    def num_asked(self, epoch: int, row: int) -> int:
        return int(self._buckets[row] >= 0)

    def locate(self, epoch: int, row: int, world_size: int) -> list[Place]:
        self.num_batches(epoch, world_size)
        stream = self._stream(epoch, world_size)
        found = np.flatnonzero(stream.rows.reshape(-1) == row)
        places = (divmod(int(place), self._batch_size) for place in found)
        return [Place(position, slot, int(stream.buckets[position]), False) for position, slot in places]

    def mixed_steps(self, epoch: int, offset: int, world_size: int) -> int:
        num_steps = max(0, self.num_batches(epoch, world_size) - offset) // world_size
        buckets = self._stream(epoch, world_size).buckets[offset : offset + num_steps * world_size]
        shapes = self._shapes[buckets].reshape(num_steps, world_size)
        return int(np.any(shapes != shapes[:, :1], axis=1).sum())

    def _stream(self, epoch: int, world_size: int) -> _Stream:
        key = world_size, epoch
        with self._guard:
            if key in self._streams:
                return self._streams[key]
        with self._planning:
            with self._guard:
                if key in self._streams:  # another thread has planned it meanwhile
                    return self._streams[key]
            stream = self._replay(epoch, world_size)
            with self._guard:
                self._streams[key] = stream
            return stream

    def _replay(self, epoch: int, world_size: int) -> _Stream:
        """Plan on from the latest good checkpoint to the end of ``epoch``."""
        first, states = self._restore(epoch, world_size)
        if epoch - first > self._max_replay:
            detail = f"{epoch} is {epoch - first} epochs after the last one that is planned"
            hint = f"Request at most {first + self._max_replay}: epochs are planned in sequence"
            raise Invalid("epoch", detail, hint)
        for current in range(first, epoch + 1):
            stream = self._plan(states, world_size)
            packed = pack(states, self._plan_digest, world_size, current + 1)
            self._checkpoints[world_size, current + 1] = packed
        return stream

    def _plan(self, states: States, world_size: int) -> _Stream:
        """Plan one epoch from ``states``, and leave there those of the next one."""
        prng = np.random.RandomState(0)
        load(prng, states[world_size])
        index = self._by_id.copy()
        prng.shuffle(index)
        states[world_size] = save(prng)
        steps = len(index) // (self._batch_size * world_size)
        size = steps * self._batch_size  # images of one rank
        # The rank of each row, then the rows by rank, bucket, row: the sort by rank keeps the order within.
        absent = world_size
        ranks = np.full(len(self._buckets), absent, dtype=np.min_scalar_type(absent))
        ranks[index[: size * world_size]] = np.tile(np.arange(world_size, dtype=ranks.dtype), size)
        by_bucket = self._by_bucket[np.argsort(ranks[self._by_bucket], kind="stable")]

        buckets = np.empty((steps, world_size), dtype=np.int32)
        rows = np.empty((steps, world_size, self._batch_size), dtype=index.dtype)
        for rank in range(world_size):
            load(prng, states[rank])
            shard = by_bucket[rank * size : (rank + 1) * size]
            buckets[:, rank], rows[:, rank] = self._rank(prng, shard)
            states[rank] = save(prng)
        return _Stream(buckets.reshape(-1), rows.reshape(-1, self._batch_size))

    def _rank(
        self, prng: np.random.RandomState, shard: NDArray[Any]
    ) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """One rank's epoch: buckets int32[steps], rows [steps, batch_size], from its rows by bucket."""
        of = self._buckets[shard]
        starts = np.flatnonzero(np.diff(of, prepend=-1))
        overhangs, wholes, buckets, weights = [], [], [], []
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(shard)], strict=True):
            part = shard[start:stop]
            prng.shuffle(part)
            overhang = len(part) % self._batch_size
            overhangs.append(part[:overhang])
            if overhang < len(part):
                wholes.append(part[overhang:])
                buckets.append(int(of[start]))
                weights.append(len(part) - overhang)
        left_over = np.concatenate(overhangs)
        draws = _draw(prng, buckets, weights, left_over, self._batch_size, self._catch_all)
        # Each bucket's batches are drawn in its own order, so that one stable sort deals them to their draws;
        # the catch-all is the last bucket.
        rows = np.empty((len(draws), self._batch_size), dtype=shard.dtype)
        rows[np.argsort(draws, kind="stable")] = np.concatenate([*wholes, left_over]).reshape(rows.shape)
        return draws, rows

    def _restore(self, epoch: int, world_size: int) -> tuple[int, States]:
        """The latest epoch up to ``epoch`` whose beginning is known, and the states there."""
        known = [at for size, at in list(self._checkpoints) if size == world_size and 0 < at <= epoch]
        for at in sorted(known, reverse=True):
            states = unpack(self._checkpoints.get((world_size, at), b""), self._plan_digest, world_size, at)
            if states is not None:
                return at, states
        return 0, initial(self._seed, world_size)


def _draw(
    prng: np.random.RandomState,
    buckets: list[int],
    weights: list[int],
    left_over: NDArray[Any],
    batch_size: int,
    catch_all: int,
) -> NDArray[np.int32]:
    """One rank's draws: the bucket of each batch, int32[steps].

    ``weights`` holds how many images each of ``buckets`` has, whole batches all. The left-over stands before
    them with its own number; its rows are shuffled in place, into the order of its batches. The original's
    moves of too small buckets to the left-over never come: start_epoch has left whole batches only.
    """
    draws: list[int] = []
    num_taken = 0  # of the left-over
    if len(left_over):
        buckets, weights = [catch_all, *buckets], [len(left_over), *weights]
    while buckets:
        # With nothing but the left-over the original draws no more.
        i = 0 if buckets == [catch_all] else _choice(weights, prng.random_sample())
        draws.append(buckets[i])
        if buckets[i] == catch_all:
            prng.shuffle(left_over[num_taken:])
            num_taken += batch_size
        weights[i] -= batch_size
        if weights[i] == 0:
            del weights[i], buckets[i]
    return np.array(draws, dtype=np.int32)


def _choice(weights: list[int], sample: float) -> int:
    """What ``RandomState.choice`` makes of ``sample``, for the original's p = float32(weights) / their sum.

    Choice searches the running sum of p, divided by its last, for the sample. Each p is rounded to 24 bits,
    so that a boundary is off its exact place by less than 2**-21 of the sum; only so close to one does it
    need numpy's arithmetic.
    """
    sums = list(accumulate(weights))
    mark = sample * sums[-1]
    slack = sums[-1] * 2.0**-20
    i = bisect_right(sums, mark)
    if mark + slack < sums[i] and (i == 0 or mark - slack >= sums[i - 1]):
        return i
    lens = np.array(weights, dtype=np.float32)
    running = (lens / lens.sum()).astype(np.float64).cumsum()
    running /= running[-1]
    return int(running.searchsorted(sample, side="right"))


def _too_few(field: str, num_images: int, batch_size: int, world_size: int) -> Invalid:
    detail = f"{num_images} images do not fill one batch of {batch_size} on each of {world_size} ranks"
    if num_images == 0:
        return Invalid(field, detail, "Every image is pruned: widen max_ar_error, valid_ids or the ladder")
    return Invalid(field, detail, f"Use batch_size * world_size of at most {num_images}, or prune less")
