"""``first: "largest"``: epoch 0 begins with a unit of each distinct shape, the largest batch first."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.images import Images, Part
from bucketline_service.runs.sharding import Sharding
from bucketline_service.spec.run_spec import PlanFields
from bucketline_service.store.port import Cursor
from tests.planning.lines import line


@st.composite
def ordered(draw):
    """A line, and in which order its shapes come first: some have several targets, some are not told."""
    policy = draw(st.sampled_from(["spill", "pad", "drop", "catch_all"]))
    counts = draw(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any))
    targets = draw(st.permutations(range(len(counts) + (policy == "catch_all"))))
    shapes: list[list[int]] = []
    for target in targets:
        if shapes and draw(st.booleans()):
            shapes[-1].append(target)
        else:
            shapes.append([target])
    shapes = [sorted(shape) for shape in shapes]
    sizes = draw(st.integers(1, 4)), draw(st.integers(1, 3)), policy, draw(st.integers(0, 2**32 - 1))
    return line(counts, *sizes), line(counts, *sizes, largest_first=shapes), shapes


@given(ordered())
@example((line([2, 2]), line([2, 2], largest_first=[[1], [0]]), [[1], [0]]))
def test_epoch_0_begins_with_a_unit_of_each_shape(given):
    plain, it, shapes = given
    serving = [[target for target in shape if it.layout.num_batches[target]] for shape in shapes]
    expected = [shape[0] for shape in serving if shape]
    units = it.epoch(0).buckets.reshape(-1, it.lockstep)
    assert units[: len(expected), 0].tolist() == expected
    assert np.all(units == units[:, :1])
    # the same units in another order
    assert sorted(batches_of(it, 0)) == sorted(batches_of(plain, 0))
    # all others except those that made room are where they were
    moved = np.flatnonzero(units[:, 0] != plain.epoch(0).buckets.reshape(-1, it.lockstep)[:, 0])
    assert len(moved) <= 2 * len(expected)


def batches_of(it, epoch):
    return batches_in(it.epoch(epoch))


def batches_in(block):
    """(bucket, row, row, …) of each."""
    rows = [block.rows[begin:end].tolist() for begin, end in pairwise(block.bounds)]
    return [(bucket, *batch) for bucket, batch in zip(block.buckets.tolist(), rows, strict=True)]


@given(ordered())
def test_locate_agrees_with_the_batches_for_every_row(given):
    _, it, _ = given
    for row, expected in it.places(0).items():
        assert it.planner.locate(0, row, 1) == expected


@given(ordered(), st.integers(1, 2**31 - 1))
def test_all_other_epochs_are_as_they_were(given, epoch):
    plain, it, _ = given
    for row in range(0, len(it.buckets), 7):
        assert it.planner.locate(epoch, row, 1) == plain.planner.locate(epoch, row, 1)
    assert batches_of(it, epoch) == batches_of(plain, epoch)


@given(ordered(), st.data())
def test_batches_at_any_positions_are_those_of_the_sequence(given, data):
    _, it, _ = given
    num = it.num_batches
    positions = data.draw(st.lists(st.integers(0, num - 1), max_size=12)) if num else []
    found = it.planner.batches(0, np.array(positions, dtype=np.int64), 1)
    whole = batches_of(it, 0)
    assert batches_in(found) == [whole[position] for position in positions]


@pytest.mark.parametrize("late", [0, 1, 2, 7, 30])
def test_images_that_come_late_only_are_counted_with_those_that_moved(late):
    """The stats of ``pad`` ask for them."""
    it = line([30, 51, 9], 2, 2, "pad", largest_first=[[2], [0], [1]])
    position = it.num_batches - late
    rows = it.epoch(0).rows
    at = int(it.epoch(0).bounds[position])
    assert it.planner.num_served(0, position) == at
    assert it.planner.num_only_after(0, position) == len(set(rows[at:].tolist()) - set(rows[:at].tolist()))


def images(num=3000, seed=3):
    rng = np.random.default_rng(seed)
    sides = rng.integers(200, 2000, size=(2, num)).astype(np.uint32)
    frames = rng.choice(np.array([1, 1, 20, 40], dtype=np.uint32), num)
    return Part(sides[0], sides[1], num_frames=frames)


def planned(part=None, **fields):
    spec = PlanFields.model_validate(
        {"world_size": 4, "batch_size": 4, "first": "largest", "steps": "same_shape", **fields}
    ).resolved()
    plan, of = spec.plan_spec(), Images([part or images()])
    prepared = prepare(plan, of)
    return spec, plan, new_planner(plan, prepared, of)


TIERS = {"kind": "tiers", "resolution": [256, 512, 1024]}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tails": "pad"},
        {"ladder": TIERS},
        {"ladder": TIERS, "frame_buckets": [1, 17, 33], "tails": "pad"},
        {"ladder": TIERS, "max_pixels_per_batch": 2**22, "batch_size": None},
        {"tails": "catch_all"},
        {"gradient_accumulation_steps": 3},
        {"ladder": {"kind": "explicit", "sizes": [[512, 512], [512, 768], [768, 512]]}, "tails": "catch_all"},
    ],
)
def test_step_0_is_of_the_largest_shape_on_all_ranks(fields):
    spec, plan, planner = planned(**fields)
    sharding = Sharding(planner, 4, Cursor(0, 0), 0)
    num = planner.num_batches(0, 4)
    targets = planner.batches(0, np.arange(num), 4).buckets
    shape = [(*plan.targets[target], int(plan.target_frames[target])) for target in targets]
    pixels = [
        w * h * frames * int(plan.batch_sizes[target])
        for (w, h, frames), target in zip(shape, targets, strict=True)
    ]
    assert pixels[0] == max(pixels)
    steps = spec.lockstep // 4
    assert len({shape[position] for step in range(steps) for position in range(4 * step, 4 * step + 4)}) == 1
    assert sharding.step_of(0, spec.lockstep - 1) == (steps - 1, 3)
    # one unit of each distinct shape, and no shape again before all have come
    num_shapes = len(set(shape))
    begin = shape[: num_shapes * spec.lockstep : spec.lockstep]
    assert len(set(begin)) == num_shapes
    sizes = pixels[: num_shapes * spec.lockstep : spec.lockstep]
    assert sizes == sorted(sizes, reverse=True)


def test_without_it_an_epoch_begins_as_it_comes():
    _, plan, planner = planned(first=None, ladder=TIERS)
    num = planner.num_batches(0, 4)
    pixels = plan.pixels[planner.batches(0, np.arange(num), 4).buckets]
    assert pixels[0] < pixels.max()
