from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bucketline_service.planning.line import remainders
from bucketline_service.planning.line.remainders import POLICIES
from tests.planning import distributions as stats
from tests.planning.lines import balanced_lines, epochs, line, lines


@given(st.one_of(lines(), balanced_lines()), epochs)
@example(line([1], 1), 0)
@example(line([1], 5, 4, "pad"), 0)
@example(line([0, 2, 0], 3), 0)  # nothing to serve
@example(line([7, 0, 9], [5, 1, 2], 2, "spill"), 1)
def test_what_is_served_repeated_and_left_out_is_what_the_layout_declares(it, epoch):
    block, layout = it.epoch(epoch), it.planner.dealt(epoch).tape
    first = block.rows[~block.repeats]
    assert len(np.unique(first)) == len(first)  # at most once, except what is marked as a repeat
    assert np.all(it.buckets[block.rows] >= 0)
    assert len(first) + layout.left_out.sum() == it.counts.sum()
    assert block.repeats.sum() == layout.repeated.sum()
    assert np.isin(block.rows[block.repeats], first).all()
    served = np.bincount(it.targets(block), minlength=len(it.batch_sizes))
    assert served.tolist() == layout.served.tolist()
    if it.policy != "short":
        assert served.tolist() == (layout.num_batches * it.batch_sizes).tolist()


@given(lines(["drop"]), epochs)
def test_drop_leaves_out_less_than_a_unit_of_each_bucket(it, epoch):
    block = it.epoch(epoch)
    assert np.array_equal(it.buckets[block.rows], it.targets(block))
    served = np.bincount(it.buckets[block.rows], minlength=len(it.counts))
    assert np.all((served <= it.counts) & (it.counts - served < it.units))
    assert not block.repeats.any()


@given(lines(["pad"]), epochs)
@example(line([1, 0, 3], 4, 3, "pad"), 0)
def test_pad_serves_every_image_and_repeats_the_fewest_and_evenly(it, epoch):
    block = it.epoch(epoch)
    assert np.array_equal(it.buckets[block.rows], it.targets(block))
    times = np.bincount(block.rows, minlength=len(it.buckets))
    again = np.bincount(block.rows[block.repeats], minlength=len(it.buckets))
    assert np.array_equal(times, (it.buckets >= 0) + again)
    for bucket in range(len(it.counts)):
        mine = times[it.buckets == bucket]
        if len(mine):
            assert mine.sum() - len(mine) < it.units[bucket]
            assert mine.max() - mine.min() <= 1


@given(lines(["spill"], same_sizes=True), epochs)
def test_spill_leaves_out_fewer_images_than_one_unit(it, epoch):
    block = it.epoch(epoch)
    assert len(block.rows) == it.counts.sum() // it.units[0] * it.units[0]


@given(lines(["spill"]), epochs)
@example(line([3, 4, 0, 50, 2, 3], 2, 2), 0)
def test_spill_moves_an_image_to_its_neighbour_unless_that_is_smaller_than_a_unit(it, epoch):
    block = it.epoch(epoch)
    middle = int(np.argmax(it.counts))
    assert len(np.unique(block.rows)) > it.counts.sum() - it.units[middle]
    for bucket, target in {*zip(it.buckets[block.rows].tolist(), it.targets(block).tolist(), strict=True)}:
        low, high = sorted((bucket, target))
        assert np.all(it.counts[low + 1 : high] < it.units[low + 1 : high])
        # toward the largest bucket, never past it
        assert low >= middle or high <= middle
        assert abs(target - middle) <= abs(bucket - middle)


