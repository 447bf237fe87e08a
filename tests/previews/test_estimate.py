"""Previews have the numbers of the plan itself, from the distinct sizes alone."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets.assignment import assign
from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.distinct_sizes import distinct_sizes
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.plan_stats import epoch_stats
from bucketline_service.previews import estimate as previews
from bucketline_service.previews.estimate import estimate_by_planning, estimate_from_sizes
from bucketline_service.spec.run_spec import PlanFields
from tests.planning.lines import line

LADDERS = [
    {"kind": "novelai"},
    {"kind": "kohya", "bucket_reso_steps": 128},
    {"kind": "kohya", "bucket_reso_steps": 256, "bucket_no_upscale": True},
    {"kind": "geometric", "num_ar_buckets": 5},
    {"kind": "preset", "name": "sdxl"},
    {"kind": "fitted", "num_buckets": 4},
    {"kind": "explicit", "sizes": [[512, 768], [512, 512], [768, 512]]},
    {"kind": "explicit", "sizes": [[512, 768], [256, 384], [512, 512], [256, 256], [768, 768]]},
]
PLANS = [
    *({"tails": tails} for tails in ("shift", "short", "spill", "catch_all")),
    *({"steps": "same_shape", "tails": tails} for tails in ("shift", "spill", "pad", "drop")),
]
DEALS = [
    {"world_size": 4},
    {"world_size": 3, "lockstep": 5},
    {"world_size": 8, "lockstep": 2, "batch_size": 3},
]
LIMITS = [{}, {"max_ar_error": 0.3, "max_crop_loss": 0.15, "min_size": 300}]


def images(num=1500, seed=5):
    rng = np.random.default_rng(seed)
    sides = rng.choice(np.arange(200, 900, 20, dtype=np.uint32), size=(2, num))
    return Part(sides[0], sides[1])


def planned(spec, *parts, **prepared):
    """What a run of this plan says of itself."""
    plan = spec.plan_spec(spec.fit(parts))
    of = Images(parts)
    prepared = prepare(plan, of, **prepared)
    planner = new_planner(plan, prepared, of, np.arange(of.num_rows))
    return epoch_stats(plan, prepared, of, planner, 0, spec.world_size)


def close(stats):
    """All floats to 12 digits, all else as it is."""
    if isinstance(stats, dict):
        return {name: close(value) for name, value in stats.items()}
    if isinstance(stats, list):
        return [close(value) for value in stats]
    return pytest.approx(stats, rel=1e-12, abs=1e-15) if isinstance(stats, float) else stats


def crossed():
    """Every ladder with every way to plan, deal and limit. `make test` takes each ladder and each way with both limits,
    and with two of the others."""
    found = []
    for kind, plan, deal, limits in itertools.product(
        *map(range, (len(LADDERS), len(PLANS), len(DEALS), len(LIMITS)))
    ):
        is_typical = (kind + plan) % 4 == 0 and (deal, limits) == (
            (kind + plan) % 3,
            (kind // 4 + plan // 4) % 2,
        )
        values = LADDERS[kind], PLANS[plan], DEALS[deal], LIMITS[limits]
        found.append(pytest.param(*values, marks=[] if is_typical else pytest.mark.exhaustive))
    return found


@pytest.mark.parametrize(("ladder", "plan", "deal", "limits"), crossed())
def test_a_preview_has_the_plans_numbers(ladder, plan, deal, limits):
    part = images()
    fields = {"batch_size": 4, "ladder": ladder, "assign": limits, **plan, **deal}
    spec = PlanFields.model_validate(fields).resolved()
    sizes = distinct_sizes(part)
    assert len(sizes.widths) < len(part.widths)
    found = estimate_from_sizes(spec.plan_spec(spec.fit([sizes])), Images([sizes]), spec.world_size)
    expected = planned(spec, part)
    assert found == close(expected)
    for spread in ("crop_loss", "aspect_error"):
        for exact in ("median", "p95", "max"):
            assert found[spread][exact] == expected[spread][exact]


def test_a_preview_of_valid_rows():
    part = images()
    spec = PlanFields(world_size=2, batch_size=4).resolved()
    rows = np.arange(0, 1500, 3)
    found = estimate_from_sizes(spec.plan_spec(), Images([distinct_sizes(part, rows)]), 2, 1000)
    assert found == close(planned(spec, part, valid_rows=rows))
    assert (found["num_images"], found["num_assigned"], found["pruned"]["valid_ids"]) == (1500, 500, 1000)


def test_novelai_is_previewed_by_planning_it(monkeypatch):
    part = images()
    spec = PlanFields(world_size=3, batch_size=4, planner="novelai").resolved()
    ids = np.arange(1500)
    assert estimate_by_planning(spec.plan_spec(), Images([part]), ids, 3) == planned(spec, part)
    monkeypatch.setattr(previews, "MAX_PLANNED_IMAGES", 1499)
    with pytest.raises(Invalid, match="1499") as caught:
        estimate_by_planning(spec.plan_spec(), Images([part]), ids, 3)
    assert caught.value.field == "planner"
    rows = np.arange(1499)
    assert estimate_by_planning(spec.plan_spec(), Images([part]), ids, 3, rows)["num_images"] == 1500


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=60), st.integers(0, 30))
def test_distinct_sizes_are_the_images(pairs, max_distinct):
    widths, heights = (
        np.array(side, dtype=np.uint32) for side in (zip(*pairs, strict=True) if pairs else ([], []))
    )
    sizes = distinct_sizes(Part(widths, heights), max_distinct=max_distinct)
    assert Images([sizes]).num_images == len(pairs)
    if sizes.counts is None:
        assert len(set(pairs)) > max_distinct
    counts = [1] * len(sizes.widths) if sizes.counts is None else sizes.counts.tolist()
    again = zip(sizes.widths.tolist(), sizes.heights.tolist(), counts, strict=True)
    assert sorted(size for *size, num in again for _ in range(num)) == sorted(map(list, pairs))


def test_distinct_sizes_are_merged_chunk_by_chunk(monkeypatch):
    part = images(20_000)
    whole = distinct_sizes(part)
    monkeypatch.setattr("bucketline_service.planning.chunked_passes.CHUNK", 100)
    chunks = distinct_sizes(part)
    some = distinct_sizes(part, np.arange(0, 20_000, 2))
    for column in ("widths", "heights", "counts"):
        assert (getattr(whole, column) == getattr(chunks, column)).all()
    assert Images([some]).num_images == 10_000
    # sides past the table's are counted as well as those within
    widths, heights = part.widths, part.heights
    widths[::7] += np.uint32(4_000)
    heights[::11] += np.uint32(4_000)
    sizes = distinct_sizes(part)
    counted = dict(
        zip(zip(sizes.widths.tolist(), sizes.heights.tolist(), strict=True), sizes.counts, strict=True)
    )
    assert counted == Counter(zip(widths.tolist(), heights.tolist(), strict=True))
    assert len(counted) == len(sizes.counts)
    assert distinct_sizes(part, max_distinct=10).counts is None


def test_as_many_sizes_as_images_is_no_other_answer():
    part = images()
    spec = PlanFields(world_size=4, batch_size=4).resolved().plan_spec()
    plain = estimate_from_sizes(spec, Images([part]), 4)
    assert plain == close(estimate_from_sizes(spec, Images([distinct_sizes(part)]), 4))


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(sum),
    st.integers(1, 7),
    st.integers(1, 5),
    st.sampled_from(["spill", "pad", "drop", "catch_all"]),
    st.booleans(),
    st.integers(0, 100),
)
def test_images_that_come_late_only(counts, batch_size, lockstep, policy, is_balanced, late):
    it = line(counts, batch_size, lockstep, policy, seed=3, multiple=1 if is_balanced else None)
    position = max(0, it.num_batches - late)
    rows = [
        it.planner.batches(1, np.arange(*part), 1).rows
        for part in ((0, position), (position, it.num_batches))
    ]
    assert it.planner.num_only_after(1, position) == len(set(rows[1].tolist()) - set(rows[0].tolist()))


@pytest.mark.parametrize(
    ("lockstep", "world_size"),
    [
        *((2, 3), (3, 1)),
        *(pytest.param(*each, marks=pytest.mark.exhaustive) for each in ((1, 3), (4, 6), (5, 2), (7, 7))),
    ],
)
@pytest.mark.parametrize("multiple", [1, None])
def test_step_imbalance_is_that_of_the_epoch(lockstep, world_size, multiple):
    pixels = np.array([5.0, 1.0, 9.0, 9.0])
    it = line([40, 33, 22, 60], 2, lockstep, "drop", multiple=multiple, costs=pixels)
    for epoch in range(5):
        num = it.num_batches // world_size * world_size
        of = pixels[it.planner.batches(epoch, np.arange(num), 1).buckets].reshape(-1, world_size)
        told = it.planner.stream(epoch).imbalance(pixels, world_size)
        assert told == pytest.approx(of.max(axis=1).sum() / of.mean(axis=1).sum(), abs=1e-12)


def elsewhere(plan, part, num_epochs):
    """Of each epoch on 3 ranks, the rows that it serves in another bucket than the nearest."""
    of = Images([part])
    planner = new_planner(plan, prepare(plan, of), of)
    buckets = assign(part.widths, part.heights, plan.ladder).buckets
    for epoch in range(num_epochs):
        num = planner.num_batches(epoch, 3) // 3 * 3
        block = planner.batches(epoch, np.arange(num), 3)
        yield block.rows[buckets[block.rows] != np.repeat(block.buckets, np.diff(block.bounds))]


@pytest.mark.parametrize("steps", ["balanced", "same_shape"])
def test_spilled_is_what_epochs_have_on_average(steps):
    part = images(997)
    fields = {"world_size": 3, "batch_size": 4, "lockstep": 7, "steps": steps, "tails": "spill"}
    plan = PlanFields.model_validate(fields).resolved().plan_spec()
    found = [len(rows) for rows in elsewhere(plan, part, 200)]
    stats = estimate_from_sizes(plan, Images([distinct_sizes(part)]), 3)
    told = stats["spilled"]
    assert abs(told - np.mean(found)) <= 0.5 + 4 * np.std(found) / np.sqrt(200)
    assert (told > 0, stats["moved"]) == (True, 0)


def test_moved_are_all_that_any_epoch_has_elsewhere():
    part = images(997)
    plan = PlanFields(world_size=3, batch_size=4).resolved().plan_spec()
    found = set(np.concatenate(list(elsewhere(plan, part, 20))).tolist())
    stats = estimate_from_sizes(plan, Images([distinct_sizes(part)]), 3)
    assert (stats["spilled"], stats["moved"]) == (0, len(found))
    assert found


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"world_size": 4000, "batch_size": 1, "lockstep": 1}, "world_size"),
        ({"world_size": 4, "batch_size": 500}, "batch_size"),
        ({"world_size": 1, "batch_size": 1, "assign": {"min_size": 5000}}, "assign"),
    ],
)
def test_what_can_not_be_planned_has_no_preview(fields, field):
    part = images()
    spec = PlanFields.model_validate(fields).resolved()
    with pytest.raises(Invalid) as caught:
        estimate_from_sizes(spec.plan_spec(), Images([distinct_sizes(part)]), spec.world_size)
    assert caught.value.field == field
