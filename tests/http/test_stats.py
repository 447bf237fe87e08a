"""The stats of a run are what was really served."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.checked import Api

PutRun = Callable[..., dict[str, Any]]


def served(
    api: Api, run: str, epoch: int, world_size: int, num_steps: int
) -> dict[Any, list[dict[str, Any]]]:
    """By image: each of its comings in an epoch, as the plan has them."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for rank in range(world_size):
        for batch in api.get(f"/v1/runs/{run}/batches", epoch=epoch, step=0, rank=rank, count=num_steps)[
            "batches"
        ]:
            repeats = batch.get("repeats", [False] * len(batch["ids"]))
            for slot, (image, repeat) in enumerate(zip(batch["ids"], repeats, strict=True)):
                place = {"step": batch["step"], "rank": rank, "slot": slot, "bucket": batch["bucket"]}
                size = {"width": batch["width"], "height": batch["height"]}
                found.setdefault(image, []).append({**place, **size, "repeat": repeat})
    return found


BALANCED = ("shift", "short", "pad", "spill", "drop", "catch_all")
SAME_SHAPE = ("shift", "pad", "spill", "catch_all")
TYPICAL = [
    ("balanced", "shift", 5, 4),
    ("balanced", "short", 7, 2),
    ("balanced", "pad", 7, 2),
    ("balanced", "catch_all", 2, 2),
    ("same_shape", "shift", 2, 3),
    ("same_shape", "pad", 2, 3),
    ("same_shape", "spill", 1, 3),
    ("same_shape", "catch_all", 7, 4),
]


@pytest.mark.parametrize(
    ("steps", "tails", "lockstep", "world_size"),
    [
        each if each in TYPICAL else pytest.param(*each, marks=pytest.mark.exhaustive)
        for steps, every in (("balanced", BALANCED), ("same_shape", SAME_SHAPE))
        for each in itertools.product((steps,), every, (1, 2, 5, 7), (2, 3, 4))
    ],
)
def test_dropped_and_repeated_are_exact(
    shared_api: Api, steps: str, tails: str, lockstep: int, world_size: int
) -> None:
    """Also if the ranks do not divide the units and the repeats are in batches that no rank gets."""
    spec = {"map": "small", "world_size": world_size, "batch_size": 4, "tails": tails, "lockstep": lockstep}
    check_dropped_and_repeated(shared_api, {**spec, "steps": steps})


@pytest.mark.parametrize(
    ("lockstep", "world_size"), [(5, 4), pytest.param(7, 2, marks=pytest.mark.exhaustive)]
)
def test_repeats_of_a_filled_last_step_are_exact(shared_api: Api, lockstep: int, world_size: int) -> None:
    spec = {"map": "small", "world_size": world_size, "batch_size": 4, "lockstep": lockstep}
    check_dropped_and_repeated(shared_api, {**spec, "tails": "spill", "last_step": "fill"})


def check_dropped_and_repeated(shared_api: Api, spec: dict[str, Any]) -> None:
    shared_api.put("/v1/runs/run", spec, 201)
    try:
        stats = shared_api.get("/v1/runs/run/stats")
        places = served(shared_api, "run", 0, spec["world_size"], stats["num_steps"])
        times = {image: len(each) for image, each in places.items()}
        assert stats["dropped"] == stats["num_assigned"] - len(times)
        assert stats["repeated"] == sum(times.values()) - len(times)
    finally:
        shared_api.ask("DELETE", "/v1/runs/run", 204)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tails": "pad"},
        {"tails": "short"},
        {"steps": "same_shape"},
        {"planner": "novelai", "tails": "catch_all"},
        *(
            pytest.param(each, marks=pytest.mark.exhaustive)
            for each in (
                {"last_step": "fill", "lockstep": 4},
                {"tails": "catch_all"},
                {"steps": "same_shape", "tails": "pad"},
                {"steps": "same_shape", "tails": "catch_all"},
            )
        ),
    ],
)
def test_an_image_comes_where_it_is_said_to_come(put_run: PutRun, api: Api, fields: dict[str, Any]) -> None:
    put_run(**fields)
    num_steps = api.get("/v1/runs/run/stats")["num_steps"]
    for epoch in (0, 3):
        places = served(api, "run", epoch, 2, num_steps)
        for image in range(0, 200, 9):
            about = api.get(f"/v1/runs/run/images/{image}", epoch=epoch)
            assert (about["id"], about["epoch"], about["pruned"]) == (image, epoch, None)
            names = ("step", "rank", "slot", "bucket", "width", "height", "repeat")
            told = [
                {name: each[name] for name in names} for each in about["served"] if each["step"] is not None
            ]
            assert sorted(told, key=str) == sorted(places.get(image, []), key=str)
    assert api.get("/v1/runs/run/images/1", 422, epoch=2**31)["field"] == "epoch"


def test_ids_that_are_strings(api: Api) -> None:
    rows = "".join(f"img/{i:03} ü,{600 + i},{500}\n" for i in range(40))
    api.put_csv("named", "id,width,height\n" + rows, 201)
    api.put("/v1/runs/run", {"map": "named", "world_size": 1, "batch_size": 4}, 201)
    num_steps = api.get("/v1/runs/run/stats")["num_steps"]
    places = served(api, "run", 0, 1, num_steps)
    assert set(places) <= {f"img/{i:03} ü" for i in range(40)}
    assert len(places) == 40 - api.get("/v1/runs/run/stats")["dropped"]
    image = next(iter(places))
    about = api.get(f"/v1/runs/run/images/{image.replace('/', '%2F')}")
    assert about == api.get(f"/v1/runs/run/images/{image}")
    assert about["id"] == image
    assert about["served"][0]["step"] == places[image][0]["step"]
    problem = api.put(
        "/v1/runs/novelai", {"map": "named", "world_size": 1, "batch_size": 4, "planner": "novelai"}, 422
    )
    assert problem["field"] == "planner"
    assert [run["run"] for run in api.get("/v1/runs")["runs"]] == ["run"]


