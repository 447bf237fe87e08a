"""The borders of warnings that no small map meets exactly, on the stats of a real plan with one number changed."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.unreached_sizes import occupied, unreached_sizes
from bucketline_service.previews.estimate import estimate_from_sizes
from bucketline_service.spec.advice import CODES, PlanWarning, not_at_start, plan_warnings
from bucketline_service.spec.run_spec import RunSpec
from tests.remedies import followed, ways

SPEC = {"map": "a", "world_size": 2, "batch_size": 5, "ladder": {"kind": "explicit", "sizes": [[512, 512]]}}


def resolved(**fields: Any) -> RunSpec:
    return RunSpec.model_validate({**SPEC, **fields}).resolved()


@pytest.fixture(scope="module")
def stats() -> dict[str, Any]:
    images = Images.of(np.full(100, 512, np.uint32), np.full(100, 512, np.uint32))
    return estimate_from_sizes(resolved(tails="spill").plan_spec(), images, 2)


def found(stats: dict[str, Any], spec: RunSpec | None = None, **changed: Any) -> dict[str, PlanWarning]:
    spec = spec or resolved(tails="spill")
    return {each.code: each for each in plan_warnings(spec, spec.plan_spec(), {**stats, **changed}, [], 2)}


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


def test_every_code_has_a_rule(stats: dict[str, Any]) -> None:
    bad: dict[str, Any] = {"pruned": {"min_size": 50}, "never_served": 9, "dropped": 50, "repeated": 50}
    bad |= {"crop_loss_served": 0.5, "step_imbalance": 2.0, "tails": "pad"}
    spec = resolved(tails="spill", assign={"min_size": 9})
    codes = [each.code for each in plan_warnings(spec, spec.plan_spec(), {**stats, **bad}, [0], 2)]
    assert [*codes, not_at_start(0, 1).code] == list(CODES)


LADDERS = [
    "novelai",
    "sd15",
    {"kind": "explicit", "sizes": [[512, 512], [768, 512], [1024, 1024]]},
    {"kind": "tiers", "resolution": [256, 512]},
    {"kind": "tiers", "resolution": [256, 512], "choose": "every"},
]


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of specs, not all of which can be planned."""
    steps = draw(st.sampled_from(["balanced", "same_shape"]))
    fields = {
        "map": "a",
        "steps": steps,
        "world_size": draw(st.integers(1, 4)),
        "lockstep": draw(st.sampled_from([None, None, 1, 3])),
        "ladder": draw(st.sampled_from(LADDERS)),
        "tails": draw(st.sampled_from([None, "shift", "spill", "pad", "drop", "catch_all", "short"])),
        "last_step": draw(st.sampled_from([None, "fill"])) if steps == "balanced" else None,
        "frame_buckets": draw(st.sampled_from([None, [1], [1, 9], [{"num_frames": 9, "keep_prob": 0.5}]])),
        "assign": draw(
            st.sampled_from([{}, {"min_size": 300}, {"max_crop_loss": 0.2}, {"max_ar_error": 0.3}])
        ),
        "num_repeats": draw(st.sampled_from([1.0, 2.0, 0.7])),
        "cost": draw(st.sampled_from([{"kind": "pixels"}, {"kind": "transformer", "hidden_size": 64}])),
    }
    fields |= draw(st.sampled_from([{"batch_size": 1}, {"batch_size": 3}, {"max_pixels_per_batch": 2**21}]))
    return {name: value for name, value in fields.items() if value is not None}


class Planned(NamedTuple):
    spec: RunSpec
    plan: PlanSpec
    stats: dict[str, Any]
    warnings: list[PlanWarning]

    @classmethod
    def of(cls, fields: dict[str, Any], rows: list[tuple[int, int, int]]) -> Planned:
        """Raises ``Invalid``."""
        widths, heights, frames = np.array(rows, np.uint32).T
        images = Images([Part(widths, heights, num_frames=frames if "frame_buckets" in fields else None)])
        spec = RunSpec.model_validate(fields).resolved()
        plan = spec.plan_spec()
        stats = estimate_from_sizes(plan, images, spec.world_size)
        unreached = unreached_sizes(plan, images, occupied(stats))
        return cls(spec, plan, stats, plan_warnings(spec, plan, stats, unreached, spec.world_size))


ROWS = st.lists(
    st.tuples(st.integers(200, 1500), st.integers(200, 1500), st.integers(1, 20)), max_size=40
).map(lambda rows: [*rows, (600, 600, 1), (600, 600, 9)])


@settings(deadline=None)
@given(fields=specs(), rows=ROWS)
def test_any_plan_has_those_that_its_numbers_say(fields: dict[str, Any], rows: Any) -> None:
    try:
        spec, _, stats, told = Planned.of(fields, rows)
    except Invalid:
        return
    codes = {each.code for each in told}
    assert [each.code for each in told] == sorted(codes, key=CODES.index)
    texts = [text for each in told for text in (each.message, each.remedy)]
    assert all((text[0].isupper() or text[0].isdigit()) and text.endswith(".") for text in texts)
    num_pruned, num_samples = sum(stats["pruned"].values()), stats["num_samples"]
    expected = {
        "pruned": 20 * num_pruned > len(rows),
        "never_served": stats["never_served"] > 0,
        "left_out": 20 * stats["dropped"] > num_samples,
        "repeated": 20 * stats["repeated"] > num_samples,
        "crop": stats["crop_loss_served"] - stats["crop_loss"]["mean"] > 0.01,
        "imbalance": stats["step_imbalance"] > 1.05,
        "shift_not_possible": spec.tails == "shift" != stats["tails"],
    }
    assert {code: code in codes for code in expected} == expected


@settings(deadline=None)
@given(fields=specs(), rows=ROWS)
def test_what_a_remedy_says_can_be_planned_and_helps(fields: dict[str, Any], rows: Any) -> None:
    """Where every epoch asks for as many images, those that are not served or served again are told exactly."""
    fields |= {"num_repeats": max(1.0, fields["num_repeats"])}
    if fields.get("frame_buckets", [1])[0] != 1:
        fields["frame_buckets"] = [1, 9]
    try:
        told = Planned.of(fields, rows).warnings
    except Invalid:
        return
    for warning in told:
        if warning.code in ("never_served", "left_out", "repeated"):
            for way in ways(warning.remedy):
                after = {each.code for each in Planned.of(followed(fields, way), rows).warnings}
                assert warning.code not in after, (warning, way)
