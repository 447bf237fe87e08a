"""A run with kohya's ``bucket_no_upscale``, from its spec to its batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bucketline_service.planning.buckets.ladder_generators import MAX_BUCKETS
from tests.checked import Api
from tests.worlds import World

LADDER = {"kind": "kohya", "resolution": 512, "bucket_no_upscale": True}
SPEC = {"map": "mixed", "world_size": 2, "batch_size": 4, "ladder": LADDER, "tails": "pad"}
SIZES = [(640, 480), (200, 150), (2000, 1500), (130, 70), (300, 500), (40, 900), (100, 100)]
"""Image i of ``mixed`` has the i-th, and so on round."""
NUM = 140


@pytest.fixture
def mixed(api: Api) -> Api:
    rows = (f"{i},{SIZES[i % 7][0]},{SIZES[i % 7][1]}\n" for i in range(NUM))
    api.put_csv("mixed", "id,width,height\n" + "".join(rows))
    return api


def put(api: Api, run: str = "run", status: int = 201, **spec: Any) -> dict[str, Any]:
    about: dict[str, Any] = api.put(f"/v1/runs/{run}", {**SPEC, **spec}, status)
    return about


def served(api: Api, run: str = "run") -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Of every image of epoch 0 its size and its batch's."""
    count = api.get(f"/v1/runs/{run}")["num_steps"]
    found = []
    for rank in (0, 1):
        batches = api.get(f"/v1/runs/{run}/batches", epoch=0, step=0, rank=rank, count=count)["batches"]
        for batch in batches:
            found += [(SIZES[i % 7], (batch["width"], batch["height"])) for i in batch["ids"]]
    return found


def is_upscaled(size: tuple[int, int], target: tuple[int, int]) -> bool:
    return target[0] > size[0] or target[1] > size[1]


def test_the_buckets_are_those_that_the_images_need(mixed: Api) -> None:
    about = put(mixed)
    assert about["spec"]["ladder"]["bucket_no_upscale"] is True
    stats = mixed.get("/v1/runs/run/stats")
    sizes = [(bucket["width"], bucket["height"]) for bucket in stats["buckets"]]
    # 640 x 480 has more than 512 x 512 pixels, and is 4:3 as 2000 x 1500 is
    assert sizes == [(256, 448), (64, 64), (512, 384), (192, 128), (128, 64)]
    assert [bucket["num_images"] for bucket in stats["buckets"]] == [20, 20, 40, 20, 20]
    assert stats["pruned"] == {"max_ar_error": 0, "max_crop_loss": 0, "min_size": 0, "bucket_no_upscale": 20}
    assert stats["num_assigned"] == 120


@pytest.mark.parametrize("tails", ["pad", "drop"])
def test_no_image_is_scaled_up(mixed: Api, tails: str) -> None:
    put(mixed, tails=tails)
    found = served(mixed)
    assert len(found) >= 80
    assert not any(is_upscaled(*each) for each in found)


@pytest.mark.parametrize(
    "spec",
    [
        {"steps": "same_shape", "tails": "spill"},
        {"batch_size": 8, "tails": "spill"},
        {"batch_size": 8, "tails": "shift"},  # not possible where buckets have no order of aspect
    ],
)
def test_a_tail_that_spills_may_be_scaled_up(mixed: Api, spec: dict[str, Any]) -> None:
    """The 20 images of 128 x 64 are 2 units or batches of 8, and 4 go on to the neighbour, as docs/reference/ladders.md
    warns."""
    put(mixed, **spec)
    assert mixed.get("/v1/runs/run/stats")["tails"] == "spill"
    assert {each for each in served(mixed) if is_upscaled(*each)} == {((130, 70), (192, 128))}


def test_a_preview_says_the_same(mixed: Api) -> None:
    specs = [{**SPEC, "tails": tails} for tails in ("shift", "spill", "pad", "drop", "catch_all")]
    specs += [
        {**SPEC, "assign": {"min_size": 100}},
        {**SPEC, "assign": {"max_crop_loss": 0.1, "min_size": 50}},
    ]
    for spec in specs:
        del spec["map"]
    told = mixed.post("/v1/previews", {"map": "mixed", "specs": specs})["previews"]
    for number, (spec, preview) in enumerate(zip(specs, told, strict=True)):
        put(mixed, f"run{number}", **spec)
        stats = mixed.get(f"/v1/runs/run{number}/stats")
        assert preview["stats"]["buckets"] == [
            {**bucket, **{name: pytest.approx(bucket[name]) for name in ("crop_loss", "crop_loss_served")}}
            for bucket in stats["buckets"]
        ]
        for name in ("pruned", "num_batches", "num_steps", "dropped", "repeated", "spilled", "mixed_steps"):
            assert preview["stats"][name] == stats[name]


def test_images_that_are_pruned_need_no_bucket(mixed: Api) -> None:
    put(mixed, assign={"min_size": 100})
    stats = mixed.get("/v1/runs/run/stats")
    assert (128, 64) not in {(bucket["width"], bucket["height"]) for bucket in stats["buckets"]}
    # 40 x 900 has no bucket, but the first reason is the one told
    assert (stats["pruned"]["min_size"], "bucket_no_upscale" in stats["pruned"]) == (40, False)
    about = mixed.get("/v1/runs/run/images/3")
    assert (about["pruned"], about["bucket"], about["served"]) == ("min_size", None, [])
    # its own bucket does not exist: the nearest aspect is shown
    assert (about["nearest"]["width"], about["nearest"]["height"]) == (192, 128)


