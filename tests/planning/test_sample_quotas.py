"""SampleQuotas: whatever an epoch asks for is served, each image as often as it is to come, no more and no less."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning.line.sample_quotas import MAX_SAMPLES
from tests.planning import distributions as stats
from tests.planning.lines import Portioned, epochs, line, portioned, portioned_lines

NO_CHANCE = 1e-6
THREE_WAYS = [(0, 0, 0.0, 0.4), (1, 0, 0.4, 1.3), (2, 0, 1.3, 2.5)]


def times_of(it, rows):
    """int64[M]: how often each row is among them."""
    return np.bincount(rows, minlength=len(it.buckets))


def allowed(times):
    """The whole numbers next to it: products of floats may be off in their last digits."""
    return {math.floor(times + 1e-9), math.ceil(times - 1e-9)}


@given(portioned_lines(), epochs)
@example(Portioned(portioned([7], THREE_WAYS, 3, 2, 2), {0: 2.5}, False), 3)
@example(
    Portioned(
        portioned([5], [(0, 0, 0.0, 1.0), (1, 0, 0.0, 1.0)], 2, 1, 2), {(0, 0): 1.0, (1, 0): 1.0}, True
    ),
    3,
)
def test_every_image_is_asked_for_as_often_as_it_is_to_come(given, epoch):
    it = given.line
    found = times_of(it, it.asked(epoch))
    assert not found[it.buckets < 0].any()
    for group, count in enumerate(it.counts.tolist()):
        here = found[it.buckets == group]
        if given.begin_together:
            # of each bucket the first images of the same walk, so that the sums are next to the sum as well
            each = [times for (_, of), times in given.times.items() if of == group]
            least, most = (sum(bound(allowed(times)) for times in each) for bound in (min, max))
            total = sum(each)
        else:
            least, most = (bound(allowed(given.times[group])) for bound in (min, max))
            total = given.times[group]
            each = [total]
        assert least <= here.min() <= here.max() <= most
        assert abs(here.sum() - count * total) < len(each) + 1e-6


@given(portioned_lines(policies=("pad", "drop")), epochs)
def test_no_bucket_has_more_than_an_image_of_each_group_too_many_or_too_few(given, epoch):
    it = given.line
    block, layout = it.epoch(epoch), it.planner.dealt(epoch).tape
    rows = np.append(block.rows[~block.repeats], left := it.left_out(epoch))
    served = np.append(
        it.targets(block)[~block.repeats], np.repeat(np.arange(len(layout.left_out)), layout.left_out)
    )
    assert len(left) == layout.left_out.sum()
    expected = Counter()
    for bucket, group, begin, end in zip(
        it.quotas.buckets, it.quotas.groups, it.quotas.begins, it.quotas.ends, strict=True
    ):
        expected[int(bucket), int(group)] += (end - begin) * it.planner._counts[group]
    number = np.cumsum(it.counts > 0) - 1
    found = Counter(zip(served.tolist(), number[it.buckets[rows]].tolist(), strict=True))
    for key in expected.keys() | found.keys():
        assert abs(found[key] - expected[key]) < 1 + 1e-6


@given(portioned_lines(), epochs)
def test_what_comes_again_comes_to_fill_a_tail(given, epoch):
    it = given.line
    block, layout = it.epoch(epoch), it.planner.dealt(epoch).tape
    again = np.bincount(it.targets(block)[block.repeats], minlength=len(layout.repeated))
    assert again.tolist() == layout.repeated.tolist()
    assert it.policy == "pad" or not block.repeats.any()
    # the same images over again, before any comes a third time
    times = Counter(zip(it.targets(block).tolist(), block.rows.tolist(), strict=True))
    for target, row in zip(
        it.targets(block)[block.repeats].tolist(), block.rows[block.repeats].tolist(), strict=True
    ):
        assert times[target, row] > 1


@given(portioned_lines(policies=("pad",), times=st.integers(1, 4).map(float)), epochs)
def test_whole_repeats_are_whole_in_every_epoch(given, epoch):
    it = given.line
    assert given.line.planner.is_steady == (not it.quotas._fractions.any())
    found = times_of(it, it.asked(epoch))
    for row, group in enumerate(it.buckets.tolist()):
        times = sum(
            times
            for of, times in given.times.items()
            if group in ((of[1],) if given.begin_together else (of,))
        )
        assert found[row] == times


@given(st.integers(1, 40), st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4), st.integers(1, 3), epochs)
def test_a_group_that_is_divided_comes_here_or_there(count, cuts, times, epoch):
    """Each border is rounded in the same way on both sides: no image is served twice, and none is missed."""
    bounds = [0.0, *sorted(cut * times for cut in cuts), float(times)]
    table = [(i, 0, *bounds[i : i + 2]) for i in range(len(bounds) - 1)]
    it = portioned([count], table, len(table), policy="drop")
    assert times_of(it, it.epoch(epoch).rows).tolist() == [times] * count


@given(portioned_lines(), epochs)
def test_locate_agrees_with_the_batches_for_every_row(given, epoch):
    it = given.line
    for row, expected in it.places(epoch).items():
        assert it.planner.locate(epoch, row, 1) == expected


@given(portioned_lines(), st.lists(st.integers(0, 90), min_size=1, max_size=12), st.data())
def test_answers_depend_on_nothing_that_was_asked_before(given, asked, data):
    it = given.line
    for epoch in asked:
        fresh = it.make()
        num = it.planner.num_batches(epoch, 1)
        assert num == fresh.num_batches(epoch, 1) >= it.planner.least_batches(1)
        positions = np.array(
            data.draw(st.lists(st.integers(0, num - 1), max_size=5)) if num else [], dtype=np.int64
        )
        one, other = it.planner.batches(epoch, positions, 1), fresh.batches(epoch, positions, 3)
        assert one.rows.tolist() == other.rows.tolist()
        assert one.buckets.tolist() == other.buckets.tolist()


@given(portioned_lines())
def test_it_is_steady_where_all_numbers_are_whole(given):
    it = given.line
    sizes = it.planner._counts[it.quotas.groups]
    borders = np.concatenate([it.quotas.begins * sizes, it.quotas.ends * sizes])
    is_whole = np.abs(borders - np.rint(borders)) < 1e-9 * np.maximum(borders, 1)
    # within a hair of a whole number it may be either
    assume(is_whole.all() or np.abs(borders - np.rint(borders)).max() > 1e-6)
    assert it.planner.is_steady == is_whole.all()
    if it.planner.is_steady:
        counts = {it.planner.num_batches(epoch, 1) for epoch in (0, 1, 2**31 - 1)}
        assert counts == {it.planner.least_batches(1)}


@pytest.mark.parametrize(
    ("times", "count"), [(0.29, 100), (1.1, 30), (1 / 3, 3), (0.7, 10), (2.3, 1_000_000)]
)
def test_a_whole_number_is_whole_whatever_the_digits_of_floats(times, count):
    it = portioned([count], [(0, 0, 0.0, times)], 1)
    assert it.quotas.is_steady
    assert it.quotas.samples.tolist() == [round(times * count)]


@given(portioned_lines())
@example(
    Portioned(
        portioned([3], [(0, 0, 0.0, 1 / 6), (1, 0, 1 / 6, 1.0)], 2, 3, edges=[0, 1, 2]), {0: 1.0}, False
    )
)
@example(
    Portioned(portioned([8, 9], [(0, 0, 0.0, 1.1), (1, 1, 0.0, 1.0)], 2, [20, 10]), {0: 1.1, 1: 1.0}, False)
)
@example(Portioned(portioned([18], [(0, 0, 0.0, 0.53)], 1, [10, 3], policy="catch_all"), {0: 0.53}, False))
def test_no_epoch_has_fewer_batches_than_the_least(given):
    """If the least is one batch, no epoch is without one: there is always a next step."""
    it = given.line
    least = it.planner.least_batches(1)
    assert all(it.planner.num_batches(epoch, 1) >= least for epoch in range(30))


def test_the_number_of_batches_changes_where_numbers_are_not_whole():
    it = portioned([5], [(0, 0, 0.0, 1.5)], 1)
    counts = {epoch: it.planner.num_batches(epoch, 1) for epoch in range(200)}  # more than are kept
    assert set(counts.values()) == {7, 8}
    assert counts == {epoch: it.planner.num_batches(epoch, 1) for epoch in counts}
    assert not it.planner.is_steady
    assert it.planner.least_batches(1) == 7


# --- over many epochs -------------------------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("times", "count"), [(1.3, 33), (0.9, 1), (0.5, 40), (2.25, 9), (0.07, 30), (0.6, 700)]
)
def test_every_image_comes_as_often_as_asked_on_average(times, count):
    num_epochs = 1_000
    it = portioned([count], [(0, 0, 0.0, times)], 1, policy="drop", seed=5)
    found = np.stack([times_of(it, it.epoch(epoch).rows) for epoch in range(num_epochs)])
    # in all: a draw of one image more or less each epoch
    totals = found.sum(axis=1)
    exact = times * count
    part = exact - math.floor(exact + 1e-9)
    ups = int((totals > math.floor(exact + 1e-9)).sum())
    if part > 1e-9:
        assert stats.binomtest(ups, num_epochs, part).pvalue > NO_CHANCE
    else:
        assert ups == 0
    # each: as likely as any other to be one of those that come once more, in this epoch as in any
    share = times - math.floor(times)
    sums = (found - math.floor(times)).sum(axis=0)
    chi2 = ((sums - num_epochs * share) ** 2).sum() / (num_epochs * share * (1 - share))
    assert min(stats.chi2.sf(chi2, count), stats.chi2.cdf(chi2, count) if count > 9 else 1.0) > NO_CHANCE


def test_other_images_are_drawn_in_other_epochs():
    it = portioned([40], [(0, 0, 0.0, 0.5)], 1, policy="drop")
    drawn = [frozenset(it.epoch(epoch).rows.tolist()) for epoch in range(50)]
    assert {len(each) for each in drawn} == {20}
    assert len(set(drawn)) == 50
    assert frozenset().union(*drawn) == set(range(40))
    # that an image came tells nothing of whether it comes next: 10 of 20 are expected, give or take 0.23
    both = [len(one & other) for one, other in pairwise(drawn)]
    assert 8.8 < sum(both) / len(both) < 11.2


@pytest.mark.exhaustive
def test_where_a_group_is_divided_each_image_goes_either_way():
    it = portioned([30], [(0, 0, 0.0, 0.35), (1, 0, 0.35, 1.0)], 2, policy="drop")
    num_epochs = 1_000
    here = np.zeros(30)
    for epoch in range(num_epochs):
        block = it.epoch(epoch)
        here += times_of(it, block.rows[it.targets(block) == 0])
    chi2 = ((here - num_epochs * 0.35) ** 2).sum() / (num_epochs * 0.35 * 0.65)
    assert stats.chi2.sf(chi2, 30) > NO_CHANCE


@pytest.mark.exhaustive
def test_groups_are_rounded_each_by_its_own_draw():
    """Else all would be rounded up in the same epochs, and these were longer by an image of each group."""
    it = portioned([1] * 20, [(0, group, 0.0, 0.5) for group in range(20)], 1, policy="drop")
    found = [it.planner.num_batches(epoch, 1) for epoch in range(800)]
    chi2 = (np.var(found, ddof=1) * 799) / 5.0  # binomial of 20 halves
    assert min(stats.chi2.sf(chi2, 799), stats.chi2.cdf(chi2, 799)) > NO_CHANCE


# --- what is refused, and what may not change -------------------------------------------------------------------------


def test_more_samples_than_can_be_counted_are_refused():
    portioned([2], [(0, 0, 0.0, MAX_SAMPLES / 2)], 1, batch_sizes=2**40)
    with pytest.raises(Invalid, match="num_repeats") as caught:
        portioned([3], [(0, 0, 0.0, MAX_SAMPLES / 2)], 1, batch_sizes=2**40)
    assert f"{MAX_SAMPLES:,}" in str(caught.value)


def test_a_group_in_one_bucket_that_comes_once_is_planned_as_ever():
    """The short way of plain runs and the walk agree."""
    plain = line([30, 0, 113, 64, 5], 4, 2)
    walked = plain.make()
    walked._bucket_rows = None
    for epoch in range(5):
        positions = np.arange(plain.num_batches)
        assert plain.epoch(epoch).rows.tolist() == walked.batches(epoch, positions, 1).rows.tolist()


# sha256 of a whole epoch, as int64 bytes: buckets, bounds, rows, repeats. They may change only with build.VERSION.
FROZEN = {
    ("spill", 0): "2fa0d6579db2cd5a",
    ("spill", 7): "6de650071a3f9d9e",
    ("pad", 0): "488166214e063303",
    ("catch_all", 1): "abddde02ad4d56f3",
}


@pytest.mark.parametrize(("policy", "epoch"), FROZEN)
def test_frozen_epochs(policy, epoch):
    table = [(0, 0, 0.0, 0.4), (1, 0, 0.4, 1.0), (1, 1, 0.0, 2.5), (2, 2, 0.0, 3.0), (0, 3, 0.0, 0.011)]
    block = portioned([700, 30, 64, 100], table, 3, 4, 3, policy, seed=42).epoch(epoch)
    digest = hashlib.sha256()
    for array in (block.buckets, block.bounds, block.rows, block.repeats):
        digest.update(array.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == FROZEN[policy, epoch]
