"""A plan that would surprise says so where it is made; and where its remedy is followed, it says so no more."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucketline_service.runs import plan_warnings, queries
from bucketline_service.spec.advice import CODES
from bucketline_service.spec.advice.planned import MAX_EXTRA_CROP, MAX_IMBALANCE
from tests.checked import Api
from tests.remedies import followed, ways
from tests.server import COCO
from tests.worlds import SMALL, World

Json = dict[str, Any]
ALONE = {"world_size": 1, "batch_size": 1}
_maps = itertools.count()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One coordinator, where each preview has a map of its own."""
    folder = tmp_path_factory.mktemp("warnings")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    api = world.replica().api
    api.put_csv("coco", COCO.read_bytes(), 201)
    yield api
    world.close()


def put(api: Api, *groups: tuple[int, str], columns: str = "width,height") -> str:
    """The name of a map of so many images of each row."""
    name = f"map-{next(_maps)}"
    rows = [row for num, row in groups for _ in range(num)]
    lines = "".join(f"{number},{row}\n" for number, row in enumerate(rows))
    api.put_csv(name, f"id,{columns}\n{lines}", 201)
    return name


def preview(api: Api, name: str, spec: Json) -> Json:
    (found,) = api.post("/v1/previews", {"map": name, "specs": [spec]})["previews"]
    assert "problem" not in found, found["problem"]["detail"]
    assert [each["code"] for each in found["warnings"]] == sorted(
        {each["code"] for each in found["warnings"]}, key=CODES.index
    )
    return {"stats": found["stats"], **{each["code"]: each for each in found["warnings"]}}


def check_remedy(api: Api, name: str, spec: Json, code: str) -> list[Json]:
    """The ways that the warning's remedy tells with their values; after each of them there is no such warning."""
    told = ways(preview(api, name, spec)[code]["remedy"])
    for way in told:
        assert code not in preview(api, name, followed(spec, way)), way
    return told


def number(text: str, before: str) -> int:
    """The number that follows some words."""
    return int(re.search(re.escape(before) + r"([\d,]+)", text)[1].replace(",", ""))  # type: ignore[index]


SQUARE = {"kind": "explicit", "sizes": [[512, 512]]}
PRUNING: list[
    tuple[str, str, Json, Json]
] = [  # reason, a row, a spec that prunes it, what the remedy changes
    ("min_size", "100,100", {"assign": {"min_size": 200}}, {"assign": {}}),
    ("max_crop_loss", "5120,512", {"assign": {"max_crop_loss": 0.5}}, {"assign": {"max_crop_loss": 0.9}}),
    ("max_ar_error", "5120,512", {"assign": {"max_ar_error": 1.5}}, {"assign": {"max_ar_error": 3.0}}),
    ("max_ar_error", "5120,512", {"planner": "novelai"}, {"assign": {"max_ar_error": 9.5}}),
    (
        "bucket_no_upscale",
        "50,50",
        {"ladder": {"kind": "kohya", "bucket_no_upscale": True}},
        {"ladder": {"kind": "kohya", "bucket_no_upscale": True, "bucket_reso_steps": 50}},
    ),
    (
        "bucket_no_upscale",
        "50,50",
        {"ladder": {"kind": "kohya", "bucket_no_upscale": True}},
        {"ladder": {"kind": "kohya", "bucket_no_upscale": False}},
    ),
]


@pytest.mark.parametrize(("reason", "row", "fields", "remedy"), PRUNING)
def test_more_than_5_percent_pruned(desk: Api, reason: str, row: str, fields: Json, remedy: Json) -> None:
    spec = {**ALONE, "ladder": SQUARE, **fields}
    if "planner" in fields:
        spec["ladder"] = {"kind": "novelai", "max_size": [512, 512], "min_dim": 512, "dim_limit": 512}
    below, above = (put(desk, (100 - num, "512,512"), (num, row)) for num in (5, 6))
    assert "pruned" not in preview(desk, below, spec)
    told = preview(desk, above, spec)["pruned"]
    assert told["message"] == f"6 of 100 images (6.0%) are pruned, all by {reason}: no epoch serves them."
    assert all(
        name in told["remedy"] for field in remedy for name in [field, *remedy[field]] if name != "kind"
    )
    assert "pruned" not in preview(desk, above, {**spec, **remedy})


def test_clips_that_are_too_short(desk: Api) -> None:
    spec = {**ALONE, "ladder": SQUARE, "frame_buckets": [17]}
    columns = "width,height,num_frames"
    below, above = (
        put(desk, (100 - num, "512,512,20"), (num - 1, "512,512,9"), (1, "512,512,1"), columns=columns)
        for num in (5, 6)
    )
    assert "pruned" not in preview(desk, below, spec)
    told = preview(desk, above, spec)["pruned"]
    assert "all by num_frames" in told["message"]
    told_remedy = "Add to frame_buckets a length of fewer than 17 frames for clips, and 1 for still images."
    assert told["remedy"] == told_remedy
    assert "pruned" not in preview(desk, above, {**spec, "frame_buckets": [1, 9, 17]})
    only_stills = put(desk, (9, "512,512,1"), (9, "512,512,9"), columns=columns)
    told = preview(desk, only_stills, {**spec, "frame_buckets": [1]})["pruned"]
    assert told["remedy"] == "Add to frame_buckets a length for clips."
    assert "pruned" not in preview(desk, only_stills, {**spec, "frame_buckets": [1, 9]})


