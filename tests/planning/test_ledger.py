"""The ledger says what reading all batches of an epoch says, and what the stats add up to."""

from __future__ import annotations

import tracemalloc
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning import ledger as ledgers
from bucketline_service.planning.buckets import ladder_generators as ladders
from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.ledger import Ledger
from bucketline_service.planning.line.image_classes import ImageClassifier
from bucketline_service.planning.line.remainders import POLICIES, may_serve
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.line.units import in_service
from bucketline_service.planning.plan_spec import FrameBucket, MapShare, PlanSpec
from bucketline_service.planning.plan_stats import epoch_stats
from tests.planning import distributions as stats

SIZES = [(512, 1024), (512, 768), (512, 512), (768, 512), (1024, 512)]
LADDER = ladders.explicit(SIZES)
LOW = ladders.explicit([(width // 2, height // 2) for width, height in SIZES])


def part(counts, *, repeats=(1.0,), num_frames=None, small=False, seed=0):
    """A map with ``counts`` images of each bucket's size; each has one of ``repeats``; some are ``small``."""
    rng = np.random.default_rng(seed)
    bucket = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    halves = rng.integers(1, 3, len(bucket)) if small else np.full(len(bucket), 2)
    widths = (LADDER.widths[bucket] * halves // 2).astype(np.uint32)
    heights = (LADDER.heights[bucket] * halves // 2).astype(np.uint32)
    codes = rng.integers(0, len(repeats), len(bucket)).astype(np.uint8)
    frames = None if num_frames is None else rng.choice(num_frames, len(bucket)).astype(np.uint32)
    return Part(widths, heights, codes, np.array(repeats, dtype=np.float64), frames)


class Case:
    def __init__(self, spec, parts, valid_rows=None):
        self.spec = spec
        self.images = Images(parts)
        self.valid = None
        if valid_rows is not None:
            self.valid = np.zeros(self.images.num_rows, dtype=bool)
            self.valid[valid_rows] = True
        self.prepared = prepare(spec, self.images, valid_rows=valid_rows)
        ids = np.random.default_rng(7).permutation(self.images.num_rows)
        self.planner = new_planner(spec, self.prepared, self.images, ids)

    def ledger(self, world_size=1):
        is_valid = None if self.valid is None else lambda rows: self.valid[rows]
        return Ledger(self.spec, self.prepared, self.images, self.planner, world_size, is_valid)

    def stats(self, epoch, world_size):
        return epoch_stats(self.spec, self.prepared, self.images, self.planner, epoch, world_size)

    def dealt(self, epoch, world_size):
        """(times that each row is served at a step, times that it is in the rest of the stream)."""
        num = self.planner.num_batches(epoch, world_size)
        block = self.planner.batches(epoch, np.arange(num), world_size)
        cut = block.bounds[num - num % world_size]
        return tuple(
            np.bincount(rows, minlength=self.images.num_rows) for rows in np.split(block.rows, [cut])
        )


def plan(tails="spill", batch_size=4, lockstep=1, **more):
    more.setdefault("steps", "balanced" if tails == "short" else "same_shape")
    return PlanSpec("line", more.pop("tiers", (LADDER,)), batch_size, 3, lockstep, tails, **more)


def summed(entries):
    """{(what, reason): nums of each row}, and that no block is empty, too long, or of no image."""
    found = defaultdict(Counter)
    for each in entries:
        assert 0 < len(each.rows) == len(each.nums) <= ledgers.BLOCK
        assert each.nums.min() > 0
        for row, num in zip(each.rows.tolist(), each.nums.tolist(), strict=True):
            found[each.what, each.reason][row] += num
    return found


def check(case, epoch, world_size):
    """An epoch of the ledger against its stats and against all its batches."""
    ledger = case.ledger(world_size)
    always, told = summed(ledger.always()), summed(ledger.epoch(epoch))
    declared = case.stats(epoch, world_size)
    sums = {kind: rows.total() for kind, rows in told.items()}
    tail, last_step, small, repeated = (
        told[kind]
        for kind in (
            ("left_out", "tail"),
            ("left_out", "last_step"),
            ("left_out", "small_bucket"),
            ("repeated", "tail"),
        )
    )
    never = always["never_served", "small_bucket"]
    assert sums.keys() <= told.keys() == {
        ("left_out", "tail"), ("left_out", "last_step"), ("left_out", "small_bucket"), ("repeated", "tail"),
    }  # fmt: skip
    assert repeated.total() == declared["repeated"]
    assert tail.total() + last_step.total() + declared["never_served"] == declared["dropped"]
    pruned = {reason: len(rows) for (what, reason), rows in always.items() if what == "pruned"}
    assert pruned == {reason: num for reason, num in declared["pruned"].items() if num}
    # what was asked for is what came, less what came too often, and what did not come
    dealt, rest = case.dealt(epoch, world_size)
    asked = dealt.copy()
    for rows, sign in ((repeated, -1), (tail, 1), (last_step, 1), (small, 1)):
        for row, num in rows.items():
            asked[row] += sign * num
    is_never = np.zeros(len(asked), dtype=bool)
    is_never[list(never)] = True
    assert not (dealt + rest)[is_never].any()
    assert asked.sum() == declared["num_samples"] - (declared["never_served"] - small.total())
    for row, num in last_step.items():
        assert rest[row] >= num
    if case.spec.tails != "pad" and case.spec.last_step != "fill":
        assert np.array_equal(rest, [last_step[row] for row in range(len(rest))])
    return asked, never, small, declared


@st.composite
def cases(draw):
    counts = draw(st.lists(st.integers(0, 30), min_size=5, max_size=5))
    counts[draw(st.integers(0, 4))] += 40  # so that there is a unit at all
    tails = draw(st.sampled_from(list(POLICIES)))
    repeats = draw(st.sampled_from([(1.0,), (1.0, 3.0), (0.5,), (1.5, 1.0), (0.3, 2.0, 0.0)]))
    parts = [part(counts, repeats=repeats, small=draw(st.booleans()), seed=draw(st.integers(0, 9)))]
    more = {"min_size": draw(st.sampled_from([None, 400]))}
    if draw(st.booleans()):
        parts.append(part([3, 0, 9, 1, 5], repeats=(1.0,), seed=1))
        more["maps"] = draw(
            st.sampled_from([(MapShare(), MapShare(2.0)), (MapShare(weight=0.7), MapShare(weight=0.3))])
        )
    if tails != "catch_all" and draw(st.booleans()):
        more["tiers"] = (LOW, LADDER)
        more["choose"] = draw(st.sampled_from(["highest", "every"]))
        more["frame_buckets"] = draw(st.sampled_from([(), (FrameBucket(1, (1.0, 0.4)),)]))
    valid = None
    if draw(st.booleans()):
        num = sum(len(each.widths) for each in parts)
        valid = np.flatnonzero(np.random.default_rng(draw(st.integers(0, 9))).random(num) < 0.8)
    lockstep, batch_size = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    if tails == "short" or draw(st.booleans()):
        more["steps"] = "balanced"
        more["last_step"] = "drop" if tails == "short" else draw(st.sampled_from(["drop", "fill"]))
    try:
        return Case(plan(tails, batch_size, lockstep, **more), parts, valid)
    except Invalid:
        return Case(plan(tails, 1, 1, **more), parts, valid)


@given(cases(), st.integers(0, 2**31 - 1), st.integers(1, 9))
def test_the_ledger_is_what_all_batches_and_the_stats_say(case, epoch, world_size):
    if case.planner.num_batches(epoch, world_size) >= world_size:
        check(case, epoch, world_size)


@pytest.mark.parametrize("tails", list(POLICIES))
@pytest.mark.parametrize(("world_size", "lockstep"), [(1, 1), (3, 4), (5, 1), (8, 3)])
def test_every_image_is_accounted_for(tails, world_size, lockstep):
    """Where each image is asked for so many times, that is what the ledger and the batches come to."""
    parts = [part([2, 30, 61, 9, 1], repeats=(1.0, 3.0)), part([0, 8, 20, 1, 0], seed=4)]
    case = Case(plan(tails, 4, lockstep, maps=(MapShare(), MapShare(2.0))), parts)
    wanted = np.concatenate([parts[0].repeats[parts[0].codes], np.full(len(parts[1].widths), 2.0)])
    for epoch in range(4):
        asked, never, small, declared = check(case, epoch, world_size)
        assert not small
        assert never.total() == declared["never_served"]
        for row, num in never.items():
            asked[row] += num
        assert np.array_equal(asked, wanted)


@pytest.mark.parametrize("repeats", [0.5, 1.5])
def test_fractions_are_rounded_image_by_image(repeats):
    case = Case(plan("drop", 8), [part([3, 30, 61, 9, 2], repeats=(repeats,))])
    for epoch in range(8):
        asked, never, _, _ = check(case, epoch, 3)
        there = np.setdiff1d(np.arange(len(asked)), list(never))
        assert set(asked[there].tolist()) <= {int(repeats), int(repeats) + 1}
        assert set(never.values()) == {int(repeats) + 1}


def test_an_image_that_one_of_its_tiers_never_serves_is_left_out_there():
    """It comes in the other tier, and so is no image that is never served."""
    spec = plan("drop", 8, tiers=(LOW, LADDER), choose="every")
    case = Case(spec, [part([0, 40, 0, 5, 0], small=True)])
    ledger = case.ledger()
    always, told = summed(ledger.always()), summed(ledger.epoch(2))
    small, never = told["left_out", "small_bucket"], always["never_served", "small_bucket"]
    assert case.stats(2, 1)["never_served"] == small.total() + never.total() > 0
    assert never.keys().isdisjoint(small)


@pytest.mark.parametrize("tails", list(POLICIES))
def test_who_is_never_served_is_served_in_no_epoch_and_all_others_in_some(tails):
    case = Case(plan(tails, 4), [part([3, 9, 2, 0, 5], repeats=(1.0, 2.0))])
    never = summed(case.ledger().always())["never_served", "small_bucket"]
    served = sum(sum(case.dealt(epoch, 1)) for epoch in range(40))
    assert set(np.flatnonzero(served == 0).tolist()) == set(never)
    assert bool(never) == (tails == "drop")


def test_pruned_images_are_told_with_their_reasons():
    parts = [
        part([3, 30, 61, 9, 2], small=True, num_frames=[1, 9, 20], repeats=(1.0, 0.0)),
        part([5, 5, 5, 5, 5], small=True, seed=2),
    ]
    spec = plan(min_size=400, frame_buckets=(FrameBucket(9, (1.0,)),), maps=(MapShare(), MapShare()))
    num = sum(len(each.widths) for each in parts)
    valid = np.flatnonzero(np.random.default_rng(5).random(num) < 0.7)
    case = Case(spec, parts, valid)
    told = {row: reason for (_, reason), rows in summed(case.ledger().always()).items() for row in rows}
    keys, reasons = ImageClassifier(spec, case.images).keys(case.images.read(0, num))
    names = ("", "max_ar_error", "max_crop_loss", "min_size")
    assert {"valid_ids", "num_frames", "num_repeats", "min_size"} == set(told.values())
    for row in range(num):
        if not case.valid[row]:
            assert told[row] == "valid_ids"
        elif reasons[row] in (1, 2, 3):
            assert told[row] == names[reasons[row]]
        else:
            assert (row in told) == (keys[row] < 0)


@pytest.mark.parametrize("world_size", [1, 3, 4])
def test_novelai_leaves_out_what_is_not_in_its_stream(world_size):
    spec = PlanSpec("novelai", (LADDER,), 4, 3, 1, "catch_all", metric="abs", max_ar_error=4.0)
    parts = [part([3, 30, 61, 9, 2])]
    case = Case(spec, parts, np.arange(0, 100))
    for epoch in range(3):
        ledger = case.ledger(world_size)
        told, declared = summed(ledger.epoch(epoch)), case.stats(epoch, world_size)
        assert told.keys() <= {("left_out", "last_step")}
        left_out = told["left_out", "last_step"]
        dealt, rest = case.dealt(epoch, world_size)
        assert not rest.any()
        assert left_out == Counter(np.flatnonzero((dealt == 0) & case.valid).tolist())
        assert left_out.total() == declared["dropped"]
        assert declared["repeated"] == declared["never_served"] == 0
        assert summed(ledger.always()).keys() == {("pruned", "valid_ids")}


counts = st.lists(st.integers(0, 12), min_size=4, max_size=4)


@given(st.sampled_from(list(POLICIES)), counts, counts, st.integers(1, 9), st.data())
@example("spill", [5, 5, 6, 0], [0, 0, 0, 0], 10, None)
def test_no_epoch_serves_a_bucket_that_is_said_to_be_never_served(policy, least, more, unit, data):
    least, more = np.array(least), np.array(more)
    units = np.full(4 + (policy == "catch_all"), unit)
    may = may_serve(policy, least, least + more, units)
    for _ in range(4):
        drawn = [data.draw(st.integers(0, each)) if data else 0 for each in more.tolist()]
        layout = POLICIES[policy](least + np.array(drawn), units)
        assert not np.any(layout.in_service(4) & ~may)
    if not more.any():
        assert np.array_equal(may, POLICIES[policy](least, units).in_service(4))


@given(cases())
def test_no_epoch_has_fewer_or_more_of_a_bucket_than_it_may(case):
    quotas = SampleQuotas.of(
        ImageClassifier(case.spec, case.images), case.prepared.groups, case.spec.num_buckets
    )
    drawn = np.array([quotas.cuts(case.spec.seed, epoch).counts for epoch in range(30)])
    assert np.all(quotas.least() <= drawn.min(axis=0))
    assert np.all(drawn.max(axis=0) <= quotas.most())
    if quotas.is_steady:
        assert np.array_equal(quotas.least(), quotas.most())
    assert case.planner.least_batches(1) > 0
    assert len(in_service(case.spec, quotas)) == case.spec.num_buckets


def test_what_one_tier_rounds_up_the_next_one_loses():
    """Of 10 clips a third is kept: 3 or 4, and so 7 or 6 go down."""
    spec = plan("drop", 1, tiers=(LOW, LADDER), frame_buckets=(FrameBucket(1, (1.0, 1 / 3)),))
    case = Case(spec, [part([0, 0, 10, 0, 0])])
    quotas = SampleQuotas.of(ImageClassifier(spec, case.images), case.prepared.groups, spec.num_buckets)
    assert [quotas.least().tolist()[at] for at in (2, 7)] == [6, 3]
    assert [quotas.most().tolist()[at] for at in (2, 7)] == [7, 4]


# --- it takes no memory that goes with N --------------------------------------------------------------------------


@pytest.mark.parametrize("tails", ["drop", "pad"])
def test_it_takes_no_more_for_four_times_the_images(tails):
    peaks = []
    for num in (270_000, 1_080_000):
        sizes = np.resize(np.array([512, 512, 768, 100], dtype=np.uint32), num)
        heights = np.resize(np.array([512, 512, 512, 900], dtype=np.uint32), num)
        images = Images.of(sizes, heights)
        spec = plan(tails, 1, lockstep=num * 3 // 8 if tails == "drop" else num, max_crop_loss=0.2)
        prepared = prepare(spec, images)
        planner = new_planner(spec, prepared, images)
        # a bucket that is never served, a large tail, or many repeats; and a quarter that is pruned
        ledger = Ledger(spec, prepared, images, planner, 1000)
        tracemalloc.start()
        try:
            num_rows, most = 0, 0
            for entries in (ledger.always, lambda ledger=ledger: ledger.epoch(1)):
                for each in entries():
                    num_rows, most = num_rows + len(each.rows), max(most, len(each.rows))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert num_rows > num / 3
        assert most == ledgers.BLOCK
    assert max(peaks) < 40 << 20
    assert peaks[1] < 1.5 * peaks[0] + (1 << 20)


# --- all images are treated equally --------------------------------------------------------------------------------

P = 1e-6
NUM_EPOCHS = 600


def times_told(case, what, world_size, num_epochs=NUM_EPOCHS):
    """[epochs, rows]: how many times each row is reported."""
    ledger = case.ledger(world_size)
    found = np.zeros((num_epochs, case.images.num_rows))
    for epoch in range(num_epochs):
        for each in ledger.epoch(epoch):
            if each.what == what:
                np.add.at(found[epoch], each.rows, each.nums)
    return found


def p_of_evenness(times):
    """That all images have one mean. The sum over epochs of each is near normal, and those of one epoch add up to
    what the epoch leaves out, so that they are a little tied: the statistic is scaled to their own variance."""
    num = times.shape[1]
    spread = (times - times.mean(axis=1, keepdims=True)).var(axis=1).sum() * num / (num - 1)
    sums = times.sum(axis=0)
    return float(stats.chi2.sf(((sums - sums.mean()) ** 2).sum() / spread, num - 1))


def alike(case):
    """Images of one group are alike: rows of each."""
    ends = np.cumsum(case.prepared.groups.counts)
    return np.split(np.asarray(case.prepared.order), ends[:-1])


def check_even(case, what, world_size):
    times = times_told(case, what, world_size)
    checked = 0
    for rows in alike(case):
        if len(rows) > 1 and times[:, rows].any():
            assert p_of_evenness(times[:, rows]) > P
            checked += 1
    assert checked
    return times


@pytest.mark.exhaustive
@pytest.mark.parametrize("tails", ["drop", "spill", "catch_all"])
@pytest.mark.parametrize("repeats", [0.4, 1.0, 1.5])
def test_drops_fall_evenly_on_all_images_of_a_bucket(tails, repeats):
    case = Case(plan(tails, 4, lockstep=3), [part([13, 30, 61, 19, 20], repeats=(repeats,))])
    check_even(case, "left_out", 4)


@pytest.mark.exhaustive
@pytest.mark.parametrize("repeats", [1.0, 1.5])
def test_repeats_fall_evenly_on_all_images_of_a_bucket(repeats):
    case = Case(plan("pad", 4, lockstep=3), [part([13, 30, 61, 19, 20], repeats=(repeats,))])
    check_even(case, "repeated", 4)
    check_even(case, "left_out", 7)


@pytest.mark.exhaustive
def test_drops_that_fall_on_one_image_too_often_are_seen():
    """The tests above can fail: one epoch in twenty is enough."""
    case = Case(plan("drop", 4, lockstep=3), [part([0, 0, 61, 0, 0])])
    times = check_even(case, "left_out", 1)
    num = NUM_EPOCHS // 20
    times[:num, 0] = times[:num].sum(axis=1)
    times[:num, 1:] = 0
    assert p_of_evenness(times) < P
