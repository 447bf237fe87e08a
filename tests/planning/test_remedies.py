"""A refusal names a field that the user gave, and the remedy that it suggests works."""

from __future__ import annotations

import re

import numpy as np
import pytest

from bucketline_service.errors import Invalid
from bucketline_service.planning.build_plan import prepare
from bucketline_service.planning.images import Images
from bucketline_service.spec.run_spec import RunSpec

SPEC = {"map": "a", "world_size": 4, "batch_size": 8}
SIXTEEN = list(range(256, 256 + 16 * 64, 64))


def squares(num):
    return Images.of(np.full(num, 600, np.uint32), np.full(num, 600, np.uint32))


def kohya(**fields):
    return {"ladder": {"kind": "kohya", **fields}}


def tiers(*sides, **fields):
    return {"ladder": {"kind": "tiers", "resolution": list(sides), **fields}}


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"planner": "novelai", "repeats": 1}, "repeats", "does not support 1. Leave it out, or use 0;"),
        (
            {"planner": "novelai", "num_repeats": 2},
            "num_repeats",
            "does not support 2. Leave it out, or use 1;",
        ),
        (
            kohya(resolution=1024, min_bucket_reso=2000, max_bucket_reso=1000),
            "ladder.min_bucket_reso",
            "1000",
        ),
        (kohya(bucket_no_upscale=True, max_bucket_reso=2048), "ladder.max_bucket_reso", "Leave it out"),
        (tiers(5), "ladder.resolution", "5 is out of range"),
        (tiers(60_000), "ladder.resolution", "from 64 to 32768"),
        (
            {"ladder": {"kind": "tiers", "ladders": [{"kind": "kohya", "resolution": 5}]}},
            "ladder.ladders.0.resolution",
            "Use sides",
        ),
        (
            {"frame_buckets": [{"num_frames": 1, "keep_prob": [0.5, 0.5]}]},
            "frame_buckets.0.keep_prob",
            "each of 1 tier, ",
        ),
    ],
)
def test_the_field_is_one_that_was_given(fields, field, words):
    with pytest.raises(Invalid, match=words) as caught:
        RunSpec.model_validate({**SPEC, **fields}).resolved().plan_spec()
    assert caught.value.field == field


def test_several_areas_are_tiers():
    with pytest.raises(ValueError, match='use "kind": "tiers"'):
        RunSpec.model_validate({**SPEC, **kohya(resolution=[512, 768, 1024])})


def test_so_many_tiers_as_can_be_told_apart_are_taken():
    images = squares(2000)
    with pytest.raises(Invalid, match="Use at most") as caught:
        prepare(
            RunSpec.model_validate({**SPEC, **tiers(*SIXTEEN, bucket_reso_steps=32)}).resolved().plan_spec(),
            images,
        )
    num = int(re.search(r"at most (\d+) tiers", str(caught.value))[1])
    for sides in (SIXTEEN[:num], SIXTEEN[-num:]):
        fewer = RunSpec.model_validate({**SPEC, **tiers(*sides, bucket_reso_steps=32)})
        prepare(fewer.resolved().plan_spec(), images)


@pytest.mark.parametrize("budget", ["max_pixels_per_batch", "max_tokens_per_batch"])
def test_a_budget_that_is_too_large_is_told_in_its_own_numbers(budget):
    given = {"map": "a", "world_size": 4, budget: 10**9}
    images = squares(100)
    with pytest.raises(Invalid, match="It may be at most") as caught:
        prepare(RunSpec.model_validate(given).resolved().plan_spec(), images)
    assert caught.value.field == budget
    most = int(re.search(r"at most ([\d,]+)", str(caught.value))[1].replace(",", ""))
    prepare(RunSpec.model_validate({**given, budget: most}).resolved().plan_spec(), images)
    with pytest.raises(Invalid):
        prepare(RunSpec.model_validate({**given, budget: most + 1}).resolved().plan_spec(), images)