@given(lines(["catch_all"]), epochs)
def test_catch_all_takes_the_tails_alone(it, epoch):
    block = it.epoch(epoch)
    targets, buckets = it.targets(block), it.buckets[block.rows]
    catch_all = len(it.counts)
    own = targets != catch_all
    assert np.array_equal(buckets[own], targets[own])
    heads = np.bincount(buckets[own], minlength=catch_all)
    assert heads.tolist() == (it.counts // it.units[:-1] * it.units[:-1]).tolist()
    assert len(targets) - own.sum() == (it.counts - heads).sum() // it.units[-1] * it.units[-1]


@given(lines())
def test_flows_say_how_many_images_stand_in_each_stretch(it):
    flows = it.layout.flows()
    assert all(size > 0 for _, _, size in flows)
    assert len({(bucket, target) for bucket, target, _ in flows}) == len(flows)
    for axis, totals in ((0, it.counts), (1, it.layout.lengths)):
        sums = np.zeros(len(totals), dtype=np.int64)
        for flow in flows:
            sums[flow[axis]] += flow[2]
        assert sums.tolist() == totals.tolist()


@given(lines(), epochs)
def test_flows_are_what_an_epoch_serves_where_nothing_is_left_out_or_repeated(it, epoch):
    block = it.epoch(epoch)
    exact = (it.layout.left_out + it.layout.repeated) == 0
    seen = list(zip(it.buckets[block.rows].tolist(), it.targets(block).tolist(), strict=True))
    for bucket, target, size in it.layout.flows():
        if exact[target]:
            assert seen.count((bucket, target)) == size


@pytest.mark.parametrize("policy", POLICIES)
@given(exact=st.lists(st.integers(0, 5), min_size=1, max_size=5), unit=st.integers(1, 6))
def test_whole_units_cost_nothing_under_any_policy(policy, exact, unit):
    layout = line([unit * num for num in exact], unit, 1, policy).layout
    assert layout.left_out.sum() == layout.repeated.sum() == 0
    assert all(bucket == target for bucket, target, _ in layout.flows())
    assert layout.num_batches[: len(exact)].tolist() == exact


# Left out: the buckets whose images are in the one stretch with a remainder, and how many of them an epoch leaves out.
FAIR = {
    "drop": (line([11, 8], 4, 2, "drop"), [0], 3),
    "spill": (line([3, 20, 5], 4, 2, "spill"), [0, 1, 2], 4),
    "spill, two units wide": (line([8, 3, 21, 2], 1, 8, "spill"), [1, 2, 3], 2),
    "catch_all": (line([7, 7, 7], 4, 1, "catch_all"), [0, 1, 2], 1),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FAIR)
def test_over_many_epochs_what_is_left_out_falls_evenly(name):
    it, buckets, num_left_out = FAIR[name]
    num_epochs, concerned = 2000, np.flatnonzero(np.isin(it.buckets, buckets))
    times = np.zeros(len(it.buckets))
    for epoch in range(num_epochs):
        missing = np.setdiff1d(np.arange(len(it.buckets)), it.epoch(epoch).rows)
        assert len(missing) == num_left_out
        times[missing] += 1
    assert times.sum() == times[concerned].sum()
    share = num_left_out / len(concerned)
    expected = num_epochs * share
    # drawing without replacement ties the counts of one epoch: the variance of each is that of a hypergeometric
    scale = (1 - share) * len(concerned) / (len(concerned) - 1)
    statistic = ((times[concerned] - expected) ** 2 / expected).sum() / scale
    assert 1e-4 < stats.chi2.sf(statistic, len(concerned) - 1) < 1 - 1e-4


@pytest.mark.parametrize("policy", ["spill", "catch_all"])
def test_no_counts_make_fewer_units_than_the_least(policy):
    rng = np.random.default_rng(11)
    is_met = 0
    for _ in range(500):
        num = int(rng.integers(1, 6))
        units = rng.choice([1, 2, 7, 40], num + (policy == "catch_all")).astype(np.int64)
        least = rng.integers(0, 60, num)
        edges = None if policy == "catch_all" or num < 2 else [0, int(rng.integers(1, num)), num]
        bound = remainders.least_batches(policy, least, units, 1, edges)
        found = [
            int(
                remainders.POLICIES[policy](
                    least + rng.integers(0, 4, num), units, 1, edges
                ).num_batches.sum()
            )
            for _ in range(3)
        ]
        assert min(found) >= bound
        is_met += min(found) == bound
    assert is_met > 50


def test_a_few_large_units_do_not_hide_many_small_ones():
    least, units = np.array([5000, 3]), np.array([2, 4096])
    assert remainders.least_batches("spill", least, units) == 2500
