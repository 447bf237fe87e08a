"""A small data set, planned: its tape, its units under each tail policy, its stream, and how that is dealt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tests.planning.lines import Line, line

from bucketline_service.planning.line.permutation import ROUNDS, KeyedPermutations, epoch_words
from bucketline_service.planning.line.remainders import Layout
from bucketline_service.runs.sharding import Sharding, Span
from bucketline_service.store.port import Cursor

ASPECTS = ("1:2", "9:16", "2:3", "3:4", "1:1", "4:3", "3:2", "16:9", "2:1")
COUNTS = np.array([3, 10, 20, 14, 41, 27, 19, 4, 11], dtype=np.int64)
BATCH_SIZE, WORLD_SIZE = 2, 4
UNIT = WORLD_SIZE * BATCH_SIZE
SEED, EPOCH = 2, 0
CATCH_ALL = len(COUNTS)


@dataclass(frozen=True)
class Epoch:
    """All that one epoch serves, in the order of its stream: an entry of each array is a served image.

    ``buckets``: whose image it is. ``places``: where on the tape it stands. ``targets``: the target that serves it.
    ``units``: which unit of that target. ``repeats``: whether it comes again.
    """

    layout: Layout
    buckets: np.ndarray
    places: np.ndarray
    targets: np.ndarray
    units: np.ndarray
    repeats: np.ndarray

    @property
    def num_units(self) -> np.ndarray:
        """Of each target."""
        return self.layout.num_batches // WORLD_SIZE

    def left_out(self) -> np.ndarray:
        """The places of the tape that this epoch does not serve."""
        return np.setdiff1d(np.arange(COUNTS.sum()), self.places)

    def unit(self, target: int, unit: int) -> np.ndarray:
        """The indices of a unit's images, in the order in which it serves them."""
        return np.flatnonzero((self.targets == target) & (self.units == unit))


def plan(policy: str, lockstep: int = WORLD_SIZE) -> Line:
    """The example as the tests build a plan."""
    return line(COUNTS, BATCH_SIZE, lockstep, policy, seed=SEED)


def epoch_of(policy: str, epoch: int = EPOCH) -> Epoch:
    """What ``LinePlanner.batches`` gives for a whole epoch. The keyed permutations say which place of the tape an image
    has, and which unit it belongs to."""
    it = plan(policy)
    layout, num, block = it.layout, it.num_batches, it.epoch(epoch)
    num_units = layout.num_batches // WORLD_SIZE
    sizes = np.append(num_units.sum(), COUNTS)
    keyed = KeyedPermutations(sizes, epoch_words(SEED, epoch, 0, len(sizes) * ROUNDS))
    buckets = it.buckets[block.rows].astype(np.int64)
    # a bucket's rows are in ascending order on the line
    ahead = [np.count_nonzero(it.buckets[:row] == it.buckets[row]) for row in block.rows]
    inside = keyed.inverse(1 + buckets, np.array(ahead))
    pieces = [_piece(layout, bucket, place) for bucket, place in zip(buckets, inside, strict=True)]
    units = keyed.forward(np.zeros(num, dtype=np.int64), np.arange(num) // WORLD_SIZE)
    units -= (np.cumsum(num_units) - num_units)[block.buckets]
    return Epoch(
        layout=layout,
        buckets=buckets,
        places=layout.piece_begins[pieces] + inside - layout.piece_places[pieces],
        targets=it.targets(block),
        units=np.repeat(units, BATCH_SIZE),
        repeats=block.repeats,
    )


def _piece(layout: Layout, bucket: int, place: int) -> int:
    """The piece of the tape that holds this place of the bucket: the last of its pieces to begin at it or before."""
    held = np.flatnonzero((layout.piece_buckets == bucket) & (layout.piece_places <= place))
    return int(held[-1])


def moved(layout: Layout) -> list[tuple[int, int, int]]:
    """Of ``Layout.flows`` those that lead to another target: (bucket, target, images)."""
    return [flow for flow in layout.flows() if flow[0] != flow[1]]


def carried() -> list[tuple[int, int, int]]:
    """Under ``spill``, what crosses each border of two buckets: (from, to the neighbour inward, images)."""
    middle = int(np.argmax(COUNTS))
    crossing: dict[tuple[int, int], int] = {}
    for bucket, target, images in moved(plan("spill").layout):
        inward = 1 if bucket < middle else -1
        for at in range(bucket, target, inward):
            crossing[at, at + inward] = crossing.get((at, at + inward), 0) + images
    return [(begin, end, images) for (begin, end), images in sorted(crossing.items())]


def stream(epoch: int, lockstep: int = WORLD_SIZE) -> np.ndarray:
    """int64[num_batches]: the bucket of each batch of an epoch's stream."""
    return plan("spill", lockstep).epoch(epoch).buckets


def dealt(epoch: int, lockstep: int = WORLD_SIZE) -> np.ndarray:
    """int64[world size, steps]: the bucket of each rank's batch at each step."""
    planner = plan("spill", lockstep).planner
    deal = Sharding(planner, WORLD_SIZE, Cursor(0, 0), 0)
    span = Span(epoch, 0, deal.num_steps(epoch))
    positions = np.array([deal.positions(span, rank) for rank in range(WORLD_SIZE)])
    return planner.batches(epoch, positions.ravel(), WORLD_SIZE).buckets.reshape(positions.shape)


def mixed_steps(epoch: int, lockstep: int) -> int:
    """How many steps have more than one bucket."""
    return int((np.ptp(dealt(epoch, lockstep), axis=0) > 0).sum())
