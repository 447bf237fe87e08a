"""The borders of warnings that no small map meets exactly, on the stats of a real plan with one number changed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.unreached_sizes import occupied, unreached_sizes
from bucketline_service.previews.estimate import estimate_from_sizes
from bucketline_service.spec.advice import CODES, PlanWarning, not_at_start, plan_warnings
from bucketline_service.spec.run_spec import RunSpec

SPEC = {"map": "a", "world_size": 2, "batch_size": 5, "ladder": {"kind": "explicit", "sizes": [[512, 512]]}}


def resolved(**fields: Any) -> RunSpec:
    return RunSpec.model_validate({**SPEC, **fields}).resolved()


@pytest.fixture(scope="module")
def stats() -> dict[str, Any]:
    images = Images.of(np.full(100, 512, np.uint32), np.full(100, 512, np.uint32))
    return estimate_from_sizes(resolved(tails="spill").plan_spec(), images, 2)


def found(stats: dict[str, Any], spec: RunSpec | None = None, **changed: Any) -> dict[str, PlanWarning]:
    spec = spec or resolved(tails="spill")
    return {each.code: each for each in plan_warnings(spec, {**stats, **changed}, [], 2)}


def test_the_plan_itself_has_none(stats: dict[str, Any]) -> None:
    assert found(stats) == {}


@pytest.mark.parametrize(
    ("field", "border", "above", "code"),
    [
        ("never_served", 0, 1, "never_served"),
        ("dropped", 5, 6, "left_out"),
        ("repeated", 5, 6, "repeated"),
        ("crop_loss_served", 0.01, math.nextafter(0.01, 1), "crop"),
        ("step_imbalance", 1.05, math.nextafter(1.05, 2), "imbalance"),
    ],
)
def test_a_warning_begins_above_its_border(
    stats: dict[str, Any], field: str, border: float, above: float, code: str
) -> None:
    assert found(stats, **{field: border}) == {}
    assert list(found(stats, **{field: above})) == [code]


@pytest.mark.parametrize(
    ("reason", "num", "warns"),
    [("min_size", 5, False), ("min_size", 6, True), ("valid_ids", 99, False)],
)
def test_images_that_are_pruned(stats: dict[str, Any], reason: str, num: int, warns: bool) -> None:
    spec = resolved(tails="spill", assign={"min_size": 9})
    assert ("pruned" in found(stats, spec, pruned={reason: num})) == warns


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_repeats": 1.5}, "Use num_repeats 2, a whole number; or tails"),
        ({"ladder": {"kind": "kohya", "bucket_no_upscale": True}}, "Use a ladder without bucket_no_upscale"),
        ({"frame_buckets": [{"num_frames": 1, "keep_prob": 0.5}]}, "Use keep_prob 1; or tails"),
        ({"frame_buckets": [1]}, "Use whole num_repeats in spec and map, and no weight; or tails"),
    ],
)
def test_tails_that_the_plan_could_not_have(stats: dict[str, Any], fields: Any, words: str) -> None:
    """It has others, which are asked of it as its remedy says."""
    spec = resolved(tails="drop", **fields)
    told = found(stats, spec)["shift_not_possible"]
    assert told.message.startswith('tails "drop" is not possible')
    assert told.message.endswith('the plan has tails "spill".')
    assert words in told.remedy
    assert 'tails "spill"' in told.remedy
    assert "shift_not_possible" not in found(stats, resolved(tails="spill", **fields))


def test_every_code_has_a_rule(stats: dict[str, Any]) -> None:
    bad: dict[str, Any] = {"pruned": {"min_size": 50}, "never_served": 9, "dropped": 50, "repeated": 50}
    bad |= {"crop_loss_served": 0.5, "step_imbalance": 2.0, "tails": "pad"}
    spec = resolved(tails="spill", assign={"min_size": 9})
    codes = [each.code for each in plan_warnings(spec, {**stats, **bad}, [0], 2)]
    assert [*codes, not_at_start(0, 1).code] == list(CODES)


LADDERS = [
    "novelai",
    "sd15",
    {"kind": "explicit", "sizes": [[512, 512], [768, 512], [1024, 1024]]},
    {"kind": "tiers", "resolution": [256, 512]},
    {"kind": "tiers", "resolution": [256, 512], "choose": "every"},
]


@settings(deadline=None)
@given(
    ladder=st.sampled_from(LADDERS),
    tails=st.sampled_from(["spill", "pad", "drop", "catch_all"]),
    lengths=st.sampled_from([None, [1], [1, 9], [{"num_frames": 9, "keep_prob": 0.5}]]),
    limits=st.sampled_from([{}, {"min_size": 300}, {"max_crop_loss": 0.2}, {"max_ar_error": 0.3}]),
    sizes=st.sampled_from([{"batch_size": 1}, {"batch_size": 3}, {"max_pixels_per_batch": 2**21}]),
    ranks=st.tuples(st.integers(1, 4), st.sampled_from([None, 1, 3])),
    repeats=st.sampled_from([1.0, 2.0, 0.7]),
    rows=st.lists(st.tuples(st.integers(200, 1500), st.integers(200, 1500), st.integers(1, 20)), max_size=40),
)
def test_any_plan_has_those_that_its_numbers_say(
    ladder: Any, tails: str, lengths: Any, limits: Any, sizes: Any, ranks: Any, repeats: float, rows: Any
) -> None:
    world_size, lockstep = ranks
    fields = {"map": "a", "world_size": world_size, "ladder": ladder, "tails": tails, "num_repeats": repeats}
    widths, heights, frames = np.array([*rows, (600, 600, 1), (600, 600, 9)], np.uint32).T
    images = Images([Part(widths, heights, num_frames=frames if lengths else None)])
    try:
        spec = RunSpec.model_validate(
            {**fields, **sizes, "lockstep": lockstep, "frame_buckets": lengths, "assign": limits}
        ).resolved()
        plan = spec.plan_spec()
        stats = estimate_from_sizes(plan, images, world_size)
    except Invalid:
        return
    unreached = unreached_sizes(plan, images, occupied(stats))
    told = plan_warnings(spec, stats, unreached, world_size)
    codes = {each.code for each in told}
    assert [each.code for each in told] == sorted(codes, key=CODES.index)
    texts = [text for each in told for text in (each.message, each.remedy)]
    assert all((text[0].isupper() or text[0].isdigit()) and text.endswith(".") for text in texts)
    num_pruned, num_samples = sum(stats["pruned"].values()), stats["num_samples"]
    expected = {
        "pruned": 20 * num_pruned > len(widths),
        "never_served": stats["never_served"] > 0,
        "left_out": 20 * stats["dropped"] > num_samples,
        "repeated": 20 * stats["repeated"] > num_samples,
        "crop": stats["crop_loss_served"] - stats["crop_loss"]["mean"] > 0.01,
        "imbalance": stats["step_imbalance"] > 1.05,
        "shift_not_possible": False,
    }
    assert {code: code in codes for code in expected} == expected