def test_images_that_the_map_repeats_never(desk: Api) -> None:
    spec = {**ALONE, "ladder": SQUARE}
    rows = "".join(f"{number},512,512,{int(number > 5)}\n" for number in range(100))
    desk.put_csv("never", f"id,width,height,num_repeats\n{rows}", 201)
    told = preview(desk, "never", spec)["pruned"]
    assert "all by num_repeats" in told["message"]
    assert "num_repeats_column=" in told["remedy"]
    query = "/v1/maps/ignored?num_repeats_column="
    body = f"id,width,height,num_repeats\n{rows}"
    desk.ask("PUT", query, 201, content=body, headers={"Content-Type": "text/csv"})
    assert "pruned" not in preview(desk, "ignored", spec)


def test_the_main_reason_is_named_and_remedies_of_as_many_as_matter(desk: Api) -> None:
    name = put(desk, (81, "512,512"), (4, "100,100"), (15, "5120,512"))
    spec = {**ALONE, "ladder": SQUARE, "assign": {"min_size": 200, "max_crop_loss": 0.5}}
    told = preview(desk, name, spec)["pruned"]
    assert told["message"].startswith("19 of 100 images (19.0%) are pruned, 15 of them by max_crop_loss")
    assert "assign.max_crop_loss (now 0.5)" in told["remedy"]
    assert "min_size" not in told["remedy"]
    assert "pruned" not in preview(desk, name, {**spec, "assign": {"min_size": 200}})
    name = put(desk, (79, "512,512"), (6, "100,100"), (15, "5120,512"))
    told = preview(desk, name, spec)["pruned"]
    assert "Lower assign.min_size (now 200) or leave it out" in told["remedy"]


def test_images_that_valid_ids_leaves_out_were_meant(desk: Api) -> None:
    name = put(desk, (100, "512,512"))
    told = preview(desk, name, {**ALONE, "ladder": SQUARE, "valid_ids": list(range(20))})
    assert told["stats"]["pruned"]["valid_ids"] == 80
    assert "pruned" not in told
    # and are not among those of which others are a share
    name = put(desk, (2, "100,100"), (98, "512,512"))
    spec = {**ALONE, "ladder": SQUARE, "assign": {"min_size": 200}}
    assert "pruned" not in preview(desk, name, spec)
    assert "pruned" in preview(desk, name, {**spec, "valid_ids": list(range(20))})


TWO_TIERS = {"kind": "tiers", "ladders": [SQUARE, {"kind": "explicit", "sizes": [[1024, 1024]]}]}


@pytest.mark.parametrize(("steps", "least", "moving"), [("balanced", 4, "shift"), ("same_shape", 8, "spill")])
@pytest.mark.parametrize("tails", ["drop", "catch_all"])
def test_a_bucket_that_is_never_served(desk: Api, steps: str, least: int, moving: str, tails: str) -> None:
    """Of fewer images than a batch, with steps of one shape than a unit."""
    spec = {"world_size": 2, "batch_size": 4, "tails": tails, "steps": steps}
    spec["ladder"] = {"kind": "explicit", "sizes": [[512, 512], [1024, 512]]}
    for num in (0, least):
        assert "never_served" not in preview(desk, put(desk, (96, "512,512"), (num, "1024,512")), spec)
    for num in (1, least - 1):
        name = put(desk, (96, "512,512"), (num, "1024,512"))
        told = preview(desk, name, spec)["never_served"]
        assert told["message"].startswith(f"{num} of {96 + num} images (")
        size = "512x512" if tails == "catch_all" else "1024x512"
        assert told["message"].endswith(f"their bucket is too small ({size} with {num}).")
        assert check_remedy(desk, name, spec, "never_served") == [{"tails": moving}]


@pytest.mark.parametrize(
    ("steps", "tails", "remedies"),
    [
        ("balanced", "shift", ["pad", "short"]),
        ("balanced", "spill", ["pad", "short"]),
        ("balanced", "drop", ["pad", "short"]),
        ("same_shape", "shift", ["pad"]),
        ("same_shape", "spill", ["pad"]),
        ("same_shape", "drop", ["pad"]),
    ],
)
def test_a_tier_that_is_never_served(desk: Api, steps: str, tails: str, remedies: list[str]) -> None:
    """What is too small in its tier cannot go elsewhere."""
    spec = {"world_size": 2, "batch_size": 4, "tails": tails, "steps": steps, "ladder": TWO_TIERS}
    least = 4 if steps == "balanced" else 8
    assert "never_served" not in preview(desk, put(desk, (96, "512,512"), (least, "1024,1024")), spec)
    name = put(desk, (96, "512,512"), (least - 1, "1024,1024"))
    assert check_remedy(desk, name, spec, "never_served") == [{"tails": each} for each in remedies]


