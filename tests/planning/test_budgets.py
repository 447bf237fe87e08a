"""Batch sizes from a budget of pixels or tokens: as many images as fit, and refused where that is too few."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from bucketline_service.errors import Invalid
from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.plan_stats import epoch_stats
from bucketline_service.spec.batch_sizes import MAX_BATCH_SIZE
from bucketline_service.spec.run_spec import PlanFields
from tests.planning.lines import left_out

SIZES = [[512, 512], [256, 1000], [1024, 768], [100, 300], [2048, 64]]


def resolved(**fields):
    return PlanFields.model_validate({"world_size": 2, **fields}).resolved()


def sizes_of(**fields):
    plan = resolved(ladder={"kind": "explicit", "sizes": SIZES}, **fields).plan_spec()
    return {
        (*size, int(frames)): int(num)
        for size, frames, num in zip(plan.targets, plan.target_frames, plan.batch_sizes, strict=True)
    }


def by_trying(limit, cost, least, most, multiple):
    """The largest batch size that is allowed and fits; None if none does."""
    sizes = [
        size
        for size in range(multiple, min(most, 5000) + 1, multiple)
        if size >= least and size * cost <= limit
    ]
    return max(sizes, default=None)


budgets = st.tuples(
    st.integers(2**18, 2**23),
    st.integers(1, 12),
    st.one_of(st.just(MAX_BATCH_SIZE), st.integers(1, 40)),
    st.integers(1, 9),
)


@given(budgets, st.sampled_from([None, [1], [1, 5, 17]]))
@example((10**6, 5, 7, 4), None)
@example((10**6, 1, 5, 8), None)
def test_as_many_pixels_as_fit(budget, frame_buckets):
    limit, least, most, multiple = budget
    fields = {
        "max_pixels_per_batch": limit,
        "min_batch_size": least,
        "max_batch_size": most,
        "batch_size_multiple": multiple,
    }
    shapes = [(*size, frames) for size in SIZES for frames in frame_buckets or [1]]
    expected = {
        shape: by_trying(limit, shape[0] * shape[1] * shape[2], least, most, multiple) for shape in shapes
    }
    if None in expected.values():
        with pytest.raises(Invalid) as caught:
            sizes_of(frame_buckets=frame_buckets, **fields)
        possible = least <= most and by_trying(10**6, 1, least, most, multiple)
        impossible = "min_batch_size" if least > most else "batch_size_multiple"
        assert caught.value.field == ("max_pixels_per_batch" if possible else impossible)
        if possible:
            # what it says would do does, and nothing less
            enough = int(re.search(r"Use at least ([\d,]+)", str(caught.value)).group(1).replace(",", ""))
            sizes_of(frame_buckets=frame_buckets, **{**fields, "max_pixels_per_batch": enough})
            with pytest.raises(Invalid, match="is too small for"):
                sizes_of(frame_buckets=frame_buckets, **{**fields, "max_pixels_per_batch": enough - 1})
    else:
        assert sizes_of(frame_buckets=frame_buckets, **fields) == expected


@given(st.integers(2**14, 2**20), st.integers(1, 40), st.integers(1, 9), st.sampled_from([None, [1, 5, 17]]))
def test_as_many_tokens_as_fit(limit, stride, frame_stride, frame_buckets):
    """Sides and frames that are no whole number of tokens are rounded up."""
    fields = {"max_tokens_per_batch": limit, "latent_stride": stride, "latent_frame_stride": frame_stride}
    found = {}
    for width, height in SIZES:
        for frames in frame_buckets or [1]:
            tokens = (
                len(range(0, width, stride))
                * len(range(0, height, stride))
                * len(range(0, frames, frame_stride))
            )
            found[width, height, frames] = min(limit // tokens, MAX_BATCH_SIZE)
    assume(all(found.values()))
    assert sizes_of(frame_buckets=frame_buckets, **fields) == found


def test_a_token_is_16_pixels_wide_and_a_frame_long_unless_said():
    fields = {"max_tokens_per_batch": 100_000, "frame_buckets": [1, 5]}
    assert sizes_of(**fields) == sizes_of(latent_stride=16, latent_frame_stride=1, **fields)
    assert sizes_of(**fields) != sizes_of(latent_stride=8, **fields)
    assert sizes_of(**fields) != sizes_of(latent_frame_stride=4, **fields)


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({}, "batch_size", "is missing"),
        (
            {"batch_size": 2, "max_pixels_per_batch": 10**7},
            "batch_size",
            "batch_size and max_pixels_per_batch",
        ),
        (
            {"max_tokens_per_batch": 1, "max_pixels_per_batch": 1},
            "batch_size",
            "must be given alone, got",
        ),
        ({"max_pixels_per_batch": 10**7, "latent_stride": 8}, "latent_stride", "max_tokens_per_batch"),
        ({"batch_size": 2, "latent_frame_stride": 8}, "latent_frame_stride", "max_tokens_per_batch"),
        ({"max_cost_per_batch": 10**7, "latent_stride": 8}, "latent_stride", "max_tokens_per_batch"),
        ({"max_cost_per_batch": 10.0, "max_tokens_per_batch": 10}, "batch_size", "must be given alone"),
        (
            {"batch_size": 2, "min_batch_size": 1},
            "min_batch_size",
            "max_pixels_per_batch or max_tokens_per_batch or max_cost_per_batch",
        ),
        ({"batch_size": 2, "max_batch_size": 1}, "max_batch_size", "is not supported with batch_size"),
        (
            {"batch_size": 2, "batch_size_multiple": 1},
            "batch_size_multiple",
            "is not supported with batch_size",
        ),
        (
            {"max_pixels_per_batch": 10**7, "min_batch_size": 9, "max_batch_size": 8},
            "min_batch_size",
            "at most max_batch_size 8, got 9",
        ),
        (
            {"max_pixels_per_batch": 10**7, "batch_size_multiple": 9, "max_batch_size": 8},
            "batch_size_multiple",
            "must have a multiple",
        ),
        ({"max_tokens_per_batch": 10}, "max_tokens_per_batch", "256 x 1024|384 x 1024"),
        ({"max_pixels_per_batch": 10**7, "planner": "novelai"}, "max_pixels_per_batch", "novelai"),
        ({"max_cost_per_batch": 10**7, "planner": "novelai"}, "max_cost_per_batch", "novelai"),
        (
            {"batch_size": 2, "planner": "novelai", "cost": {"kind": "transformer", "hidden_size": 64}},
            "cost.kind",
            "novelai does not support 'transformer'. Leave it out, or use 'pixels'",
        ),
        ({"batch_size": 1, "lockstep": 2, "gradient_accumulation_steps": 2}, "lockstep", "gradient_acc"),
        (
            {"batch_size": 1, "steps": "same_shape", "gradient_accumulation_steps": 2**20},
            "gradient_accumulation_steps",
            "at most 1048576",
        ),
        (
            {"batch_size": 65_536, "frame_buckets": [2**31 - 1]},
            "frame_buckets",
            "more pixels than can be counted",
        ),
        (
            {
                "max_pixels_per_batch": 2**52,
                "frame_buckets": [2**31 - 1],
                "ladder": {"kind": "explicit", "sizes": [[65_536, 65_536]]},
            },
            "frame_buckets",
            "65536 x 65536 x 2147483647",
        ),
    ],
)
def test_wrong_sizes_are_refused(fields, field, words):
    with pytest.raises(Invalid, match=words) as caught:
        resolved(**fields).plan_spec()
    assert caught.value.field == field


@pytest.mark.parametrize("wrong", [0, -1, True, "100000", 1e6, 1.5, 10**30])
@pytest.mark.parametrize("field", ["max_pixels_per_batch", "max_tokens_per_batch"])
def test_a_budget_is_an_integer_that_can_be_counted(field, wrong):
    with pytest.raises(ValidationError, match=field):
        resolved(**{field: wrong})


@pytest.mark.parametrize("wrong", [0, -1, True, "100000", float("nan"), float("inf"), 2**53, 10**30, 10**400])
def test_a_budget_of_cost_is_a_number_that_can_be_counted(wrong):
    with pytest.raises(ValidationError, match="max_cost_per_batch"):
        resolved(max_cost_per_batch=wrong)


@pytest.mark.parametrize("wrong", [0, -1, True, "2", 10_001, float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["num_repeats", "repeats"])
def test_repeats_are_numbers(field, wrong):
    if (field, wrong) == ("repeats", 0):
        assert resolved(batch_size=1, repeats=0).num_repeats == 1.0
        return
    with pytest.raises(ValidationError, match=field):
        resolved(**{"batch_size": 1, field: wrong})


def test_accumulation_is_lockstep():
    spec = resolved(batch_size=1, steps="same_shape", gradient_accumulation_steps=3)
    assert (spec.lockstep, spec.gradient_accumulation_steps) == (6, None)
    assert spec == resolved(batch_size=1, steps="same_shape", lockstep=6)
    # gradients of other shapes add up as well
    assert resolved(batch_size=1, gradient_accumulation_steps=3) == resolved(batch_size=1)
    assert resolved(batch_size=1, repeats=0.5) == resolved(batch_size=1, num_repeats=1.5)


SPECS = [
    {"batch_size": 3, "repeats": 1},
    {"max_pixels_per_batch": 2**22, "batch_size_multiple": 2},
    {"max_tokens_per_batch": 2**14, "frame_buckets": [1, {"num_frames": 9, "keep_prob": 0.5}]},
    {"batch_size": 3, "gradient_accumulation_steps": 2, "first": "largest"},
    {"batch_size": 3, "planner": "novelai"},
    {"max_cost_per_batch": 2e7, "max_batch_size": 9, "cost": {"kind": "transformer", "hidden_size": 8}},
    {
        "batch_size": 3,
        "cost": {
            "kind": "measured",
            "seconds": [{"width": 8, "height": 9, "batch_size": 2, "seconds": 0.5}],
        },
    },
]


@pytest.mark.parametrize("fields", SPECS)
def test_a_spec_with_its_defaults_written_out_is_the_same(fields):
    """So that what a run tells of itself can be put again."""
    spec = resolved(**fields)
    assert PlanFields.model_validate(spec.to_json()).resolved() == spec


@pytest.mark.parametrize("tails", ["spill", "pad", "drop", "catch_all"])
@pytest.mark.parametrize("fields", [{}, {"num_repeats": 1.7}, {"lockstep": 5}, {"first": "largest"}])
@pytest.mark.parametrize("world_size", [2, 3])
def test_stats_add_up(tails, fields, world_size):
    """Against all batches that are dealt in each of some epochs."""
    rng = np.random.default_rng(1)
    sides = rng.integers(100, 1500, size=(2, 800)).astype(np.uint32)
    images = Images([Part(sides[0], sides[1])])
    spec = resolved(
        ladder={"kind": "explicit", "sizes": SIZES},
        max_pixels_per_batch=3 * 2**19,
        tails=tails,
        world_size=world_size,
        max_batch_size=8,
        **fields,
    )
    plan = spec.plan_spec()
    assert len(set(plan.batch_sizes.tolist())) > 2
    prepared = prepare(plan, images)
    planner = new_planner(plan, prepared, images)
    for epoch in range(3):
        told = epoch_stats(plan, prepared, images, planner, epoch, world_size)
        num = planner.num_batches(epoch, world_size)
        assert (told["num_batches"], told["num_steps"]) == (num, num // world_size)
        block = planner.batches(epoch, np.arange(num - num % world_size), world_size)
        assert np.diff(block.bounds).tolist() == plan.batch_sizes[block.buckets].tolist()
        # an image may come floor or ceil of its times: what it is dealt less often than asked for was dropped
        every = planner.batches(epoch, np.arange(num), world_size)
        asked = np.append(every.rows[~every.repeats], left_out(planner, epoch))
        assert told["num_samples"] == len(asked)
        dealt, asked = np.bincount(block.rows, minlength=800), np.bincount(asked, minlength=800)
        if tails != "pad" or not fields.get("num_repeats"):
            assert told["dropped"] == np.maximum(asked - dealt, 0).sum()
        assert len(block.rows) == told["num_samples"] - told["dropped"] + told["repeated"]
        assert [bucket["num_batches"] for bucket in told["buckets"]] == np.bincount(
            every.buckets, minlength=len(plan.targets)
        ).tolist()
        assert [bucket["batch_size"] for bucket in told["buckets"]] == plan.batch_sizes.tolist()
        pixels = {plan.targets[target]: int(plan.pixels[target]) for target in np.unique(every.buckets)}
        largest = told["largest_shape"]["width"], told["largest_shape"]["height"]
        assert pixels[largest] == max(pixels.values())
        assert told["num_shapes"] == len(pixels)


def test_a_budget_that_is_too_small_says_how_many_images_a_batch_must_have():
    """The least batch size, rounded up to its multiple."""
    ladder = {"kind": "explicit", "sizes": [[1024, 1024]]}
    fields = {"world_size": 1, "ladder": ladder, "max_pixels_per_batch": 2**19}
    for least, multiple_of, images in (
        (1, 1, "1 image that"),
        (1, 3, "3 images that"),
        (4, 3, "6 images that"),
    ):
        sizes = {"min_batch_size": least, "max_batch_size": 60, "batch_size_multiple": multiple_of}
        with pytest.raises(Invalid, match=f"too small for the {images} a batch must have"):
            _ = PlanFields(**fields, **sizes).resolved().plan_spec().batch_sizes
