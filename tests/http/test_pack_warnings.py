"""A plan of packs that would surprise says so where it is made; where its remedy is followed, it says so no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bucketline_service.spec.advice.planned import MAX_IMBALANCE
from tests.checked import Api
from tests.http.test_warnings import check_remedy, preview, put
from tests.server import COCO
from tests.worlds import World

Json = dict[str, Any]
TEN = {"max_tokens": 160}
"""So many images of 64 x 64 pixels are a pack."""
ONE = {"max_tokens": 100}
"""A pack is one image of 160 x 160 pixels, or four of 80 x 80."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One coordinator, where each preview has a map of its own."""
    folder = tmp_path_factory.mktemp("pack-warnings")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    api = world.replica().api
    api.put_csv("coco", COCO.read_bytes(), 201)
    yield api
    world.close()


def packed(world_size: int, pack: Json, **fields: Any) -> Json:
    return {"world_size": world_size, "ladder": "native", "pack": pack, **fields}


def test_more_than_5_percent_left_out(desk: Api) -> None:
    """20 packs on 19 ranks leave out one pack, which is 5 % of its images."""
    spec = packed(19, TEN)
    below = preview(desk, put(desk, (200, "64,64")), spec)
    assert (below["stats"]["dropped"], below["stats"]["num_samples"]) == (10, 200)
    assert "left_out" not in below
    name = put(desk, (201, "64,64"))
    told = preview(desk, name, spec)["left_out"]
    assert told["message"] == (
        "An epoch leaves out 11 of 201 images (5.5%), other ones each time: its 19 packs are few, and those that fill "
        "no step of 19 ranks are left out."
    )
    # no image fits into packs so small that there are enough of them, and there is no number of ranks so small
    assert [set(each) for each in check_remedy(desk, name, spec, "left_out")] == [{"num_repeats"}]


def test_each_way_to_more_packs_on_many_ranks(desk: Api) -> None:
    spec = packed(64, {"max_tokens": 16384})
    for code in ("left_out", "imbalance"):
        found = check_remedy(desk, "coco", spec, code)
        assert [set(each) for each in found] == [{"pack.max_tokens"}, {"num_repeats"}, {"world_size"}]
    assert not {"left_out", "imbalance"} & preview(desk, "coco", packed(8, {"max_tokens": 16384})).keys()


@pytest.mark.parametrize("lockstep", [20, 3, 21])
def test_a_unit_that_is_no_step(desk: Api, lockstep: int) -> None:
    """59 packs in units of 20, or that end within a step: as units of a step they would leave out less."""
    name = put(desk, (59 * 10, "64,64"))
    assert check_remedy(desk, name, packed(2, TEN, lockstep=lockstep), "left_out") == [{"lockstep": 2}]


def test_a_unit_that_is_no_step_where_there_are_few_packs(desk: Api) -> None:
    name = put(desk, (39 * 10, "64,64"))
    found = check_remedy(desk, name, packed(2, TEN, lockstep=20), "left_out")
    assert found == [{"pack.max_tokens": 80, "lockstep": 2}, {"num_repeats": 2, "lockstep": 2}]


@pytest.mark.parametrize(
    ("world_size", "max_tokens", "why"),
    [
        (
            1,
            500,
            "images are asked for a fraction of a time, and packs hold as many as every epoch asks for.",
        ),
        (3, 2000, "its 6 packs are few, and those that fill no step of 3 ranks are left out."),
    ],
)
def test_images_that_are_asked_for_a_fraction_of_a_time(
    desk: Api, world_size: int, max_tokens: int, why: str
) -> None:
    """Of 20 lengths with three images each, an epoch asks four or five times, and packs hold four, which smaller packs
    would not change. On several ranks some packs fill no step as well."""
    name = put(desk, *((3, f"160,{16 * (10 + number)}") for number in range(20)))
    spec = packed(world_size, {"max_tokens": max_tokens}, num_repeats=1.5)
    found = preview(desk, name, spec)
    assert found["stats"]["num_samples"] - 80 > 0.05 * found["stats"]["num_samples"]
    assert found["left_out"]["message"].endswith(why)
    assert [set(each) for each in check_remedy(desk, name, spec, "left_out")] == [{"num_repeats"}]


def test_ranks_that_wait_for_each_other(desk: Api) -> None:
    """Of 13 packs of a large image and an odd number of packs of small ones, one step has both kinds."""
    spec = packed(2, ONE)
    seen = {}
    for num_small in (7, 9):
        name = put(desk, (13, "160,160"), (4 * num_small, "80,80"))
        found = preview(desk, name, spec)
        large, small, mixed = 6 * 100**2, num_small // 2 * 4 * 25**2, (100**2 + 4 * 25**2) / 2
        expected = 1 + (100**2 - mixed) / (large + small + mixed)
        assert found["stats"]["step_imbalance"] == pytest.approx(expected)
        assert ("imbalance" in found) == (expected > MAX_IMBALANCE)
        seen[num_small] = found.get("imbalance"), name
    assert seen[9][0] is None
    told, name = seen[7]
    assert told["message"] == (
        "Ranks wait for each other: the slowest of 2 has 1.051 times the mean cost of a step, because an epoch has "
        "only 20 packs of 2 kinds."
    )
    assert check_remedy(desk, name, spec, "imbalance") == [{"num_repeats": 3}]


@pytest.mark.parametrize(
    ("row", "assign", "reason", "remedy"),
    [
        ("15,300", {}, "bucket_no_upscale", {"ladder": {"kind": "native", "divisible": 15}}),
        (
            "900,110",
            {"max_crop_loss": 0.05},
            "max_crop_loss",
            {"ladder": {"kind": "native", "divisible": 10}},
        ),
        ("900,110", {"max_crop_loss": 0.05}, "max_crop_loss", {"assign": {"max_crop_loss": 0.1}}),
        ("900,110", {"max_ar_error": 0.05}, "max_ar_error", {"ladder": {"kind": "native", "divisible": 10}}),
        ("60,60", {"min_size": 61}, "min_size", {"assign": {}}),
    ],
)
def test_more_than_5_percent_pruned(desk: Api, row: str, assign: Json, reason: str, remedy: Json) -> None:
    spec = packed(1, {"max_tokens": 8192}, assign=assign)
    below, above = (put(desk, (100 - num, "64,64"), (num, row)) for num in (5, 6))
    assert "pruned" not in preview(desk, below, spec)
    told = preview(desk, above, spec)["pruned"]
    assert told["message"] == f"6 of 100 images (6.0%) are pruned, all by {reason}: no epoch serves them."
    ((section, fields),) = remedy.items()
    names = [name for name in fields or assign if name != "kind"]
    assert all(f"{section}.{name} (now " in told["remedy"] for name in names)
    assert "bucket" not in told["remedy"]
    assert "pruned" not in preview(desk, above, {**spec, **remedy})


def test_a_run_is_told_by_its_ranks_of_now(desk: Api) -> None:
    run = desk.put("/v1/runs/packed", {"map": "coco", **packed(8, {"max_tokens": 16384})}, 201)
    assert run["warnings"] == []
    desk.session("packed", "more", world_size=64, resume="start")
    told = desk.get("/v1/runs/packed")["warnings"]
    assert [each["code"] for each in told] == ["left_out", "imbalance"]
    assert told == [preview(desk, "coco", packed(64, {"max_tokens": 16384}))[each["code"]] for each in told]
    desk.ask("DELETE", "/v1/runs/packed", 204)