def test_more_than_5_percent_left_out(desk: Api) -> None:
    spec = {"world_size": 1, "batch_size": 19, "tails": "spill", "ladder": SQUARE}
    below = preview(desk, put(desk, (20, "512,512")), spec)
    assert (below["stats"]["dropped"], "left_out" in below) == (1, False)
    name = put(desk, (21, "512,512"))
    told = preview(desk, name, spec)["left_out"]
    assert told["message"].startswith(
        "An epoch leaves out 2 of 21 images (9.5%), other ones each time: they fill no batch"
    )
    # it is a batch that they do not fill: to complete the last step would not help
    found = check_remedy(desk, name, spec, "left_out")
    assert [set(each) for each in found] == [{"num_repeats"}, {"tails", "last_step"}, {"tails"}]
    assert found[1:] == [{"tails": "pad", "last_step": "fill"}, {"tails": "short"}]
    smaller = number(told["remedy"], "fewer ranks, for ")
    assert "left_out" not in preview(desk, name, {**spec, "batch_size": smaller})
    found = check_remedy(desk, name, {**spec, "steps": "same_shape"}, "left_out")
    assert found[1:] == [{"tails": "pad"}]


def test_a_last_step_that_is_not_full(desk: Api) -> None:
    """The remainder of 3 images is less than a step, and less than 5 %; the other batches do not fill one."""
    spec = {"world_size": 8, "batch_size": 4, "ladder": SQUARE}
    name = put(desk, (64 + 16 + 3, "512,512"))
    assert preview(desk, name, spec)["stats"]["dropped"] == 19
    found = check_remedy(desk, name, spec, "left_out")
    assert found[0] == {"last_step": "fill"}
    assert [set(each) for each in found[1:]] == [{"num_repeats"}, {"tails"}]
    assert preview(desk, name, {**spec, "last_step": "fill"})["stats"]["dropped"] <= 3
    # a larger remainder may be left out all the same
    name = put(desk, (32 + 16 + 3, "512,512"))
    found = check_remedy(desk, name, spec, "left_out")
    assert {"last_step": "fill"} not in found
    assert {"tails": "pad", "last_step": "fill"} in found


def test_a_remainder_of_each_tier_counts(desk: Api) -> None:
    """Epochs are made so much longer that a remainder of each tier and one step are less than 5 %."""
    ladder = {"kind": "tiers", "ladders": [SQUARE, {"kind": "explicit", "sizes": [[1024, 1024]]}]}
    spec = {"world_size": 2, "batch_size": 16, "ladder": ladder}
    name = put(desk, (31, "512,512"), (31, "1024,1024"))
    found = check_remedy(desk, name, spec, "left_out")
    assert {"num_repeats": 16} in found  # 48 of 62 images, sixteen times, are below 5 %; 32 would be with 11


@pytest.mark.parametrize("steps", ["balanced", "same_shape"])
@pytest.mark.parametrize("tails", ["spill", "drop", "catch_all"])
@pytest.mark.parametrize("lockstep", [4, 3])
def test_its_remedies_leave_out_less_whatever_the_images(
    desk: Api, steps: str, tails: str, lockstep: int
) -> None:
    sizes = [[512, 512], [768, 512], [512, 768]]
    ladder = {"kind": "explicit", "sizes": sizes}
    spec = {"world_size": 4, "batch_size": 5, "lockstep": lockstep, "tails": tails, "ladder": ladder}
    spec["steps"] = steps
    num_warned = 0
    for nums in ((60, 20, 20), (60, 39, 19), (100, 7, 80), (300, 17, 80), (399, 19, 19)):
        name = put(desk, *((num, f"{size[0]},{size[1]}") for num, size in zip(nums, sizes, strict=True)))
        if "left_out" in preview(desk, name, spec):
            num_warned += 1
            assert len(check_remedy(desk, name, spec, "left_out")) > 1
    assert num_warned


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": "same_shape", "tails": "pad"},
        {"tails": "pad", "last_step": "fill"},
        {"tails": "short"},
    ],
)
def test_left_out_although_remainders_are_served(desk: Api, fields: Json) -> None:
    """Batches that do not fill a step."""
    spec = {"world_size": 8, "batch_size": 1, "lockstep": 1, "ladder": SQUARE, **fields}
    name = put(desk, (15, "512,512"))
    assert preview(desk, name, spec)["left_out"]["remedy"] == "Set lockstep to 8."
    assert check_remedy(desk, name, spec, "left_out") == [{"lockstep": 8}]


@pytest.mark.parametrize("steps", ["balanced", "same_shape"])
def test_left_out_in_a_last_step_as_well(desk: Api, steps: str) -> None:
    """With units that ranks do not divide, up to a unit and a step are left out, which its remedy reckons with."""
    spec = {"world_size": 8, "batch_size": 1, "lockstep": 9, "tails": "spill", "ladder": SQUARE}
    spec["steps"] = steps
    name = put(desk, (71, "512,512"))
    found = check_remedy(desk, name, spec, "left_out")
    assert any("num_repeats" in each for each in found)
    assert ({"last_step": "fill", "lockstep": 8} in found) == (steps == "balanced")


