from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning.planner_port import MAX_EPOCH
from bucketline_service.runs.sharding import MAX_WALKED, Sharding, Span
from bucketline_service.store.port import Cursor, Generation
from tests.planning.lines import (
    line,
    lines,
    portioned,
    portioned_lines,
)

LINE = line([70, 33, 121], 2, 4)  # 28 units of 4 batches of 2
START = Cursor(0, 0)
world_sizes = st.integers(1, 9)


def deal_to(planner, world_size, origin=START, offset=0, end_epoch=MAX_EPOCH):
    return Sharding(planner, world_size, origin, offset, end_epoch)


def resized(sharding, cursor, world_size):
    """The sharding of a new session that continues at ``cursor`` with another world size."""
    return deal_to(sharding.planner, world_size, cursor, sharding.consumed(cursor), sharding.end_epoch)


def dealt(sharding, epoch, begin, end):
    """Positions by step and rank, int64[end - begin, world_size]."""
    span = Span(epoch, begin, end - begin)
    return np.stack([sharding.positions(span, rank) for rank in range(sharding.world_size)], axis=1)


@st.composite
def deals(draw):
    """Deals of any origin that have at least one step in every epoch, which may have more in one than in another."""
    it = draw(lines() | portioned_lines().map(lambda given: given.line))
    least = it.planner.least_batches(1)
    assume(least)
    world_size = draw(st.integers(1, min(9, least)))
    epoch = draw(st.integers(0, 3))
    offset = draw(st.integers(0, it.planner.num_batches(epoch, 1)))
    origin = Cursor(epoch, draw(st.integers(0, 9)) if offset else 0)
    return deal_to(it.planner, world_size, origin, offset, end_epoch=draw(st.integers(origin.epoch + 1, 7)))


def cursors_of(sharding):
    """Every step from the origin to the end of the run, one after the other."""
    return [
        Cursor(epoch, step)
        for epoch in range(sharding.origin.epoch, sharding.end_epoch)
        for step in range(
            sharding.origin.step if epoch == sharding.origin.epoch else 0, sharding.num_steps(epoch)
        )
    ]


@settings(deadline=None)
@given(deals())
def test_every_rank_has_every_step_and_every_position_is_dealt_once(sharding):
    for epoch in (sharding.origin.epoch, sharding.origin.epoch + 1):
        first, offset = (sharding.origin.step, sharding.offset) if epoch == sharding.origin.epoch else (0, 0)
        positions = dealt(sharding, epoch, first, sharding.num_steps(epoch))
        num_left_out = sharding.num_left_out(epoch)
        num_batches = sharding.planner.num_batches(epoch, sharding.world_size)
        # in the stream's order, step after step and rank after rank
        assert positions.ravel().tolist() == list(range(offset, num_batches - num_left_out))
        assert 0 <= num_left_out < sharding.world_size


@settings(deadline=None)
@given(lines(), st.integers(1, 4), st.integers(0, 5))
def test_every_step_is_of_one_shape_where_world_size_divides_lockstep(it, world_size, epoch):
    assume(it.lockstep % world_size == 0)
    sharding = deal_to(it.planner, world_size)
    assert sharding.num_left_out(epoch) == 0
    positions = dealt(sharding, epoch, 0, sharding.num_steps(epoch))
    buckets = it.planner.batches(epoch, positions.ravel(), world_size).buckets.reshape(-1, world_size)
    assert np.all(buckets == buckets[:, :1])
    assert it.planner.mixed_steps(epoch, 0, world_size) == 0


def test_a_world_size_that_does_not_divide_lockstep_mixes_shapes_as_declared():
    sharding = deal_to(LINE.planner, 3)
    positions = dealt(sharding, 0, 0, sharding.num_steps(0))
    buckets = LINE.planner.batches(0, positions.ravel(), 3).buckets.reshape(-1, 3)
    mixed = np.any(buckets != buckets[:, :1], axis=1).sum()
    assert 0 < mixed <= LINE.planner.mixed_steps(0, 0, 3)


@pytest.mark.parametrize("world_size", [1, 4, 5])
def test_resume_at_every_step_is_the_rest(world_size):
    whole = deal_to(LINE.planner, world_size)
    num_steps = whole.num_steps(2)
    everything = dealt(whole, 2, 0, num_steps)
    for step in range(num_steps + 1):
        rest = resized(whole, Cursor(2, step), world_size)
        assert rest.num_steps(2) == num_steps
        assert np.array_equal(dealt(rest, 2, step, num_steps), everything[step:])
        assert rest.num_steps(3) == num_steps


