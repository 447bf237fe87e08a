from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.planning.lines import balanced_lines, epochs, line, lines

any_lines = st.one_of(lines(), balanced_lines())

LINE = line([30, 0, 113, 64, 5], 4, 2)


@given(lines(), epochs)
@example(line([1], 1), 0)
def test_every_unit_is_of_one_bucket_and_every_batch_of_its_size(it, epoch):
    block = it.epoch(epoch)
    assert it.num_batches == it.layout.num_batches.sum() == len(block.buckets)
    units = block.buckets.reshape(-1, it.lockstep)
    assert np.all(units == units[:, :1])
    assert (
        np.bincount(block.buckets, minlength=len(it.batch_sizes)).tolist() == it.layout.num_batches.tolist()
    )
    assert np.array_equal(np.diff(block.bounds), it.batch_sizes[block.buckets])
    assert block.bounds[0] == 0
    assert block.bounds[-1] == len(block.rows) == len(block.repeats)


@given(any_lines, epochs, st.data())
def test_batches_at_any_positions_are_those_of_the_sequence(it, epoch, data):
    assume(it.num_batches)
    whole = it.epoch(epoch)
    positions = data.draw(st.lists(st.integers(0, it.num_batches - 1), max_size=12))
    block = it.planner.batches(epoch, np.array(positions, dtype=np.int64), 3)
    assert block.buckets.tolist() == whole.buckets[positions].tolist()
    for i, position in enumerate(positions):
        here = slice(*block.bounds[i : i + 2])
        there = slice(*whole.bounds[position : position + 2])
        assert block.rows[here].tolist() == whole.rows[there].tolist()
        assert block.repeats[here].tolist() == whole.repeats[there].tolist()


@given(any_lines, epochs)
@example(line([9, 4, 2], 2, 2, "pad", num_pruned=3), 5)
@example(line([3, 4, 0, 50, 2, 3], 2, 2), 0)
@example(line([3, 4, 0, 50, 2, 3], 2, 3, "drop", multiple=1, fills=True), 0)
def test_locate_agrees_with_the_batches_for_every_row(it, epoch):
    for row, expected in it.places(epoch).items():
        assert it.planner.locate(epoch, row, 1) == expected


@given(any_lines, epochs)
def test_positions_out_of_range_raise(it, epoch):
    for wrong in ([-1], [it.num_batches], [0, it.num_batches], [2**40]):
        with pytest.raises(IndexError, match=f"{it.num_batches}"):
            it.planner.batches(epoch, np.array(wrong), 1)


@given(any_lines, epochs)
def test_no_positions_are_no_batches(it, epoch):
    block = it.planner.batches(epoch, np.array([], dtype=np.int64), 1)
    assert (len(block.buckets), block.bounds.tolist(), len(block.rows), len(block.repeats)) == (0, [0], 0, 0)


@given(lines(), st.integers(0, 40), st.integers(1, 9))
@example(line([60], 1, 4), 1, 6)
@example(line([60], 1, 3), 2, 9)
def test_mixed_steps_are_those_that_span_units(it, offset, world_size):
    num_steps = max(it.num_batches - offset, 0) // world_size
    units = [
        [(offset + s * world_size + r) // it.lockstep for r in range(world_size)] for s in range(num_steps)
    ]
    assert it.planner.mixed_steps(0, offset, world_size) == sum(len(set(step)) > 1 for step in units)


def test_mixed_steps_of_a_long_epoch_are_counted_without_walking_it():
    it = line([3_000_000], 1, 7)
    num_steps = it.num_batches // 5
    begins = 5 * np.arange(num_steps) % 7
    assert it.planner.mixed_steps(0, 0, 5) == (begins + 5 > 7).sum()


def test_epochs_and_seeds_differ_in_order_and_in_what_they_leave_out():
    orders, left_out = set(), set()
    for seed in range(4):
        it = line([30, 0, 113, 64, 5], 4, 2, seed=seed)
        for epoch in range(10):
            block = it.epoch(epoch)
            orders.add(block.rows.tobytes())
            left_out.add(tuple(np.setdiff1d(np.arange(len(it.buckets)), block.rows).tolist()))
    assert len(orders) == 40
    assert len(left_out) == 40


def test_seed_and_epoch_do_not_change_places():
    one_two, two_one = line([64, 64], 4, 2, seed=1).epoch(2), line([64, 64], 4, 2, seed=2).epoch(1)
    assert one_two.rows.tolist() != two_one.rows.tolist()
    assert one_two.buckets.tolist() != two_one.buckets.tolist()


def test_answers_do_not_depend_on_what_was_asked_before():
    fresh = {epoch: line([30, 0, 113, 64, 5], 4, 2).epoch(epoch).rows.tolist() for epoch in range(7)}
    for epoch in [0, 6, 1, 5, 0, 2, 4, 3, 6, 0]:  # more than are kept
        assert LINE.epoch(epoch).rows.tolist() == fresh[epoch]


def test_threads_get_the_same_answers():
    it = line([700] * 40, 4, 2)
    expected = {epoch: line([700] * 40, 4, 2).epoch(epoch).rows for epoch in range(6)}
    asked = list(range(6)) * 8
    with ThreadPoolExecutor(8) as threads:
        for epoch, block in zip(asked, threads.map(it.epoch, asked), strict=True):
            assert np.array_equal(block.rows, expected[epoch])


@pytest.mark.parametrize("epoch", [0, 1, 999_999, 2**31 - 1])
def test_an_epoch_comes_with_no_other(epoch):
    assert np.unique(LINE.epoch(epoch).rows).size == it_serves(LINE)


def it_serves(it):
    return int(it.layout.served.sum())


# sha256 of a whole epoch, as int64 bytes: buckets, bounds, rows, repeats. They may change only with build.VERSION.
FROZEN = {
    ("spill", 0): "8f45d939fd0bc320",
    ("spill", 7): "a83f0fcff69a4214",
    ("pad", 0): "56d6978e09705e68",
    ("drop", 0): "5e687e28937bc339",
    ("catch_all", 0): "8a1b74cd7e001fcf",
}


@pytest.mark.parametrize(("policy", "epoch"), FROZEN)
def test_frozen_epochs(policy, epoch):
    # both sides of SMALL, a bucket below a unit, an empty one
    it = line([30, 0, 5000, 640, 5], 4, 3, policy, seed=42)
    block = it.epoch(epoch)
    digest = hashlib.sha256()
    for array in (block.buckets, block.bounds, block.rows, block.repeats):
        digest.update(array.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == FROZEN[policy, epoch]
