"""A run whose ranks are active is deleted only with ``force``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.checked import Api
from tests.worlds import SMALL, World

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}


class Clock:
    """The coordinator's, which a test sets."""

    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def timed(shared_world: World, clock: Clock) -> Api:
    """One coordinator with that clock."""
    return shared_world.replica(clock=clock).api


@pytest.fixture
def api(timed: Api, shared_world: World) -> Iterator[Api]:
    """With run ``run``, at which nobody is at work."""
    timed.put_csv("small", SMALL)
    timed.put("/v1/runs/run", SPEC, 201)
    yield timed
    shared_world.clean()


def test_a_run_at_work_is_kept_and_told_with_what_would_do(api: Api, clock: Clock) -> None:
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


def test_for_a_minute_after_it_was_heard_of(api: Api, clock: Clock) -> None:
    """And 10 s more, because stored times are that coarse."""
    lease = api.lease("run", 0)["lease"]
    seen_s = clock.now_s
    clock.now_s += 9.0
    api.next("run", 0, lease)  # so soon after, it is not written
    assert api.get("/v1/runs/run")["last_seen"] == seen_s
    for silent_s, status in ((9.0, 409), (59.0, 409), (69.0, 409), (71.0, 204)):
        clock.now_s = seen_s + silent_s
        api.ask("DELETE", "/v1/runs/run", status)


def test_a_replica_whose_clock_is_behind_sees_the_run_at_work(
    api: Api, shared_world: World, clock: Clock
) -> None:
    behind = Clock()
    behind.now_s = clock.now_s - 3600.0
    api.lease("run", 0)
    shared_world.replica(clock=behind).api.ask("DELETE", "/v1/runs/run", 409)


def test_a_run_that_nobody_has_worked_on_goes_at_once(api: Api) -> None:
    api.ask("DELETE", "/v1/runs/run", 204)
    api.ask("DELETE", "/v1/runs/run", 404)
    api.ask("DELETE", "/v1/runs/run?force=true", 404)
    api.ask("DELETE", "/v1/runs/run?force=perhaps", 422)
    api.ask("DELETE", "/v1/runs/run?yes=true", 422)