@pytest.mark.parametrize(("steps", "moving"), [("balanced", "shift"), ("same_shape", "spill")])
def test_more_than_5_percent_repeated(desk: Api, steps: str, moving: str) -> None:
    spec = {"world_size": 1, "batch_size": 35, "tails": "pad", "steps": steps, "ladder": SQUARE}
    below = preview(desk, put(desk, (200, "512,512")), spec)
    assert (below["stats"]["repeated"], "repeated" in below) == (10, False)
    name = put(desk, (199, "512,512"))
    told = preview(desk, name, spec)["repeated"]
    assert told["message"].startswith(
        "An epoch repeats images 11 times to fill batches, which is 5.5% of the 199"
    )
    assert check_remedy(desk, name, spec, "repeated") == [{"tails": moving}]
    smaller = number(told["remedy"], ", of at most " if steps == "balanced" else "fewer ranks, for ")
    assert "repeated" not in preview(desk, name, {**spec, "batch_size": smaller})


def test_repeats_that_complete_the_last_step(desk: Api) -> None:
    spec = {"world_size": 8, "batch_size": 4, "last_step": "fill", "ladder": SQUARE}
    for tails in ("shift", "spill", "drop"):
        below, above = (put(desk, (32 * 5 - 4 * num, "512,512")) for num in (1, 2))
        assert "repeated" not in preview(desk, below, {**spec, "tails": tails})
        told = preview(desk, above, {**spec, "tails": tails})
        assert told["stats"]["repeated"] == 8
        assert check_remedy(desk, above, {**spec, "tails": tails}, "repeated") == [{"last_step": "drop"}]
        images = number(told["repeated"]["remedy"], "fewer ranks, for ")
        assert "repeated" not in preview(
            desk, above, {**spec, "tails": tails, "world_size": 1, "batch_size": images}
        )


def test_a_step_that_repeats_complete_is_not_dropped_where_it_is_the_only_one(desk: Api) -> None:
    spec = {"world_size": 8, "batch_size": 4, "last_step": "fill", "ladder": SQUARE}
    assert check_remedy(desk, put(desk, (20, "512,512")), spec, "repeated") == []


def test_repeats_of_both_kinds(desk: Api) -> None:
    ladder = {"kind": "explicit", "sizes": [[512, 512], [768, 512]]}
    spec = {"world_size": 8, "batch_size": 4, "tails": "pad", "last_step": "fill", "ladder": ladder}
    # 2 images fill the batches, and 5 batches the step: without the latter there are few enough
    name = put(desk, (90, "512,512"), (12, "768,512"))
    assert check_remedy(desk, name, spec, "repeated") == [{"last_step": "drop"}]
    # 6 images fill the batches
    name = put(desk, (61, "512,512"), (37, "768,512"))
    assert check_remedy(desk, name, spec, "repeated") == [{"tails": "shift", "last_step": "drop"}]
    # images that do not fill a step without repeats
    for nums in ((20, 9), (29, 0)):
        name = put(desk, (nums[0], "512,512"), (nums[1], "768,512"))
        assert check_remedy(desk, name, spec, "repeated") == []


@pytest.mark.parametrize("steps", ["balanced", "same_shape"])
def test_a_remedy_that_is_not_possible_is_not_given(desk: Api, steps: str) -> None:
    """With fewer images than a unit nothing can be moved; nor can images of a tier with fewer than a batch."""
    spec = {"world_size": 1, "batch_size": 35, "tails": "pad", "steps": steps, "ladder": SQUARE}
    assert check_remedy(desk, put(desk, (30, "512,512")), spec, "repeated") == []
    spec |= {"ladder": TWO_TIERS}
    assert check_remedy(desk, put(desk, (99, "512,512"), (30, "1024,1024")), spec, "repeated") == []


WIDE = {"kind": "explicit", "sizes": [[512, 512], [1024, 512]]}


@pytest.mark.parametrize(
    ("fields", "remedies"),
    [
        ({"tails": "spill"}, [{"tails": "shift"}, {"tails": "pad"}]),
        ({"tails": "catch_all"}, [{"tails": "shift"}, {"tails": "pad"}]),
        (
            {"steps": "same_shape", "tails": "spill"},
            [{"steps": "balanced", "tails": None}, {"tails": "pad"}],
        ),
    ],
)
def test_crop_that_comes_from_other_buckets(desk: Api, fields: Json, remedies: list[Json]) -> None:
    """A remainder of wide images is cropped to squares; the more squares, the less it counts."""
    spec = {"world_size": 2, "batch_size": 4, "ladder": WIDE, **fields}
    seen = set()
    for num in (63, 123, 283, 403):
        name = put(desk, (num, "512,512"), (7, "1024,512"))
        found = preview(desk, name, spec)
        extra = found["stats"]["crop_loss_served"] - found["stats"]["crop_loss"]["mean"]
        assert ("crop" in found) == (extra > MAX_EXTRA_CROP)
        seen.add("crop" in found)
        if "crop" in found:
            assert check_remedy(desk, name, spec, "crop") == remedies
    assert seen == {True, False}


def test_crop_of_images_that_were_moved(desk: Api) -> None:
    """The boundary is where it loses least, and in a small set that is still much. More ranks change nothing."""
    spec = {"world_size": 2, "batch_size": 8, "ladder": WIDE}
    name = put(desk, (30, "512,512"), (3, "1024,512"))
    told = preview(desk, name, spec)["crop"]
    assert told["message"].endswith(": 3 images were moved to another one.")
    assert check_remedy(desk, name, spec, "crop") == [{"tails": "pad"}]
    assert told["remedy"].endswith("; or use fewer sizes or smaller batches.")
    assert "crop" not in preview(desk, name, {**spec, "batch_size": 1})


