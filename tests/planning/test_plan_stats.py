from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bucketline_service.planning.assignment_stats import tails
from bucketline_service.planning.buckets import ladder_generators as ladders
from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.geometry import crop_loss
from bucketline_service.planning.images import Images
from bucketline_service.planning.line.units import layout_of
from bucketline_service.planning.plan_spec import PlanSpec
from tests.planning.lines import samples_of

LADDER = ladders.explicit([(512, 1024), (512, 768), (512, 512), (768, 512), (1024, 512)])
POLICIES = ("spill", "pad", "drop", "catch_all")


class Case:
    """A plan of images that do not fit their buckets exactly, and the stats it declares."""

    def __init__(self, counts, policy, unit, seed=0):
        rng = np.random.default_rng(seed)
        bucket = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        self.widths = (LADDER.widths[bucket] + rng.integers(-40, 41, len(bucket))).astype(np.uint32)
        self.heights = LADDER.heights[bucket].astype(np.uint32)
        self.spec = PlanSpec("line", (LADDER,), unit, seed, 1, policy)
        images = Images.of(self.widths, self.heights)
        self.prepared = prepare(self.spec, images)
        counts = samples_of(self.spec, images, self.prepared)
        self.bucket = bucket
        self.layout = layout_of(self.spec, counts)
        self.planner = new_planner(self.spec, self.prepared, images)
        self.summary = self.prepared.summary
        self.tails = tails(self.spec, self.layout, self.summary, self.layout.in_service(len(counts)))

    def epoch(self, epoch):
        """(rows, their targets, repeats) of all that an epoch serves."""
        block = self.planner.batches(epoch, np.arange(self.planner.num_batches(epoch, 1)), 1)
        return block.rows, np.repeat(block.buckets, np.diff(block.bounds)), block.repeats

    def losses(self, rows, targets):
        sizes = np.array(self.spec.targets)[targets]
        return crop_loss(self.widths[rows], self.heights[rows], sizes[:, 0], sizes[:, 1])


@st.composite
def cases(draw):
    unit = draw(st.integers(1, 7))
    policy = draw(st.sampled_from(POLICIES))
    counts = draw(st.lists(st.one_of(st.just(0), st.integers(0, 40)), min_size=5, max_size=5))
    counts[draw(st.integers(0, 4))] += unit  # so that there is a unit at all
    return Case(counts, policy, unit, draw(st.integers(0, 99)))


@given(cases(), st.integers(0, 1000))
@example(Case([3, 9, 2, 0, 4], "spill", 4), 0)
@example(Case([3, 9, 2, 0, 4], "pad", 4), 0)
@example(Case([3, 9, 2, 0, 4], "catch_all", 4), 0)
def test_what_is_declared_is_what_an_epoch_does(case, epoch):
    rows, targets, repeats = case.epoch(epoch)
    declared = case.tails
    assert sum(tail["repeated"] for tail in declared) == repeats.sum()
    left_out = sum(tail["left_out"] for tail in declared)
    assert left_out == len(case.bucket) - len(np.unique(rows))
    for target, tail in enumerate(declared):
        assert tail["repeated"] == repeats[targets == target].sum()
        assert (tail["crop_loss_served"] is None) == (target not in targets)


@given(cases())
def test_spilled_images_are_those_outside_their_bucket(case):
    rows, targets, _ = case.epoch(0)
    complete = (case.layout.left_out == 0).tolist()
    seen = list(zip(case.bucket[rows].tolist(), targets.tolist(), strict=True))
    for bucket, tail in enumerate(case.tails):
        assert all(moved["bucket"] != bucket and moved["num_images"] > 0 for moved in tail["spilled"])
        for moved in tail["spilled"]:
            if complete[moved["bucket"]]:
                assert seen.count((bucket, moved["bucket"])) == moved["num_images"]
        declared = {moved["bucket"] for moved in tail["spilled"]}
        assert {target for source, target in seen if source == bucket} <= declared | {bucket}


@pytest.mark.parametrize("policy", ["pad", "drop"])
def test_the_tail_is_what_does_not_fill_a_unit(policy):
    case = Case([3, 9, 2, 0, 4], policy, 4)
    assert [tail["num_images"] for tail in case.tails] == [3, 1, 2, 0, 0]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("counts", [[3, 9, 2, 0, 4], [2, 1, 0, 6, 3], [6, 0, 0, 0, 0], [1, 0, 4, 0, 1]])
