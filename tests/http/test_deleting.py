"""A run whose ranks are active is deleted only with ``force``."""

from __future__ import annotations

import pytest

from tests.checked import Api
from tests.worlds import SMALL, World

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}


class Clock:
    """The coordinator's, which a test sets."""

    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


def put(api: Api) -> None:
    api.put_csv("small", SMALL)
    api.put("/v1/runs/run", SPEC, 201)


def test_a_run_at_work_is_kept_and_told_with_what_would_do(world: World) -> None:
    clock = Clock()
    api = world.replica(clock=clock).api
    put(api)
    lease = api.lease("run", 1, "host-1")["lease"]
    for path in ("/v1/runs/run", "/v1/runs/run?force=false"):
        problem = api.ask("DELETE", path, 409).json()
        assert (problem["code"], problem["num_ranks"], problem["last_seen"]) == ("conflict", 1, clock.now_s)
        assert (
            "1 of its ranks were seen in the last minute, most recently rank 1 (holder 'host-1')"
            in problem["detail"]
        )
        assert "?force=true" in problem["detail"]
    api.ack("run", 1, lease, 0, 3)  # nothing has happened to it
    api.ask("DELETE", "/v1/runs/run?force=true", 204)
    api.ask("GET", "/v1/runs/run", 404)


@pytest.mark.parametrize(
    ("silent_s", "status"), [(0.0, 409), (59.0, 409), (69.0, 409), (71.0, 204), (3600.0, 204)]
)
def test_for_a_minute_after_it_was_heard_of(world: World, silent_s: float, status: int) -> None:
    """And 10 s more, because stored times are that coarse."""
    clock = Clock()
    api = world.replica(clock=clock).api
    put(api)
    lease = api.lease("run", 0)["lease"]
    clock.now_s += 9.0
    api.next("run", 0, lease)  # so soon after, it is not written
    assert api.get("/v1/runs/run")["last_seen"] == clock.now_s - 9.0
    clock.now_s += silent_s - 9.0
    api.ask("DELETE", "/v1/runs/run", status)


def test_a_replica_whose_clock_is_behind_sees_the_run_at_work(world: World) -> None:
    ahead, behind = Clock(), Clock()
    ahead.now_s += 3600.0
    one, other = (world.replica(clock=clock).api for clock in (ahead, behind))
    put(one)
    one.lease("run", 0)
    other.ask("DELETE", "/v1/runs/run", 409)


def test_a_run_that_nobody_has_worked_on_goes_at_once(world: World) -> None:
    api = world.replica().api
    put(api)
    api.ask("DELETE", "/v1/runs/run", 204)
    api.ask("DELETE", "/v1/runs/run", 404)
    api.ask("DELETE", "/v1/runs/run?force=true", 404)
    api.ask("DELETE", "/v1/runs/run?force=perhaps", 422)
    api.ask("DELETE", "/v1/runs/run?yes=true", 422)