def test_crop_of_images_that_are_repeated(desk: Api) -> None:
    """To serve each image in its own bucket is no remedy where the plan does, and repeats those that lose much."""
    spec = {"world_size": 2, "batch_size": 8, "ladder": WIDE, "tails": "pad"}
    name = put(desk, (40, "512,512"), (1, "1500,512"))
    assert check_remedy(desk, name, spec, "crop") == [{"tails": "shift"}]
    found = check_remedy(desk, name, {**spec, "steps": "same_shape"}, "crop")
    assert found == [{"steps": "balanced", "tails": None}]


def test_crop_where_shift_is_not_possible(desk: Api) -> None:
    """Then it is no remedy, and nor is it one for images that are never served."""
    spec = {"world_size": 2, "batch_size": 4, "ladder": WIDE, "tails": "spill", "num_repeats": 1.5}
    name = put(desk, (41, "512,512"), (4, "1024,512"))
    assert check_remedy(desk, name, spec, "crop") == [{"tails": "pad"}]
    name = put(desk, (41, "512,512"), (2, "1024,512"))
    found = check_remedy(desk, name, {**spec, "tails": "drop"}, "never_served")
    assert found == [{"tails": "spill"}]


TRANSFORMER = {"kind": "transformer", "hidden_size": 64}


@pytest.mark.parametrize(
    ("cost", "budget"), [({"kind": "pixels"}, "max_pixels_per_batch"), (TRANSFORMER, "max_cost_per_batch")]
)
@pytest.mark.parametrize("lockstep", [2, 1])
def test_ranks_that_wait_for_each_other(desk: Api, cost: Json, budget: str, lockstep: int) -> None:
    spec = {"world_size": 2, "batch_size": 4, "lockstep": lockstep, "cost": cost}
    spec["ladder"] = {"kind": "explicit", "sizes": [[512, 512], [1024, 1024]]}
    seen = set()
    for num in (12, 60, 1996):
        name = put(desk, (num, "512,512"), (4, "1024,1024"))
        found = preview(desk, name, spec)
        assert ("imbalance" in found) == (found["stats"]["step_imbalance"] > MAX_IMBALANCE)
        seen.add("imbalance" in found)
        if "imbalance" in found:
            told = check_remedy(desk, name, spec, "imbalance")
            one_shape = {"steps": "same_shape", "tails": None, "last_step": None}
            assert [set(told[0]), told[1]] == [
                {budget, "batch_size"},
                one_shape if lockstep == 2 else {**one_shape, "lockstep": 2},
            ]
    assert seen == {True, False}


def test_ranks_that_wait_although_units_have_one_shape(desk: Api) -> None:
    spec = {"world_size": 2, "batch_size": 4, "lockstep": 1, "steps": "same_shape"}
    spec["ladder"] = {"kind": "explicit", "sizes": [[512, 512], [1024, 1024]]}
    told = check_remedy(desk, put(desk, (400, "512,512"), (96, "1024,1024")), spec, "imbalance")
    assert [set(each) for each in told] == [{"lockstep"}, {"max_pixels_per_batch", "batch_size"}]


def test_budgets_that_do_not_make_batches_alike(desk: Api) -> None:
    """One of pixels where attention weighs, and one that holds a single image."""
    spec = {"world_size": 8, "max_pixels_per_batch": 1024 * 1024, "cost": TRANSFORMER}
    spec["ladder"] = {"kind": "explicit", "sizes": [[512, 512], [1024, 1024]]}
    name = put(desk, (112, "512,512"), (4, "1024,1024"))
    told = check_remedy(desk, name, spec, "imbalance")
    assert set(told[0]) == {"max_cost_per_batch", "max_pixels_per_batch"}
    spec = {"world_size": 2, "max_pixels_per_batch": 1000 * 1000}
    spec["ladder"] = {"kind": "explicit", "sizes": [[512, 1100], [1000, 1000]]}
    name = put(desk, (1, "512,1100"), (1, "1000,1000"))
    assert preview(desk, name, spec)["imbalance"]["remedy"].startswith("Raise the budget")


def test_one_shape_is_no_remedy_where_no_step_has_it(desk: Api) -> None:
    spec = {"world_size": 8, "batch_size": 4, "ladder": TWO_TIERS}
    told = check_remedy(desk, put(desk, (16, "512,512"), (16, "1024,1024")), spec, "imbalance")
    assert [set(each) for each in told] == [{"max_pixels_per_batch", "batch_size"}]