def test_an_image_is_explained(mixed: Api) -> None:
    put(mixed)
    large = mixed.get("/v1/runs/run/images/2", epoch=0)
    nearest = large["nearest"]
    assert (large["pruned"], large["bucket"]) == (None, nearest["bucket"])
    assert (nearest["width"], nearest["height"], nearest["crop_loss"]) == (512, 384, 0)
    assert [(each["width"], each["height"]) for each in large["served"]] == [(512, 384)]
    # 200 x 150 is cropped in the middle, and here scaled down before that: kohya only crops
    small = mixed.get("/v1/runs/run/images/1", epoch=0)["nearest"]
    assert (small["width"], small["height"]) == (192, 128)
    assert (small["resize_width"], small["resize_height"], small["crop_left"], small["crop_top"]) == (
        192,
        144,
        0,
        8,
    )
    none = mixed.get("/v1/runs/run/images/5")
    assert (none["pruned"], none["bucket"], none["served"]) == ("bucket_no_upscale", None, [])


def test_only_the_ids_that_count_need_buckets(mixed: Api) -> None:
    put(mixed, valid_ids=[i for i in range(NUM) if i % 7 in (0, 5)])
    stats = mixed.get("/v1/runs/run/stats")
    assert [(bucket["width"], bucket["height"]) for bucket in stats["buckets"]] == [(512, 384)]
    assert (stats["pruned"]["bucket_no_upscale"], stats["pruned"]["valid_ids"]) == (20, 100)
    # one whose bucket is there, one whose bucket is not, and two that have none
    assert [mixed.get(f"/v1/runs/run/images/{i}")["pruned"] for i in (2, 1, 5)] == [
        "valid_ids",
        "valid_ids",
        "bucket_no_upscale",
    ]


def test_the_fingerprint_is_that_of_the_rule(mixed: Api) -> None:
    first = put(mixed)["fingerprint"]
    sizes = [[bucket["width"], bucket["height"]] for bucket in mixed.get("/v1/runs/run/stats")["buckets"]]
    others = [
        put(mixed, "explicit", ladder={"kind": "explicit", "sizes": sizes}),
        put(mixed, "upscales", ladder={**LADDER, "bucket_no_upscale": False}),
        put(mixed, "area", ladder={**LADDER, "resolution": 520}),
        put(mixed, "steps", ladder={**LADDER, "bucket_reso_steps": 32}),
    ]
    assert len({first, *(about["fingerprint"] for about in others)}) == 5
    # how the area is given does not count, and bounds of a side that say nothing
    same = {**LADDER, "min_bucket_reso": 256, "max_bucket_reso": 1024, "resolution": [1024, 256]}
    assert put(mixed, "same", ladder=same)["fingerprint"] == first
    assert put(mixed, status=200)["fingerprint"] == first
    assert put(mixed, status=409, ladder={"kind": "kohya"})["code"] == "conflict"


def test_the_buckets_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that opens the run does not look for them again."""
    world = World(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path / "data")
    first = world.replica().api
    first.put_csv("mixed", "id,width,height\n" + "".join(f"{i},{200 + i},{300 - i}\n" for i in range(90)))
    put(first)
    question = {"epoch": 2, "step": 0, "rank": 1, "count": 10}
    expected = first.get("/v1/runs/run/batches", **question)

    def again(*args: object) -> None:
        raise AssertionError("looked for again")

    monkeypatch.setattr("bucketline_service.spec.ladder_kinds.needed", again)
    for folder in (world.data_dir / "plans").glob("*"):
        for file in folder.glob("*"):
            file.unlink()
    second = world.replica().api
    assert second.get("/v1/runs/run/batches", **question) == expected
    world.close()


def test_more_buckets_than_there_may_be_are_refused(api: Api) -> None:
    rows = (f"{i},{1 + i},{10}\n" for i in range(MAX_BUCKETS + 1))
    api.put_csv("mixed", "id,width,height\n" + "".join(rows))
    fine = {**LADDER, "bucket_reso_steps": 1}
    problem = put(api, status=422, ladder=fine)
    assert problem["field"] == "ladder.bucket_reso_steps"
    assert "Use larger steps, or prune small images with assign.min_size" in problem["detail"]
    preview = api.post(
        "/v1/previews", {"map": "mixed", "specs": [{"world_size": 1, "batch_size": 1, "ladder": fine}]}
    )
    assert preview["previews"][0]["problem"]["field"] == "ladder.bucket_reso_steps"
    api.get("/v1/runs/run", 404)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"ladder": {**LADDER, "bucket_no_upscale": "yes"}}, "ladder.bucket_no_upscale"),
        ({"ladder": {**LADDER, "bucket_no_upscale": 1}}, "ladder.bucket_no_upscale"),
        ({"ladder": {**LADDER, "bucket_reso_steps": 4096}}, "ladder.bucket_reso_steps"),
        ({"ladder": {**LADDER, "resolution": 10**6}}, "ladder.resolution"),
        ({"assign": {"min_size": 5000}}, "assign"),
        ({"ladder": {**LADDER, "min_bucket_reso": 128}}, "ladder.min_bucket_reso"),
        ({"ladder": {**LADDER, "max_bucket_reso": 2048}}, "ladder.max_bucket_reso"),
        (
            {"ladder": {"kind": "tiers", "ladders": [{"kind": "kohya"}, LADDER]}},
            "ladder.ladders.1.bucket_no_upscale",
        ),
        ({"planner": "novelai", "tails": None}, "ladder.kind"),
    ],
)
def test_what_can_not_be_used_is_named(mixed: Api, spec: dict[str, Any], field: str) -> None:
    problem = put(mixed, status=422, **spec)
    assert (problem["code"], problem["field"]) == ("invalid", field)
