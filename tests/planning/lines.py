"""Lines to test on: random counts, batch sizes, lockstep and tails, and what their planner serves in an epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from bucketline_service.planning.groups import Groups, Sorter
from bucketline_service.planning.line import LinePlanner
from bucketline_service.planning.portions import Portions
from bucketline_service.planning.tails import POLICIES, Layout


@dataclass(frozen=True)
class Line:
    """``buckets`` int32[M]: the bucket of each row of the map, -1 where it is pruned."""

    planner: LinePlanner
    layout: Layout
    buckets: np.ndarray
    counts: np.ndarray
    batch_sizes: np.ndarray
    lockstep: int
    policy: str

    @property
    def units(self):
        return self.batch_sizes * self.lockstep

    @property
    def num_batches(self):
        return self.planner.num_batches(0, 1)

    def epoch(self, epoch):
        return self.planner.batches(epoch, np.arange(self.num_batches), 1)

    def targets(self, block):
        """Of each served image: the target that serves it."""
        return np.repeat(block.buckets, np.diff(block.bounds))


def line(counts, batch_sizes=1, lockstep=1, policy="spill", seed=0, num_pruned=0):
    counts = np.array(counts, dtype=np.int64)
    num_targets = len(counts) + (policy == "catch_all")
    sizes = np.broadcast_to(np.array(batch_sizes, dtype=np.int64), num_targets).copy()
    buckets = np.append(np.repeat(np.arange(len(counts)), counts), np.full(num_pruned, -1)).astype(np.int32)
    buckets = np.random.default_rng(99).permutation(buckets)
    order = np.argsort(buckets, kind="stable")[num_pruned:].astype(np.uint32)
    there = np.flatnonzero(counts)
    groups = Groups(there, counts[there], np.ones(len(there)))
    portions = Portions(
        ((bucket, group, 0.0, 1.0) for group, bucket in enumerate(there.tolist())), groups, len(counts)
    )
    starts = np.cumsum(counts) - counts

    def find(row):
        bucket = buckets[row]
        if bucket < 0:
            return None
        at = np.searchsorted(order[starts[bucket] : starts[bucket] + counts[bucket]], row)
        return int(np.searchsorted(there, bucket)), int(at)

    planner = LinePlanner(
        order,
        groups,
        portions,
        lambda counts: POLICIES[policy](counts, sizes * lockstep, None),
        batch_sizes=sizes,
        lockstep=lockstep,
        seed=seed,
        find=find,
    )
    layout = planner.layout(0)
    return Line(planner, layout, buckets, counts, sizes, lockstep, policy)


def samples_of(spec, images, prepared, epoch=0):
    """int64[B]: samples of each bucket in an epoch of a plan."""
    portions = Portions.of(Sorter(spec, images), prepared.groups, spec.num_buckets)
    return portions.cuts(spec.seed, epoch).counts


@st.composite
def lines(draw, policies=("spill", "pad", "drop", "catch_all"), same_sizes=None):
    """Zeros, one bucket, one image and buckets smaller than a unit are all common; batch sizes may differ by target."""
    count = st.one_of(st.just(0), st.integers(1, 5), st.integers(0, 60))
    counts = draw(st.lists(count, min_size=1, max_size=6).filter(any))
    policy = draw(st.sampled_from(policies))
    num_targets = len(counts) + (policy == "catch_all")
    if draw(st.booleans()) if same_sizes is None else same_sizes:
        batch_sizes = draw(st.integers(1, 5))
    else:
        batch_sizes = draw(st.lists(st.integers(1, 5), min_size=num_targets, max_size=num_targets))
    return line(
        counts,
        batch_sizes,
        draw(st.integers(1, 4)),
        policy,
        seed=draw(st.integers(0, 2**32 - 1)),
        num_pruned=draw(st.integers(0, 4)),
    )


epochs = st.integers(0, 2**31 - 1)