@pytest.mark.parametrize(
    ("ladder", "least", "changed", "remedy"),
    [
        ({"kind": "explicit", "sizes": [[512, 512]]}, (512, 512), "", None),
        (
            {"kind": "explicit", "sizes": [[512, 512], [1024, 1024]]},
            (1024, 1024),
            "ladder.sizes",
            {"kind": "explicit", "sizes": [[512, 512]]},
        ),
        (
            {"kind": "explicit", "sizes": [[512, 512], [4096, 512]]},
            (4096, 512),
            "ladder.sizes",
            {"kind": "explicit", "sizes": [[512, 512]]},
        ),
        (
            {"kind": "kohya", "resolution": 512, "min_bucket_reso": 512, "max_bucket_reso": 512},
            (512, 512),
            "bucket_no_upscale",
            {"kind": "kohya", "resolution": 512, "bucket_no_upscale": True},
        ),
        (
            {"kind": "tiers", "resolution": [512, 1024]},
            (1024, 1024),
            "ladder.resolution",
            {"kind": "tiers", "resolution": [512]},
        ),
        (
            {"kind": "geometric", "min_ar": 0.99, "max_ar": 1.01, "num_ar_buckets": 1, "base_res": 512},
            (512, 512),
            "ladder.base_res",
            {"kind": "geometric", "min_ar": 0.99, "max_ar": 1.01, "num_ar_buckets": 1, "base_res": 256},
        ),
    ],
)
def test_sizes_that_no_image_reaches(
    desk: Api, ladder: Json, least: tuple[int, int], changed: str, remedy: Json | None
) -> None:
    """One image that reaches it is enough; one that is a pixel too small is not."""
    width, height = least
    spec = {**ALONE, "ladder": ladder}
    enough = put(desk, (20, "511,511"), (1, f"{width},{height}"))
    assert "unreachable_sizes" not in preview(desk, enough, spec)
    name = put(desk, (20, "511,511"), (1, f"{width},{height - 1}"), (1, f"{width - 1},{height}"))
    told = preview(desk, name, spec)["unreachable_sizes"]
    assert told["message"].startswith("No image is as wide and as high as ")
    assert f"{width}x{height}" in told["message"]
    if remedy is not None:
        assert changed in told["remedy"]
        assert "unreachable_sizes" not in preview(desk, name, {**spec, "ladder": remedy})
    side = number(told["remedy"], '"kohya", "resolution": ')
    kohya = {"kind": "kohya", "resolution": side, "bucket_no_upscale": True}
    assert "unreachable_sizes" not in preview(desk, name, {**spec, "ladder": kohya})


def test_a_length_that_no_clip_reaches(desk: Api) -> None:
    spec = {**ALONE, "ladder": SQUARE, "frame_buckets": [17, 33]}
    columns = "width,height,num_frames"
    enough = put(desk, (9, "512,512,32"), (1, "512,512,33"), columns=columns)
    assert "unreachable_sizes" not in preview(desk, enough, spec)
    name = put(desk, (9, "512,512,32"), columns=columns)
    told = preview(desk, name, spec)["unreachable_sizes"]
    assert told["message"].startswith("No image is as wide, as high and as long as 1 of the ladder's 2 sizes")
    assert "512x512x33" in told["message"]
    assert told["remedy"] == "Leave 33 out of frame_buckets."
    assert "unreachable_sizes" not in preview(desk, name, {**spec, "frame_buckets": [17]})


def test_a_ladder_whose_every_image_is_scaled_up(desk: Api) -> None:
    """That some are is how a ladder of one area works, and no surprise."""
    spec = {"world_size": 4, "batch_size": 8}
    assert "unreachable_sizes" not in preview(desk, "coco", spec)
    told = preview(desk, "coco", {**spec, "ladder": "sdxl"})["unreachable_sizes"]
    assert told["message"].endswith("to which 5,000 images are scaled up.")


KOHYA = {"kind": "kohya", "resolution": 512, "bucket_no_upscale": True}
ODD_REPEATS = [(1801, "512,512,1"), (300, "667,512,4"), (300, "800,512,4"), (1801, "1024,512,1")]


@pytest.mark.parametrize("steps", ["balanced", "same_shape"])
@pytest.mark.parametrize(
    ("fields", "words", "remedy"),
    [
        ({"num_repeats": 1.5}, "Use num_repeats 2, a whole number;", {"num_repeats": 2}),
        (
            {"ladder": KOHYA},
            "Use a ladder without bucket_no_upscale",
            {"ladder": {**KOHYA, "bucket_no_upscale": False}},
        ),
        (
            {"frame_buckets": [{"num_frames": 1, "keep_prob": 0.5}]},
            "Use keep_prob 1;",
            {"frame_buckets": [{"num_frames": 1, "keep_prob": 1.0}]},
        ),
        (
            {"ladder": TWO_TIERS, "frame_buckets": [{"num_frames": 1, "keep_prob": [1.0, 0.5]}]},
            "Use keep_prob 1;",
            {"frame_buckets": [{"num_frames": 1, "keep_prob": [1.0, 1.0]}]},
        ),
        (
            {"num_repeats": 0.5, "ladder": KOHYA},
            "sizes have an order of aspect and num_repeats 1, a whole number;",
            {"num_repeats": 1, "ladder": WIDE},
        ),
    ],
)
def test_shift_that_the_spec_makes_impossible(
    desk: Api, steps: str, fields: Json, words: str, remedy: Json
) -> None:
    spec = {"world_size": 2, "batch_size": 4, "ladder": WIDE, "steps": steps, "tails": "shift", **fields}
    name = put(desk, (400, "512,512,1"), (110, "1024,1024,1"), columns="width,height,num_frames")
    told = preview(desk, name, spec)["shift_not_possible"]
    assert told["message"].endswith('the plan has tails "spill".')
    assert words in told["remedy"]
    assert told["remedy"].endswith('; or tails "spill", which is what it has.')
    for way in (remedy, {"tails": "spill"}):
        assert "shift_not_possible" not in preview(desk, name, {**spec, **way})