@settings(deadline=None)
@given(
    lines(), st.integers(0, 3), st.lists(st.tuples(world_sizes, st.integers(0, 20)), min_size=1, max_size=6)
)
def test_changes_of_world_size_deal_an_epoch_once(it, epoch, chain):
    """Sessions of (world size, steps until it stops), the last runs to the epoch's end."""
    assume(it.num_batches)
    sharding = deal_to(it.planner, chain[0][0], Cursor(epoch, 0))
    cursor, seen = Cursor(epoch, 0), []
    for i, (world_size, steps) in enumerate(chain):
        if i:
            sharding = resized(sharding, cursor, world_size)
        stop = (
            sharding.num_steps(epoch)
            if i == len(chain) - 1
            else min(cursor.step + steps, sharding.num_steps(epoch))
        )
        seen.append(dealt(sharding, epoch, cursor.step, stop).ravel())
        cursor = Cursor(epoch, stop)
    positions = np.concatenate(seen)
    num_left_out = sharding.num_left_out(epoch)
    assert positions.tolist() == list(range(it.num_batches - num_left_out))
    assert num_left_out < chain[-1][0]
    block = it.planner.batches(epoch, positions, 1)
    first = block.rows[~block.repeats]
    assert len(np.unique(first)) == len(first)
    # what the last session cannot deal, and nothing else, is missing
    rest = it.planner.batches(epoch, np.arange(len(positions), it.num_batches), 1)
    assert np.array_equal(np.concatenate([block.rows, rest.rows]), it.epoch(epoch).rows)


def test_the_epochs_after_a_change_begin_at_their_start():
    sharding = resized(deal_to(LINE.planner, 8), Cursor(1, 5), 6)
    assert (sharding.offset, sharding.origin) == (40, Cursor(1, 5))
    assert sharding.positions(Span(1, 5, 2), 1).tolist() == [41, 47]
    assert sharding.positions(Span(2, 0, 2), 1).tolist() == [1, 7]
    assert sharding.num_steps(1) == 5 + (LINE.num_batches - 40) // 6
    assert sharding.num_steps(2) == LINE.num_batches // 6
    assert sharding.consumed(Cursor(1, 7)) == 52
    assert sharding.consumed(Cursor(2, 7)) == 42


@settings(deadline=None)
@given(deals())
def test_step_of_inverts_positions(sharding):
    for epoch in (sharding.origin.epoch, sharding.origin.epoch + 1):
        first = sharding.origin.step if epoch == sharding.origin.epoch else 0
        table = dealt(sharding, epoch, first, sharding.num_steps(epoch))
        where = {int(position): (first + s, r) for (s, r), position in np.ndenumerate(table)}
        for position in range(sharding.planner.num_batches(epoch, sharding.world_size)):
            assert sharding.step_of(epoch, position) == where.get(position)


@settings(deadline=None)
@given(deals(), st.data())
def test_spans_are_the_steps_one_after_the_other(sharding, data):
    steps = cursors_of(sharding)
    begin = data.draw(st.integers(0, len(steps)))
    count = data.draw(st.integers(0, 30))
    cursor = steps[begin] if begin < len(steps) else Cursor(sharding.end_epoch, 0)
    spans = list(sharding.spans(cursor, count))
    assert all(span.count > 0 for span in spans)
    flat = [Cursor(span.epoch, span.step + i) for span in spans for i in range(span.count)]
    assert flat == steps[begin : begin + count]
    assert len({span.epoch for span in spans}) == len(spans)  # as few as can be


@settings(deadline=None)
@given(deals(), st.data())
def test_back_is_so_many_steps_before_and_the_origin_at_the_earliest(sharding, data):
    steps = cursors_of(sharding)
    assume(steps)
    at = data.draw(st.integers(0, len(steps) - 1))
    for num in {0, 1, data.draw(st.integers(0, 30)), at, at + 1}:
        expected = steps[at - num] if num <= at else sharding.origin
        assert sharding.back(steps[at], num) == expected


