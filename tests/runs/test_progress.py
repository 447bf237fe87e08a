"""How far a run is and how fast it moves, as every reader of the API gets it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server import Replica
from tests.worlds import World


class Clock:
    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def replica(world: World, clock: Clock) -> Replica:
    replica = world.replica(clock=clock)
    rows = "id,width,height\n" + "".join(f"{i},512,512\n" for i in range(80))
    replica.api.put_csv("even", rows, 201)
    replica.api.put("/v1/runs/run", {"map": "even", "world_size": 2, "batch_size": 4, "epochs": 1}, 201)
    return replica


def progress(replica: Any) -> dict[str, Any]:
    (listed,) = replica.api.get("/v1/runs")["runs"]
    alone: dict[str, Any] = replica.api.get("/v1/runs/run")["epoch_progress"]
    assert listed["epoch_progress"] == alone
    return alone


NOTHING = {"share": 0.0, "steps_per_s": None, "left_s": None, "stuck_rank": None}


def test_from_the_first_lease_to_the_end_of_the_run(replica: Any, clock: Clock) -> None:
    api = replica.api
    assert api.get("/v1/runs/run")["num_steps"] == 10
    assert progress(replica) == {**NOTHING, "activity": "idle"}
    leases = [api.lease("run", rank)["lease"] for rank in range(2)]
    assert progress(replica) == {**NOTHING, "activity": "running"}  # its first step may take a while
    clock.now_s += 20
    for rank in range(2):
        api.ack("run", rank, leases[rank], 0, 3)
    moving = {"activity": "running", "share": 0.4, "steps_per_s": 0.2, "left_s": 30.0, "stuck_rank": None}
    assert progress(replica) == moving
    clock.now_s += 59
    assert progress(replica) == moving, "a pause that is no standstill"
    clock.now_s += 2
    stopped = {"steps_per_s": 0.0, "left_s": None}
    assert progress(replica) == {**moving, **stopped, "activity": "idle"}
    for rank in range(2):
        api.ack("run", rank, leases[rank], 0, 9)
    assert progress(replica) == {**NOTHING, "share": 1.0, "activity": "finished"}


def test_a_rank_that_stops_while_others_move(replica: Any, clock: Clock) -> None:
    api = replica.api
    ahead = api.lease("run", 1)["lease"]
    clock.now_s += 10
    api.ack("run", 1, ahead, 0, 1)
    never_came = {**NOTHING, "activity": "waiting", "stuck_rank": 0}
    assert progress(replica) == never_came
    behind = api.lease("run", 0)["lease"]
    assert progress(replica) == {**NOTHING, "activity": "running"}
    clock.now_s += 10
    api.ack("run", 0, behind, 0, 0)
    clock.now_s += 61
    api.ack("run", 1, ahead, 0, 2)
    stuck = progress(replica)
    assert (stuck["activity"], stuck["steps_per_s"], stuck["stuck_rank"]) == ("waiting", 0.0, 0)


def test_slow_steps_are_no_standstill(replica: Any, clock: Clock) -> None:
    api = replica.api
    leases = [api.lease("run", rank)["lease"] for rank in range(2)]
    clock.now_s += 100
    for rank in range(2):
        api.ack("run", rank, leases[rank], 0, 0)
    clock.now_s += 499
    assert progress(replica)["steps_per_s"] == 0.01
    clock.now_s += 2
    assert progress(replica)["steps_per_s"] == 0.0


def test_the_share_is_of_batches_where_an_epoch_began_on_other_ranks(replica: Any) -> None:
    api = replica.api
    state = {**api.get("/v1/runs/run")["state"], "step": 5, "offset": 10}
    api.session("run", "alone", world_size=1, resume=state)
    assert api.get("/v1/runs/run")["num_steps"] == 15
    assert progress(replica)["share"] == 0.5