@pytest.mark.parametrize("batches", [{"batch_size": 4}, {"max_pixels_per_batch": 8 * 512 * 512}])
def test_shift_that_the_repeats_of_images_make_impossible(desk: Api, batches: Json) -> None:
    """The images about the boundary come four times, and the others of both buckets leave one over."""
    spec = {"world_size": 2, "ladder": WIDE, **batches}
    name = put(desk, *ODD_REPEATS, columns="width,height,num_repeats")
    told = preview(desk, name, spec)["shift_not_possible"]
    assert told["remedy"].startswith("Use a map in which all images have the same whole num_repeats")
    assert check_remedy(desk, name, spec, "shift_not_possible") == [{"tails": "spill"}]
    for times in (1, 4):
        alike = [(num, f"{row[:-1]}{times}") for num, row in ODD_REPEATS]
        name = put(desk, *alike, columns="width,height,num_repeats")
        assert "shift_not_possible" not in preview(desk, name, spec)
    name = put(desk, (400, "512,512,0.5"), (110, "1024,512,1"), columns="width,height,num_repeats")
    told = preview(desk, name, spec)["shift_not_possible"]
    assert told["remedy"].startswith("Use a map in which all images have the same whole num_repeats")


def test_shift_that_the_shares_of_maps_make_impossible(desk: Api) -> None:
    spec = {"world_size": 2, "batch_size": 4, "ladder": WIDE}
    one, other = put(desk, (40, "512,512")), put(desk, (33, "1024,512"))

    def found(shares: list[Json], **fields: Any) -> str | None:
        maps = [{"map": name, **share} for name, share in zip((one, other), shares, strict=True)]
        body = {"maps": maps, "specs": [{**spec, **fields}]}
        (preview,) = desk.post("/v1/previews", body)["previews"]
        told = {each["code"]: each["remedy"] for each in preview["warnings"]}
        return told.get("shift_not_possible")

    weighted = found([{"weight": 1}, {"weight": 2}])
    assert weighted is not None
    assert weighted.startswith("Use num_repeats instead of a weight for each map;")
    of_map = found([{"num_repeats": 1}, {"num_repeats": 1.5}])
    assert of_map is not None
    assert of_map.startswith("Use a whole num_repeats for each of the maps;")
    of_both = found([{"num_repeats": 1}, {"num_repeats": 1.5}], num_repeats=0.3)
    assert of_both is not None
    assert of_both.startswith("Use num_repeats 1, a whole number and a whole num_repeats for each of the")
    assert found([{"num_repeats": 1}, {"num_repeats": 2}]) is None
    assert found([{"num_repeats": 2}, {"num_repeats": 4}], num_repeats=0.5) is None


def test_what_novelai_does_is_told_as_well(desk: Api) -> None:
    spec = {"world_size": 8, "batch_size": 8, "planner": "novelai"}
    found = preview(desk, "coco", spec)
    assert {"crop", "imbalance"} <= found.keys()
    assert found["imbalance"]["remedy"] == 'Use planner "line".'
    assert found["crop"]["remedy"].startswith('Use planner "line"; or use fewer sizes')
    assert not {"crop", "imbalance"} & preview(desk, "coco", {**spec, "planner": "line"}).keys()
    few = put(desk, (76, "512,512"))
    assert preview(desk, few, {**spec, "batch_size": 4})["left_out"]["remedy"].startswith(
        "Use smaller batches or"
    )
    found = check_remedy(desk, few, {**spec, "batch_size": 4}, "left_out")
    assert found == [{"planner": "line", "last_step": "fill"}]


def test_a_plain_plan_has_none(desk: Api) -> None:
    spec = {"map": "coco", "world_size": 4, "batch_size": 8}
    assert desk.put("/v1/runs/plain", spec, 201)["warnings"] == []
    assert desk.get("/v1/runs/plain")["warnings"] == []


# --- runs -----------------------------------------------------------------------------------------------------------

BAD = {"map": "small", "world_size": 2, "batch_size": 8, "steps": "same_shape", "tails": "pad", "lockstep": 8}


def known(api: Api, run: str) -> list[Json]:
    """The run's warnings, once they are known."""
    while (found := api.get(f"/v1/runs/{run}")["warnings"]) is None:
        pass
    return found  # type: ignore[no-any-return]


def test_a_run_has_the_warnings_of_its_preview(api: Api) -> None:
    api.put_csv("small", SMALL)
    spec = {name: value for name, value in BAD.items() if name != "map"}
    (told,) = api.post("/v1/previews", {"map": "small", "specs": [spec]})["previews"]
    api.put("/v1/runs/run", BAD, 201)
    assert [each["code"] for each in told["warnings"]] == ["repeated"]
    assert known(api, "run") == told["warnings"]
    assert api.put("/v1/runs/run", BAD, 200)["warnings"] == told["warnings"]
    api.put("/v1/runs/listed", {**BAD, "valid_ids": list(range(190))}, 201)
    (told,) = api.post("/v1/previews", {"map": "small", "specs": [{**spec, "valid_ids": list(range(190))}]})[
        "previews"
    ]
    assert known(api, "listed") == told["warnings"]