@settings(deadline=None)
@given(deals(), st.data())
def test_distance_counts_steps_both_ways(sharding, data):
    steps = cursors_of(sharding)
    assume(steps)
    for _ in range(5):
        i, j = (data.draw(st.integers(0, len(steps) - 1)) for _ in range(2))
        assert sharding.distance(steps[i], steps[j]) == j - i
    # an epoch's end and the next one's beginning are the same place
    end = Cursor(sharding.origin.epoch, sharding.num_steps(sharding.origin.epoch))
    assert sharding.distance(end, sharding.normal(end)) == 0


def test_distance_over_a_billion_epochs_walks_none_of_them():
    sharding = resized(deal_to(LINE.planner, 8), Cursor(1, 5), 6)
    per_epoch = sharding.num_steps(2)
    expected = (sharding.num_steps(1) - 6) + (10**9 - 2) * per_epoch + 3
    assert sharding.distance(Cursor(1, 6), Cursor(10**9, 3)) == expected
    assert sharding.distance(Cursor(10**9, 3), Cursor(1, 6)) == -expected


def test_distance_over_epochs_of_several_lengths():
    """1,500 of about 7.5 steps each: more than are remembered."""
    sharding = deal_to(portioned([5], [(0, 0, 0.0, 1.5)], 1).planner, 1)
    lengths = [sharding.num_steps(epoch) for epoch in range(1_500)]
    assert set(lengths) == {7, 8}
    for stop in (4, 5, 4 + MAX_WALKED):
        assert sharding.distance(Cursor(3, 2), Cursor(stop, 4)) == sum(lengths[3:stop]) - 2 + 4
    # past these it is as near as the lengths are to each other
    exact = sum(lengths[3:1_499]) - 2 + 4
    assert abs(sharding.distance(Cursor(3, 2), Cursor(1_499, 4)) - exact) <= 1_496
    assert sharding.distance(Cursor(1_499, 4), Cursor(3, 2)) == -sharding.distance(
        Cursor(3, 2), Cursor(1_499, 4)
    )
    assert sharding.distance(Cursor(3, 2), Cursor(2**31 - 1, 4)) > 7 * (2**31 - 5)  # and walks no more
    assert sharding.back(Cursor(1_499, 4), sum(lengths[3:1_499]) + 2) == Cursor(3, 2)


@settings(deadline=None)
@given(deals())
def test_normal_names_a_step_that_exists(sharding):
    for cursor in cursors_of(sharding):
        assert sharding.normal(cursor) == cursor
    for epoch in range(sharding.origin.epoch, sharding.end_epoch):
        assert sharding.normal(Cursor(epoch, sharding.num_steps(epoch))) == Cursor(epoch + 1, 0)


def test_the_run_ends_with_its_last_epoch():
    sharding = deal_to(LINE.planner, 8, end_epoch=2)
    last = Cursor(1, sharding.num_steps(1) - 1)
    assert not sharding.is_over(last)
    assert sharding.is_over(sharding.normal(Cursor(1, last.step + 1)))
    assert list(sharding.spans(last, 5)) == [Span(1, last.step, 1)]


def test_a_deal_of_a_generation():
    generation = Generation(3, "session", 6, Cursor(1, 5), 40, "b")
    assert Sharding.of(LINE.planner, generation, None) == deal_to(LINE.planner, 6, Cursor(1, 5), 40)
    assert Sharding.of(LINE.planner, generation, 4).end_epoch == 4


def test_steps_that_do_not_exist_are_refused_with_those_that_do():
    sharding = deal_to(LINE.planner, 6, Cursor(1, 5), 40, end_epoch=4)
    for cursor in cursors_of(sharding):
        sharding.check_exists("ack", cursor)
        sharding.check_dealt("ack", cursor)
    past = Cursor(2, sharding.num_steps(2))
    for check in (sharding.check_exists, sharding.check_dealt):
        with pytest.raises(
            Invalid, match=r"ack\.epoch: must be less than 4, the number of epochs of the run, got 4"
        ):
            check("ack", Cursor(4, 0))
        with pytest.raises(
            Invalid, match=rf"ack\.step: must be less than {past.step}, .* epoch 2, got {past.step}"
        ):
            check("ack", past)
    for older in (Cursor(1, 4), Cursor(0, 3)):
        sharding.check_exists("from", older)
        with pytest.raises(
            Invalid, match=r"from\.step: .*before this generation's first step \(epoch 1, step 5\)"
        ):
            sharding.check_dealt("from", older)
