"""The stream of balanced steps: which batches an epoch deals, in which units, and what it leaves out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from bucketline_service.planning.line.remainders import POLICIES
from tests.planning import distributions as stats
from tests.planning.lines import balanced_lines, epochs, line


def there(it):
    """Whole batches that the line has, before any are left out or filled in."""
    num = it.counts // it.batch_sizes[: len(it.counts)]
    return int(num.sum())


def costs_of(it, block):
    """float64[num]: of each batch; a short one costs its share, an empty one nothing."""
    return it.costs[block.buckets] * np.diff(block.bounds) / it.batch_sizes[block.buckets]


@given(balanced_lines(["drop", "shift"]), epochs)
@example(line([20, 5, 3], 2, 4, "drop", multiple=1), 0)
@example(line([20, 5, 3], 2, 4, "drop", multiple=1, fills=True), 0)
def test_an_epoch_deals_all_whole_batches_but_for_less_than_a_unit(it, epoch):
    num = it.planner.num_batches(epoch, 1)
    assert num % it.lockstep == 0
    if it.fills:
        assert 0 <= num - there(it) < it.lockstep
    else:
        assert 0 <= there(it) - num < it.lockstep
    assert num == it.num_batches  # as many in every epoch


@given(balanced_lines(), epochs)
@example(line([20, 5, 3], 2, 4, "short", multiple=1, costs=[1, 2, 3]), 0)
def test_units_are_those_of_all_batches_sorted_by_cost(it, epoch):
    """No other grouping has a smaller sum of each unit's dearest batch."""
    block = it.epoch(epoch)
    assume(len(block.buckets))
    costs = costs_of(it, block)
    of = costs.reshape(-1, it.lockstep)
    least = np.sort(costs)[::-1].reshape(-1, it.lockstep).max(axis=1)
    assert of.max(axis=1).sum() == pytest.approx(least.sum(), abs=1e-9)


@given(balanced_lines(), st.integers(0, 40), st.integers(1, 9))
def test_mixed_steps_span_units_or_have_several_shapes(it, offset, world_size):
    num_steps = max(it.num_batches - offset, 0) // world_size
    positions = offset + np.arange(num_steps * world_size)
    targets = it.planner.batches(0, positions, 1).buckets.reshape(-1, world_size)
    units = (positions // it.lockstep).reshape(-1, world_size)
    is_mixed = (units != units[:, :1]).any(axis=1) | (targets != targets[:, :1]).any(axis=1)
    assert it.planner.mixed_steps(0, offset, world_size) == is_mixed.sum()


@given(balanced_lines(), epochs, st.integers(1, 9))
def test_imbalance_as_told_is_that_of_the_batches(it, epoch, world_size):
    num = it.num_batches // world_size * world_size
    of = costs_of(it, it.planner.batches(epoch, np.arange(num), 1)).reshape(-1, world_size)
    told = it.planner.imbalance(epoch, world_size)
    # without a step, or where all batches of its steps are empty, nobody waits
    assert told == (pytest.approx(of.max(axis=1).sum() / of.mean(axis=1).sum()) if of.any() else 1.0)


@given(balanced_lines(["drop", "shift"]), st.integers(0, 2**20))
def test_a_bucket_leaves_out_what_its_share_asks_for_to_the_nearest_batch(it, epoch):
    assume(not it.fills and it.num_batches)
    layout = it.planner.dealt(epoch).tape
    num = it.counts // it.batch_sizes
    out = num - layout.num_batches
    assert np.all(out >= 0)
    # all images that are served in some epoch are left out with one probability, where none must be left out more often
    is_there = num > 0
    rests = (it.counts - num * it.batch_sizes) / it.batch_sizes
    of_batches = it.counts / it.batch_sizes
    share = (out.sum() + rests[is_there].sum()) / of_batches[is_there].sum()
    asked = np.maximum(0.0, of_batches * share - rests) * is_there
    if asked.sum():
        asked *= out.sum() / asked.sum()
    assert np.all(np.abs(out - asked) < 1 + 1e-9)


# (counts, batch size, lockstep, fills): buckets of one line, and whether the last step is filled
FAIR = {
    "left out": ([160, 99, 24, 8], 8, 16, False),
    "left out of another lockstep": ([203, 96, 64, 120], 4, 37, False),
    "filled": ([160, 99, 24, 8], 8, 16, True),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FAIR)
def test_over_many_epochs_images_are_left_out_or_repeated_evenly(name):
    counts, batch_size, lockstep, fills = FAIR[name]
    it = line(counts, batch_size, lockstep, "shift", seed=3, multiple=1, fills=fills)
    num_epochs = 2000
    times = np.zeros(len(it.buckets))
    for epoch in range(num_epochs):
        np.add.at(times, it.epoch(epoch).rows, 1)
    of_each = times.sum() / len(times)
    share = abs(1.0 - of_each / num_epochs)
    # each epoch serves an image once more or less, or not: the variance is that of a share of epochs
    statistic = ((times - of_each) ** 2).sum() / (num_epochs * share * (1 - share))
    per_degree = statistic / (len(times) - 1)
    assert 0.8 < per_degree < 1.2
    # of each bucket as well
    for bucket in range(len(counts)):
        mine = times[it.buckets == bucket]
        scale = np.sqrt(num_epochs * share * (1 - share) * len(mine)) * np.sqrt(batch_size)
        assert abs(mine.sum() - of_each * len(mine)) < 4.5 * scale


def test_no_rank_has_the_dearest_batch_more_often_than_others():
    it = line([8, 8, 8, 8], 8, 4, "shift", multiple=1, costs=[4, 3, 2, 1])
    num_epochs = 400
    firsts = [
        int(np.flatnonzero(it.planner.batches(epoch, np.arange(4), 1).buckets == 0)[0])
        for epoch in range(num_epochs)
    ]
    counts = np.bincount(firsts, minlength=4)
    statistic = ((counts - num_epochs / 4) ** 2 / (num_epochs / 4)).sum()
    assert 1e-4 < stats.chi2.sf(statistic, 3) < 1 - 1e-4


@given(balanced_lines(["shift", "spill", "pad", "drop", "catch_all"]), st.data())
def test_the_largest_first_shows_every_shape_as_early_as_units_allow(it, data):
    assume(it.num_batches)
    num_targets = len(it.batch_sizes)
    shapes = [[target] for target in data.draw(st.permutations(range(num_targets)))]
    again = line(
        it.counts.tolist(),
        it.batch_sizes.tolist(),
        it.lockstep,
        it.policy,
        multiple=1,
        fills=it.fills,
        largest_first=shapes,
    )
    assume(again.num_batches)
    units = again.epoch(0).buckets.reshape(-1, again.lockstep)
    dealt = again.planner.dealt(0).tape.num_batches
    # every bucket has a batch, as far as there are batches enough
    is_there = POLICIES[it.policy](it.counts, it.batch_sizes).num_batches > 0
    if dealt.sum() >= is_there.sum():
        assert np.all(dealt[is_there] > 0)
    wanted = [shape[0] for shape in shapes if dealt[shape[0]]]
    seen: set[int] = set()
    at = 0
    for target in wanted:
        if target in seen:  # in a mixed unit that has come
            continue
        assert target in units[at]
        seen |= set(units[at].tolist())
        at += 1