def test_an_image_that_valid_ids_leaves_out_reaches_no_size(api: Api) -> None:
    api.put_csv(
        "one-large", "id,width,height\n0,2048,2048\n" + "".join(f"{i},512,512\n" for i in range(1, 9))
    )
    spec = {**ALONE, "ladder": {"kind": "explicit", "sizes": [[512, 512], [1024, 1024]]}}
    api.put("/v1/runs/all", {"map": "one-large", **spec}, 201)
    assert known(api, "all") == []
    spec["valid_ids"] = list(range(1, 9))
    (told,) = api.post("/v1/previews", {"map": "one-large", "specs": [spec]})["previews"]
    api.put("/v1/runs/small", {"map": "one-large", **spec}, 201)
    assert [each["code"] for each in known(api, "small")] == ["unreachable_sizes"]
    assert known(api, "small") == told["warnings"]


def test_they_are_of_the_ranks_that_it_has_now(api: Api) -> None:
    api.put_csv("small", SMALL)
    spec = {"map": "small", "world_size": 1, "batch_size": 4, "ladder": SQUARE, "tails": "spill"}
    api.put("/v1/runs/run", spec, 201)
    assert known(api, "run") == []
    api.session("run", "more", world_size=9, resume="start")
    assert [each["code"] for each in known(api, "run")] == ["left_out"]


def test_they_reckon_with_the_units_that_these_ranks_get(api: Api) -> None:
    api.put_csv("small", SMALL)
    spec = {"map": "small", "world_size": 8, "batch_size": 1, "ladder": SQUARE, "lockstep": 64}
    api.put("/v1/runs/run", {**spec, "tails": "spill", "valid_ids": list(range(110))}, 201)
    assert (
        known(api, "run")[0]["remedy"]
        .partition("; or set tails")[0]
        .endswith("5 images a unit instead of 64")
    )
    lockstep = api.session("run", "more", world_size=12, resume="start")["lockstep"]
    assert lockstep == 96
    assert (
        known(api, "run")[0]["remedy"]
        .partition("; or set tails")[0]
        .endswith("5 images a unit instead of 96")
    )


def test_they_are_computed_once_and_not_for_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    real = plan_warnings.epoch_stats

    def counted(*arguments: Any) -> Any:
        times.append(1)
        return real(*arguments)

    monkeypatch.setattr(plan_warnings, "epoch_stats", counted)
    world = World(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path / "data")
    api = world.replica().api
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", BAD, 201)
    for _ in range(2):
        api.put("/v1/runs/run", BAD, 200)
        told = known(api, "run")
    assert len(times) == 1
    other = world.replica().api
    assert [run["warnings"] for run in other.get("/v1/runs")["runs"]] == [None]
    assert len(times) == 1
    assert known(other, "run") == told
    assert [run["warnings"] for run in other.get("/v1/runs")["runs"]] == [told]
    assert len(times) == 2
    world.close()


def test_a_plan_that_is_ready_does_not_wait_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, real = threading.Event(), plan_warnings.epoch_stats

    def wait_and_count(*arguments: Any) -> Any:
        assert go_on.wait(60)
        return real(*arguments)

    monkeypatch.setattr(plan_warnings, "epoch_stats", wait_and_count)
    monkeypatch.setattr(queries, "WAIT_FOR_PLAN_S", 0.0)
    world = World(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path / "data")
    api = world.replica().api
    api.put_csv("small", SMALL, 201)
    assert api.put("/v1/runs/run", BAD, 201)["warnings"] is None
    assert api.get("/v1/runs/run")["warnings"] is None
    api.lease("run", 0)  # and the run is served meanwhile
    go_on.set()
    assert [each["code"] for each in known(api, "run")] == ["repeated"]
    world.close()


def test_a_run_that_was_trained_on_is_not_at_its_start(api: Api) -> None:
    api.put_csv("small", SMALL)
    spec = {"map": "small", "world_size": 2, "batch_size": 8, "ladder": SQUARE}
    api.put("/v1/runs/run", spec, 201)
    _, lease = (api.lease("run", rank)["lease"] for rank in (0, 1))
    assert api.put("/v1/runs/run", spec, 200)["warnings"] == []
    api.ack("run", 1, lease, 0, 0)
    (told,) = api.put("/v1/runs/run", spec, 200)["warnings"]
    assert told["code"] == "not_at_start"
    assert "a rank is at epoch 0, step 1." in told["message"]
    # it concerns who puts it, and a run is not at its start while it is trained
    assert known(api, "run") == []
    api.session("run", "again", world_size=2, resume="start")
    assert api.put("/v1/runs/run", spec, 200)["warnings"] == []
    state = {**api.get("/v1/runs/run")["state"], "step": 3, "offset": 6}
    api.session("run", "resumed", world_size=2, resume=state)
    (told,) = api.put("/v1/runs/run", spec, 200)["warnings"]
    assert "a rank is at epoch 0, step 3." in told["message"]
    api.put("/v1/runs/other", spec, 201)
    assert api.put("/v1/runs/other", spec, 200)["warnings"] == []
