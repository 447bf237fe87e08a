"""Lines to test on: random counts, quotas, batch sizes, lockstep and tails, and what their planner serves in an
epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from bucketline_service.planning.line.dealt_batches import DealtBatches
from bucketline_service.planning.line.image_classes import ImageClasses, ImageClassifier
from bucketline_service.planning.line.planner import LinePlanner
from bucketline_service.planning.line.remainders import POLICIES, Layout, least_batches
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.planner_port import Place


@dataclass(frozen=True)
class Line:
    """``buckets`` int32[M]: the group of each row of the map, which is its bucket in a line without quotas of its own;
    -1 where it is pruned. ``layout``: epoch 0's. ``make``: the same planner, not used yet."""

    planner: LinePlanner
    quotas: SampleQuotas
    layout: Layout
    buckets: np.ndarray
    counts: np.ndarray
    batch_sizes: np.ndarray
    lockstep: int
    policy: str
    make: Callable[[], LinePlanner]
    multiple: int
    fills: bool
    costs: np.ndarray

    @property
    def units(self):
        return self.batch_sizes * self.multiple

    @property
    def num_batches(self):
        return self.planner.num_batches(0, 1)

    def epoch(self, epoch):
        return self.planner.batches(epoch, np.arange(self.planner.num_batches(epoch, 1)), 1)

    def asked(self, epoch):
        """Rows that the epoch asks for, once for each time: those served and left out, except repeats."""
        block, planner = self.epoch(epoch), self.planner
        assert block.repeats.sum() == planner.dealt(epoch).tape.repeated.sum()
        return np.append(block.rows[~block.repeats], self.left_out(epoch))

    def left_out(self, epoch):
        """Rows of the samples that the epoch leaves out, by target."""
        return left_out(self.planner, epoch)

    def places(self, epoch):
        """By row, every place of the epoch where it comes, as its batches have it."""
        block = self.epoch(epoch)
        position = np.repeat(np.arange(len(block.buckets)), np.diff(block.bounds))
        found = {row: [] for row in range(len(self.buckets))}
        for i, row in enumerate(block.rows.tolist()):
            at = int(position[i])
            slot, bucket = i - int(block.bounds[at]), int(block.buckets[at])
            found[row].append(Place(at, slot, bucket, bool(block.repeats[i])))
        return found

    def targets(self, block):
        """Of each served image: the target that serves it."""
        return np.repeat(block.buckets, np.diff(block.bounds))


def line(counts, batch_sizes=1, lockstep=1, policy="spill", seed=0, num_pruned=0, **more):
    """Bucket b is a group of ``counts[b]`` rows, each of which comes once."""
    table = [(bucket, bucket, 0.0, 1.0) for bucket, count in enumerate(counts) if count]
    return portioned(counts, table, len(counts), batch_sizes, lockstep, policy, seed, num_pruned, **more)


