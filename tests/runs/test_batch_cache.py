"""Batches that were planned together with others are the batches of the plan, for any request."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.checked import Api
from tests.worlds import SMALL, World

STRINGS = "id,width,height\n" + "".join(f'"a],[{i}",{512 + 64 * (i % 5)},512\n' for i in range(100))


@pytest.fixture
def api(world: World) -> Api:
    api = world.replica().api
    api.put_csv("small", SMALL)
    return api


def planned(api: Api, rank: int, cursor: dict[str, int], count: int, include: list[str] | None = None) -> Any:
    more = {"include": ",".join(include)} if include else {}
    return api.get("/v1/runs/run/batches", rank=rank, count=count, **cursor, **more)["batches"]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_any_questions_are_answered_by_the_plan(api: Api, seed: int) -> None:
    """Ranks ask for some batches, now again for the same, now elsewhere, now with more to be told of them; sessions
    begin with other world sizes."""
    drawn = random.Random(seed)
    api.put("/v1/runs/run", {"map": "small", "world_size": 2, "batch_size": 4, "tails": "pad", "epochs": 40})
    for session in range(3):
        world_size = drawn.choice([1, 2, 3])
        api.session("run", f"session-{session}", world_size=world_size, resume="cursor")
        leases = [api.lease("run", rank)["lease"] for rank in range(world_size)]
        acks: list[dict[str, Any]] = [{} for _ in leases]
        for _ in range(20):
            rank, count = drawn.randrange(world_size), drawn.choice([1, 1, 1, 2, 3, 5, 40])
            include = drawn.choice([[], [], ["crop"], ["original_size", "crop"]])
            answer = api.next("run", rank, leases[rank], count=count, include=include, **acks[rank])
            assert answer["batches"] == planned(api, rank, answer["cursor"], count, include)
            if drawn.random() < 0.8:
                last = answer["batches"][0]
                acks[rank] = {"ack": {"epoch": last["epoch"], "step": last["step"]}}
            if drawn.random() < 0.1:
                begin = {"epoch": answer["cursor"]["epoch"] + drawn.randrange(3), "step": 0}
                if begin["epoch"] > answer["cursor"]["epoch"]:
                    elsewhere = api.next("run", rank, leases[rank], from_=begin, count=count)
                    assert elsewhere["batches"] == planned(api, rank, begin, count)


def test_ids_that_look_like_json(api: Api) -> None:
    api.put_csv("strings", STRINGS)
    api.put("/v1/runs/run", {"map": "strings", "world_size": 1, "batch_size": 4})
    lease = api.lease("run", 0)["lease"]
    found = [api.next("run", 0, lease, from_={"epoch": 0, "step": step})["batches"][0] for step in range(20)]
    assert found == planned(api, 0, {"epoch": 0, "step": 0}, 20)
    assert all(image.startswith("a],[") for batch in found for image in batch["ids"])


def test_at_the_end_of_the_run(api: Api) -> None:
    about = api.put("/v1/runs/run", {"map": "small", "world_size": 1, "batch_size": 8, "epochs": 1})
    lease = api.lease("run", 0)["lease"]
    last = about["num_steps"] - 1
    for step in range(last + 1):
        answer = api.next("run", 0, lease, from_={"epoch": 0, "step": step})
        assert (len(answer["batches"]), answer["done"]) == (1, step == last)
    answer = api.next("run", 0, lease, ack={"epoch": 0, "step": last})
    assert (answer["batches"], answer["cursor"], answer["done"]) == ([], {"epoch": 1, "step": 0}, True)
