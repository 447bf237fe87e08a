"""A job on another world size: which lockstep each epoch has, and that every answer uses it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import Any

import pytest

from tests.checked import Api
from tests.http.test_sessions import drive, state
from tests.server import Replica
from tests.worlds import World

WIDE, SQUARE = 45, 12
SIZES = "id,width,height\n" + "".join(f"{i},{640 if i < WIDE else 512},512\n" for i in range(WIDE + SQUARE))
SPEC = {"map": "two", "world_size": 2, "batch_size": 4, "tails": "drop"}
"""Units of one shape have 8 images on 2 ranks: both buckets have one. On 3 ranks they have 12, on 4 16: then the
squares have none. Of units of equal cost the squares have batches in all of them."""


@pytest.fixture(params=["same_shape", "balanced"])
def steps(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def two(api: Api, steps: str) -> Api:
    """The run ``run``, after 2 steps."""
    api.put_csv("two", SIZES, 201)
    api.put("/v1/runs/run", {**SPEC, "steps": steps}, 201)
    drive(api, "run", 2, 2)
    return api


def num_batches(steps: str, lockstep: int) -> int:
    """Of an epoch."""
    if steps == "balanced":
        return (WIDE // 4 + SQUARE // 4) // lockstep * lockstep
    return (WIDE // (4 * lockstep) + SQUARE // (4 * lockstep)) * lockstep


def ledger(api: Api, first: int, last: int, **more: Any) -> Counter[tuple[str, ...]]:
    """How many images in each epoch, and why."""
    rows = csv.DictReader(
        io.StringIO(api.ask("GET", "/v1/runs/run/ledger", params={"from": first, "to": last, **more}).text)
    )
    return Counter((row["epoch"], row["what"], row["reason"]) for row in rows)


def batches(api: Api, epoch: int, num_ranks: int, **more: Any) -> list[Any]:
    """All that the epoch deals to so many ranks, from ``step`` on where it is given."""
    found = []
    for rank in range(num_ranks):
        asked = {"epoch": epoch, "step": 0, "rank": rank, "count": 64, **more}
        answer = api.get("/v1/runs/run/batches", **asked)["batches"]
        found += [batch for batch in answer if batch["epoch"] == epoch]
    return found


def test_the_epoch_of_a_change_keeps_its_lockstep_and_those_after_have_another(two: Api, steps: str) -> None:
    session = two.session("run", "s", world_size=3)
    assert (session["origin_lockstep"], session["lockstep"]) == (2, 3)
    lease = two.lease("run", 0)
    assert (lease["origin_lockstep"], lease["lockstep"]) == (2, 3)
    assert session["mixed_steps"] > 0
    stats = two.get("/v1/runs/run/stats")
    assert (stats["epoch"], stats["lockstep"], stats["mixed_steps"] > 0) == (0, 2, True)
    assert stats["num_batches"] == num_batches(steps, 2)
    assert state(two)["lockstep"] == 2
    drive(two, "run", 3)
    stats = two.get("/v1/runs/run/stats")
    assert (stats["epoch"], stats["lockstep"]) == (1, 3)
    assert stats["num_batches"] == num_batches(steps, 3) == 3 * stats["num_steps"]
    assert state(two)["lockstep"] == 3
    planned = batches(two, 1, 3)
    shapes = {(batch["step"], batch["width"], batch["height"]) for batch in planned}
    # of two buckets no more than one step has both
    assert len(shapes) - stats["num_steps"] == stats["mixed_steps"] <= (steps == "balanced")
    assert stats["num_steps"] == two.get("/v1/runs/run")["num_steps"]
    ids = drive(two, "run", 3)
    assert sorted(ids) == sorted(id for batch in planned for id in batch["ids"])
    assert len(set(ids)) == len(ids) == WIDE + SQUARE - stats["dropped"]
    assert {rank["steps_behind"] for rank in two.get("/v1/runs/run/ranks")["ranks"]} == {0}


def test_the_plan_for_another_world_size_is_what_such_a_job_gets(two: Api) -> None:
    asked = batches(two, 1, 3, world_size=3)
    assert batches(two, 1, 2) == batches(two, 1, 2, world_size=2) != asked
    two.session("run", "s", world_size=3)
    assert batches(two, 1, 3) == asked


def test_an_image_is_where_the_batches_have_it(two: Api, steps: str) -> None:
    session = two.session("run", "s", world_size=3)
    first = {0: session["origin"]["step"], 1: 0}
    for epoch, step in first.items():
        where = {
            id: (batch["step"], batch["rank"], batch["bucket"])
            for batch in batches(two, epoch, 3, step=step)
            for id in batch["ids"]
        }
        for id in range(0, WIDE + SQUARE, 5):
            told = two.get(f"/v1/runs/run/images/{id}", epoch=epoch)
            dealt = [
                (each["step"], each["rank"], each["bucket"])
                for each in told["served"]
                if each["rank"] is not None
            ]
            assert dealt == ([where[id]] if id in where else [])
            assert (told["left_out"] == "tail") == (not told["served"])
    two.session("run", "t", world_size=4)
    told = two.get(f"/v1/runs/run/images/{WIDE}", epoch=1)
    if steps == "same_shape":
        assert (told["served"], told["left_out"]) == ([], "small_bucket")
    else:
        assert told["left_out"] == (None if told["served"] else "tail")


def test_the_ledger_tells_each_epoch_as_it_is_laid_out(two: Api, steps: str) -> None:
    """What the squares have no unit for on 4 ranks is left out of those epochs if another described epoch serves them,
    and otherwise never served."""
    two.session("run", "s", world_size=4)
    num_small = SQUARE if steps == "same_shape" else 0
    own = {
        ("0", "left_out", "tail"): WIDE + SQUARE - 4 * num_batches(steps, 2),
        ("0", "left_out", "last_step"): num_batches(steps, 2) % 4 * 4,
    }
    four = WIDE + SQUARE - num_small - 4 * num_batches(steps, 4)
    later = {("1", "left_out", "tail"): four, ("2", "left_out", "tail"): four}
    never = {("", "never_served", "small_bucket"): num_small}
    assert ledger(two, 0, 0) == Counter(own)
    assert ledger(two, 1, 2) == Counter({**later, **never})
    small = {(epoch, "left_out", "small_bucket"): num_small for epoch in ("1", "2")}
    assert ledger(two, 0, 2) == Counter({**own, **later, **small})
    # of a job that has 4 ranks from each epoch's start
    assert ledger(two, 0, 0, world_size=4) == Counter({("0", "left_out", "tail"): four, **never})
    drive(two, "run", 4)
    stats = two.get("/v1/runs/run/stats")
    assert (stats["epoch"], stats["dropped"], stats["never_served"]) == (1, four + num_small, num_small)


def test_another_replica_deals_the_same(two: Api, shared_world: World) -> None:
    two.session("run", "s", world_size=3)
    replica = Replica(shared_world.store_url, shared_world.data_dir)
    try:
        other = replica.api
        for epoch, step in ((0, 2), (1, 0), (7, 0)):
            assert batches(other, epoch, 3, step=step) == batches(two, epoch, 3, step=step)
        assert other.get("/v1/runs/run/stats") == two.get("/v1/runs/run/stats")
        assert state(other) == state(two)
    finally:
        replica.close()


def test_a_state_dict_carries_its_lockstep_to_a_coordinator_that_has_lost_all(two: Api, steps: str) -> None:
    """And back in time: a checkpoint of the epoch of a change, and one of the epoch after."""
    two.session("run", "s", world_size=3)
    saved = [(state(two), batches(two, 0, 3, step=3))]
    drive(two, "run", 3)
    drive(two, "run", 3, 1)
    saved.append((state(two), batches(two, 1, 3, step=1)))
    two.ask("DELETE", "/v1/runs/run?force=true", 204)
    two.put("/v1/runs/run", {**SPEC, "steps": steps}, 201)
    for number, (begins, planned) in enumerate(saved):
        session = two.session("run", f"s{number}", world_size=3, resume=begins)
        assert session["origin_lockstep"] == begins["lockstep"] == (2, 3)[number]
        cursor = session["cursor"]
        found = batches(two, cursor["epoch"], 3, step=cursor["step"] + (number == 0))
        assert found == planned
    # saved before there was another lockstep than the plan's
    del begins["lockstep"]
    assert two.session("run", "older", world_size=3, resume=begins)["origin_lockstep"] == 2


@pytest.mark.parametrize("lockstep", [0, "3", 2**20 + 1, 46, True])
def test_a_lockstep_that_is_none_is_refused(steady: Api, lockstep: Any) -> None:
    before = steady.get("/v1/runs/short")
    problem = steady.session("short", "s", 422, resume={**before["state"], "lockstep": lockstep})
    assert (problem["code"], problem["field"]) == ("invalid", "resume.lockstep")
    assert steady.get("/v1/runs/short") == before