def portioned(
    counts,
    table,
    num_buckets,
    batch_sizes=1,
    lockstep=1,
    policy="spill",
    seed=0,
    num_pruned=0,
    edges=None,
    largest_first=(),
    multiple=None,
    fills=False,
    costs=None,
):
    """Classes of ``counts`` rows, of which the buckets take the quotas in ``table``: (bucket, group, begin, end).
    ``multiple``: of how many batches the number of each target's is a multiple; of a unit's unless given."""
    multiple = multiple or lockstep
    counts = np.array(counts, dtype=np.int64)
    num_targets = num_buckets + (policy == "catch_all")
    sizes = np.broadcast_to(np.array(batch_sizes, dtype=np.int64), num_targets).copy()
    of = np.append(np.repeat(np.arange(len(counts)), counts), np.full(num_pruned, -1)).astype(np.int32)
    of = np.random.default_rng(99).permutation(of)
    order = np.argsort(of, kind="stable")[num_pruned:].astype(np.uint32)
    there = np.flatnonzero(counts)
    number = {group: at for at, group in enumerate(there.tolist())}
    groups = ImageClasses(there, counts[there], np.ones(len(there)))
    rows = ((bucket, number[group], begin, end) for bucket, group, begin, end in table)
    quotas = SampleQuotas(rows, groups, num_buckets)
    starts = np.cumsum(counts) - counts

    def find(row):
        group = of[row]
        if group < 0:
            return None
        at = np.searchsorted(order[starts[group] : starts[group] + counts[group]], row)
        return number[int(group)], int(at)

    of_batches = np.asarray(sizes if costs is None else costs, dtype=np.float64)

    shapes = np.arange(num_targets)
    for number_of_shape, targets in enumerate(largest_first):
        shapes[list(targets)] = number_of_shape

    def dealing(counts):
        layout = POLICIES[policy](counts, sizes, multiple, edges)
        return DealtBatches(layout, units_of(int(layout.num_batches.sum())), lockstep, of_batches, shapes)

    def units_of(num_batches):
        return -(-num_batches // lockstep) if fills or policy == "short" else num_batches // lockstep

    least_units = units_of(least_batches(policy, quotas.least(), sizes, multiple, edges))

    def make():
        return LinePlanner(
            order,
            groups,
            quotas,
            dealing,
            lockstep=lockstep,
            seed=seed,
            find=find,
            shows_largest_first=bool(largest_first),
            least_units=least_units,
        )

    planner = make()
    layout = planner.dealt(0).tape
    return Line(
        planner, quotas, layout, of, counts, sizes, lockstep, policy, make, multiple, fills, of_batches
    )


def left_out(planner, epoch):
    """Rows of the samples that the epoch's stream leaves out, by target."""
    fates = planner.fates(epoch, planner.num_batches(epoch, 1))
    out = planner.samples(epoch, fates.where(fates.comings == 0), 0, 10**9).rows
    assert len(out) == planner.dealt(epoch).tape.left_out.sum()
    return out


def samples_of(spec, images, prepared, epoch=0):
    """int64[B]: samples of each bucket in an epoch of a plan."""
    quotas = SampleQuotas.of(ImageClassifier(spec, images), prepared.groups, spec.num_buckets)
    return quotas.cuts(spec.seed, epoch).counts


def _batch_sizes(draw, num_targets, same_sizes=None):
    if draw(st.booleans()) if same_sizes is None else same_sizes:
        return draw(st.integers(1, 5))
    return draw(st.lists(st.integers(1, 5), min_size=num_targets, max_size=num_targets))


ALL = ("spill", "pad", "drop", "catch_all")


@st.composite
def lines(draw, policies=ALL, same_sizes=None):
    """Zeros, one bucket, one image and buckets smaller than a unit are all common; batch sizes may differ by target."""
    count = st.one_of(st.just(0), st.integers(1, 5), st.integers(0, 60))
    counts = draw(st.lists(count, min_size=1, max_size=6).filter(any))
    policy = draw(st.sampled_from(policies))
    return line(
        counts,
        _batch_sizes(draw, len(counts) + (policy == "catch_all"), same_sizes),
        draw(st.integers(1, 4)),
        policy,
        seed=draw(st.integers(0, 2**32 - 1)),
        num_pruned=draw(st.integers(0, 4)),
    )


@st.composite
def balanced_lines(draw, policies=("shift", "short", *ALL)):
    """Lines whose units may be mixed, and whose last one may be filled."""
    count = st.one_of(st.just(0), st.integers(1, 5), st.integers(0, 60))
    counts = draw(st.lists(count, min_size=1, max_size=6).filter(any))
    policy = draw(st.sampled_from(policies))
    num_targets = len(counts) + (policy == "catch_all")
    return line(
        counts,
        _batch_sizes(draw, num_targets),
        draw(st.integers(1, 9)),
        policy,
        seed=draw(st.integers(0, 2**32 - 1)),
        num_pruned=draw(st.integers(0, 4)),
        multiple=1,
        fills=policy != "short" and draw(st.booleans()),
        costs=draw(st.lists(st.integers(1, 4), min_size=num_targets, max_size=num_targets)),
    )


TIMES = st.one_of(
    st.integers(1, 4).map(float),
    st.sampled_from([0.01, 0.25, 1 / 3, 0.5, 1.5, 2.75]),
    st.floats(0.001, 4.0),
)
SHARES = st.one_of(st.sampled_from([0.25, 0.5, 1 / 3]), st.floats(0.001, 0.999))


@dataclass(frozen=True)
class Portioned:
    """``times``: how often an epoch asks for each image of a group, where its quotas follow one another; where all
    ``begin_together``, how often it does in each of the group's buckets, by (bucket, group)."""

    line: Line
    times: dict
    begin_together: bool


@st.composite
def portioned_lines(draw, policies=ALL, times=TIMES):
    """Classes that come more often than once, or not each time; in one bucket, or divided among several; or with a
    quota from 0 on in each. Where tails are not to mix them, buckets may be in sections."""
    counts = draw(st.lists(st.integers(1, 25), min_size=1, max_size=4))
    num_buckets = draw(st.integers(1, 4))
    policy = draw(st.sampled_from(policies))
    begin_together = draw(st.booleans())
    table, told = [], {}
    for group in range(len(counts)):
        buckets = draw(st.lists(st.integers(0, num_buckets - 1), min_size=1, max_size=3, unique=True))
        if begin_together:
            for bucket in buckets:
                told[bucket, group] = draw(times)
                table.append((bucket, group, 0.0, told[bucket, group]))
        else:
            told[group] = draw(times)
            cuts = sorted(draw(SHARES) * told[group] for _ in buckets[1:])
            for bucket, (begin, end) in zip(buckets, pairwise([0.0, *cuts, told[group]]), strict=True):
                table.append((bucket, group, begin, end))
    cuts = draw(st.sets(st.integers(1, num_buckets - 1), max_size=2)) if num_buckets > 1 else set()
    it = portioned(
        counts,
        table,
        num_buckets,
        _batch_sizes(draw, num_buckets + (policy == "catch_all")),
        draw(st.integers(1, 3)),
        policy,
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(0, 3)),
        edges=[0, *sorted(cuts), num_buckets] if policy == "spill" else None,
    )
    return Portioned(it, told, begin_together)


epochs = st.integers(0, 2**31 - 1)