PRUNED = "id,width,height\n1,512,512\n2,768,512\n3,100,100\n4,4000,300\n5,640,512\n6,512,700\n"


@pytest.mark.parametrize(
    ("assign", "reasons"),
    [
        ({"min_size": 200}, {3: "min_size"}),
        ({"max_ar_error": 1.0}, {4: "max_ar_error"}),
        ({"max_crop_loss": 0.5}, {4: "max_crop_loss"}),
        ({"min_size": 400, "max_crop_loss": 0.5}, {3: "min_size", 4: "*"}),
    ],
)
def test_pruned_images_are_told_why(api: Api, assign: dict[str, Any], reasons: dict[int, str]) -> None:
    api.put_csv("m", PRUNED, 201)
    api.put("/v1/runs/run", {"map": "m", "world_size": 1, "batch_size": 1, "assign": assign}, 201)
    told = {image: api.get(f"/v1/runs/run/images/{image}") for image in range(1, 7)}
    for image, about in told.items():
        assert (about["pruned"] is None) == (image not in reasons)
        assert (about["bucket"] is None) == (image in reasons) == (about["served"] == [])
        assert about["nearest"]["width"] > 0
        assert reasons.get(image) in (None, "*", about["pruned"])
    counted = api.get("/v1/runs/run/stats")["pruned"]
    found = Counter(about["pruned"] for about in told.values() if about["pruned"])
    assert {reason: num for reason, num in counted.items() if num} == found


def test_valid_ids_as_a_list_and_as_a_map_are_the_same_plan(put_run: PutRun, api: Api) -> None:
    valid = list(range(0, 200, 2))
    one = put_run("one", valid_ids=[*reversed(valid), 0, 0])
    api.put_csv("even", "id,width,height\n" + "".join(f"{i},1,1\n" for i in valid), 201)
    two = put_run("two", valid_ids="even")
    api_of = {
        name: api.get(f"/v1/runs/{name}/batches", epoch=0, step=0, rank=0, count=5) for name in ("one", "two")
    }
    assert api_of["one"] == api_of["two"]
    for run in (one, two):
        stats = api.get(f"/v1/runs/{run['run']}/stats")
        assert (stats["pruned"]["valid_ids"], stats["num_assigned"]) == (100, 100)
        about = api.get(f"/v1/runs/{run['run']}/images/1")
        assert (about["pruned"], about["served"]) == ("valid_ids", [])
        assert api.get(f"/v1/runs/{run['run']}/images/2")["pruned"] is None


def test_ranks_tell_who_holds_them_and_how_far_behind_they_are(put_run: PutRun, api: Api) -> None:
    num_steps = put_run(world_size=3)["num_steps"]
    leases = [api.lease("run", rank, f"host-{rank}")["lease"] for rank in range(2)]
    api.ack("run", 0, leases[0], 1, 1)
    api.ack("run", 1, leases[1], 0, 3)
    ranks = api.get("/v1/runs/run/ranks")["ranks"]
    assert [rank["rank"] for rank in ranks] == [0, 1, 2]
    assert [rank["holder"] for rank in ranks] == ["host-0", "host-1", None]
    assert [(rank["epoch"], rank["step"]) for rank in ranks] == [(1, 2), (0, 4), (0, 0)]
    assert [rank["steps_behind"] for rank in ranks] == [0, num_steps + 2 - 4, num_steps + 2]
    assert ranks[0]["last_seen"] > 0
    assert ranks[2]["last_seen"] is None


def test_stats_under_another_world_size(put_run: PutRun, api: Api) -> None:
    put_run(lockstep=2)
    before = api.get("/v1/runs/run/stats")
    api.session("run", "s", world_size=4, resume="start")
    after = api.get("/v1/runs/run/stats")
    assert (after["world_size"], after["num_batches"]) == (4, before["num_batches"])
    assert after["num_steps"] == before["num_batches"] // 4
    run = api.get("/v1/runs/run")
    assert (run["world_size"], run["spec"]["world_size"], run["num_steps"]) == (4, 2, after["num_steps"])


def test_novelais_crop_loss_as_served_is_that_of_the_epoch(put_run: PutRun, api: Api) -> None:
    """The catch-all's images are cropped to its square, and count with the loss that they have there."""
    put_run(planner="novelai")
    stats = api.get("/v1/runs/run/stats")
    lost: dict[int, list[float]] = {}
    for image, comings in served(api, "run", 0, 2, stats["num_steps"]).items():
        for coming in comings:
            aspects = (512 + 64 * (image % 5)) / (512 + 64 * (image % 3)), coming["width"] / coming["height"]
            lost.setdefault(coming["bucket"], []).append(1 - min(aspects) / max(aspects))
            if image % 9 == 0 or len(lost[coming["bucket"]]) == 1:
                (told,) = api.get(f"/v1/runs/run/images/{image}", epoch=0)["served"]
                assert told["crop_loss"] == pytest.approx(lost[coming["bucket"]][-1])
    catch_all = stats["buckets"][-1]
    assert len(lost[catch_all["bucket"]]) == catch_all["batch_size"] * catch_all["num_batches"] > 0
    for bucket in stats["buckets"]:
        losses = lost.get(bucket["bucket"])
        expected = None if losses is None else pytest.approx(sum(losses) / len(losses))
        assert bucket["crop_loss_served"] == expected
    every = [loss for losses in lost.values() for loss in losses]
    assert stats["crop_loss_served"] == pytest.approx(sum(every) / len(every))