def test_never_served_is_what_no_epoch_serves(counts, policy):
    """Which images are in a remainder changes each epoch: only those whose bucket is never drawn from are lost."""
    case = Case(counts, policy, 4)
    served = np.zeros(len(case.bucket), dtype=bool)
    for epoch in range(30):
        served[case.epoch(epoch)[0]] = True
    assert sum(tail["never_served"] for tail in case.tails) == np.count_nonzero(~served)
    assert all(tail["never_served"] <= tail["left_out"] for tail in case.tails)


EXACT = [
    ("spill", [4, 8, 4, 0, 4]),  # whole units: nothing moves
    ("pad", [4, 8, 4, 0, 4]),
    ("spill", [4, 1, 10, 5, 0]),  # every stretch except 4's is whole buckets, and everything is served
    ("catch_all", [1, 0, 2, 1, 0]),  # all in the catch-all
]


@pytest.mark.parametrize(("policy", "counts"), EXACT)
def test_crop_loss_served_is_exact_where_every_stretch_holds_whole_buckets(policy, counts):
    case = Case(counts, policy, 4)
    rows, targets, _ = case.epoch(3)
    whole = {(bucket, target) for bucket, target, size in case.layout.flows() if size == counts[bucket]}
    split = {target for bucket, target, _ in case.layout.flows() if (bucket, target) not in whole}
    checked = 0
    for target, tail in enumerate(case.tails):
        mine = targets == target
        if mine.any() and target not in split:
            assert tail["crop_loss_served"] == pytest.approx(
                case.losses(rows, targets)[mine].mean(), abs=1e-6
            )
            checked += 1
    assert checked


@pytest.mark.parametrize(
    "policy",
    [
        "drop",
        *(pytest.param(policy, marks=pytest.mark.exhaustive) for policy in ("spill", "pad", "catch_all")),
    ],
)
def test_crop_loss_served_is_what_epochs_have_on_average(policy):
    case, num_epochs = Case([13, 30, 61, 9, 2], policy, 8), 400
    means = np.full((num_epochs, len(case.tails)), np.nan)
    for epoch in range(num_epochs):
        rows, targets, _ = case.epoch(epoch)
        losses = case.losses(rows, targets)
        for target in np.unique(targets):
            means[epoch, target] = losses[targets == target].mean()
    for target, tail in enumerate(case.tails):
        if tail["crop_loss_served"] is None:
            assert np.isnan(means[:, target]).all()
            continue
        mean, error = means[:, target].mean(), means[:, target].std(ddof=1) / np.sqrt(num_epochs)
        assert abs(mean - tail["crop_loss_served"]) <= 4 * error + 1e-6
        assert error < 0.002  # small enough to tell one target from the next


def test_the_summary_is_that_of_plain_loops():
    case = Case([13, 30, 61, 9, 2], "spill", 8)
    rows = np.arange(len(case.bucket))
    losses = case.losses(rows, case.bucket)
    errors = np.abs(case.widths / case.heights - LADDER.aspects[case.bucket])
    for name, values in (("crop_loss", losses), ("aspect_error", errors)):
        found = case.summary[name]
        assert (found["mean"], found["max"]) == pytest.approx((values.mean(), values.max()), abs=1e-12)
        for quantile, share in (("median", 0.5), ("p95", 0.95)):
            exact = np.quantile(values, share, method="inverted_cdf")
            assert exact - (1 + exact) ** 2 / 65_536 <= found[quantile] <= exact
        told = found["quantiles"]
        exact = np.quantile(values, np.linspace(0, 1, len(told)), method="inverted_cdf")
        assert told == pytest.approx(exact, abs=2e-4)
        assert (len(told) > 20, told[-1]) == (True, found["max"])
    for bucket, found in enumerate(case.summary["bucket_crop_loss"]):
        mine = losses[case.bucket == bucket]
        assert found == pytest.approx({"mean": mine.mean(), "max": mine.max()}, abs=1e-6)
    flows = {f"{bucket}:{target}" for bucket, target, _ in case.layout.flows()}
    assert set(case.summary["flow_crop_loss"]) == flows
    for name, found in case.summary["flow_crop_loss"].items():
        bucket, target = map(int, name.split(":"))
        mine = rows[case.bucket == bucket]
        assert found == pytest.approx(case.losses(mine, np.full(len(mine), target)).mean(), abs=1e-6)


def test_empty_buckets_have_a_crop_loss_of_nothing():
    case = Case([0, 9, 0, 0, 0], "spill", 4)
    assert case.summary["bucket_crop_loss"][0] == {"mean": 0.0, "max": 0.0}
    assert [tail["crop_loss_served"] is None for tail in case.tails] == [True, False, True, True, True]
