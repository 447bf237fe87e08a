"""``GET /v1/events``: what the coordinator reports, the same on all replicas and after a restart."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bucketline import Operator
from bucketline_service.event_kinds import KEPT_EVENTS
from bucketline_service.http import Tokens
from bucketline_service.runs import registry
from tests.checked import Api
from tests.redis_server import RedisServer
from tests.server import Replica, ServerProcess
from tests.waiting import EVERY_S
from tests.worlds import SMALL, World

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
WAIT_S = 30.0


def until(
    api: Api, condition: Callable[[list[dict[str, Any]]], object], **params: Any
) -> list[dict[str, Any]]:
    """The events, oldest first, as soon as the condition holds of them."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition(events := api.get("/v1/events", limit=1000, **params)["events"][::-1]):
        assert time.monotonic() < deadline_s, events
        time.sleep(EVERY_S)
    return events


def names(events: list[dict[str, Any]]) -> list[str]:
    return [each["event"] for each in events]


def has(name: str) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda events: name in names(events)


@pytest.fixture
def after(world: World) -> int:
    """Where the list ends as the test begins: stores are shared."""
    events = world.replica().api.get("/v1/events", limit=1)["events"]
    return events[0]["id"] if events else 0


def test_a_runs_life(world: World, after: int) -> None:
    api = world.replica().api
    api.put_csv("small", SMALL, 201)
    api.put_csv("small", SMALL, 200)  # nothing new: no event
    api.put("/v1/runs/run", SPEC, 201)
    api.put("/v1/runs/run", SPEC, 200)
    api.session("run", "start 1")
    api.session("run", "start 1")
    old = api.lease("run", 1, "old")["lease"]
    for _ in range(3):
        api.lease("run", 1, "old")
    api.lease("run", 1, "new")
    for _ in range(50):
        assert api.next("run", 1, old, 409)["code"] == "fenced"
    api.lease("run", 0, "late", 409, session="start 0")
    api.ask("DELETE", "/v1/runs/run?force=true", 204)
    api.ask("DELETE", "/v1/maps/small", 204)

    def is_all(found: list[dict[str, Any]]) -> bool:
        counts = [
            sum(each["count"] for each in found if each["event"] == name)
            for name in ("fenced", "lease_given")
        ]
        return has("map_deleted")(found) and counts == [51, 2]

    events = until(world.replica().api, is_all, after=after)  # of another replica
    told = [each for each in events if not each["event"].startswith("coordinator")]
    fences = [each for each in told if each["event"] == "fenced"]
    assert {each["rank"] for each in fences} == {0, 1}
    assert len(fences) < 10
    assert next(each for each in fences if each["rank"] == 0)["fields"]["session"] == "start 0"
    assert names(each for each in told if each not in fences and each["event"] != "lease_given") == [
        "map_put", "run_put", "run_planned", "session_begun", "run_deleted", "map_deleted",
    ]  # fmt: skip
    fields = {each["event"]: each["fields"] for each in told}
    assert (fields["map_put"]["map"], fields["map_put"]["num_images"]) == ("small", 200)
    assert fields["run_put"] == {"maps": "small", "world_size": 2, "planner": "line"}
    assert fields["run_planned"]["took_s"] > 0
    assert fields["session_begun"] == {
        "session": "start 1", "generation": 2, "world_size": 2, "epoch": 0, "step": 0,
    }  # fmt: skip
    assert fields["lease_given"]["holder"] == "new"
    assert {(each["replica"], each["pid"]) for each in told} == {(socket.gethostname(), os.getpid())}
    assert {each["run"] for each in told} == {None, "run"}
    assert [each["at"] >= each["since"] > time.time() - 600 for each in told] == [True] * len(told)
    assert str(old) not in str(told)


def test_a_plan_that_can_not_be_made(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "WAIT_FOR_PLAN_S", 0.0)  # a plan that takes longer than its run's request
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/vast", {**SPEC, "world_size": 1000})
    events = until(api, has("run_failed"), run="vast")
    assert names(events)[-2:] == ["run_put", "run_failed"]
    assert events[-1]["fields"]["detail"] == api.get("/v1/runs/vast")["detail"]
    assert "an epoch has only 25 whole batches" in events[-1]["fields"]["detail"]


def test_a_store_that_was_put_back_to_an_older_state(tmp_path: Path) -> None:
    """Rank 1 of ``adopted`` changed hands since, ``lost`` was started again."""
    state, copy = tmp_path / "state", tmp_path / "copy"
    state.mkdir()

    def replica() -> Replica:
        return Replica(f"sqlite:///{state / 'state.sqlite'}", tmp_path / "data")

    first = replica()
    first.api.put_csv("small", SMALL, 201)
    for run in ("adopted", "lost"):
        first.api.put(f"/v1/runs/{run}", SPEC, 201)
        first.api.lease(run, 1, "old")
    first.close()
    shutil.copytree(state, copy)
    second = replica()
    adopted = second.api.lease("adopted", 1, "new")
    named = {name: adopted[name] for name in ("lease", "generation", "generation_id")}
    second.api.session("lost", "start 1")
    lost = second.api.lease("lost", 1, "new")["lease"]
    second.close()
    shutil.rmtree(state)
    copy.rename(state)
    third = replica()
    try:
        third.api.next("adopted", 1, ack={"epoch": 0, "step": 4}, **named)
        assert third.api.next("lost", 1, lost, 409, generation=2)["code"] == "fenced"
        events = until(third.api, lambda found: {"lease_adopted", "store_lost_state"} <= {*names(found)})
    finally:
        third.close()
    told = {each["event"]: each for each in events}
    assert [told["lease_adopted"][name] for name in ("run", "rank", "count")] == ["adopted", 1, 1]
    assert [told["lease_adopted"]["fields"][name] for name in ("epoch", "step")] == [0, 5]
    assert [told["store_lost_state"][name] for name in ("run", "rank", "count")] == ["lost", 1, 1]
    assert told["store_lost_state"]["fields"] == {"generation": 2}


def test_a_page_asks_for_what_is_new(api: Api, put_run: Callable[..., Any]) -> None:
    put_run("mine")
    events = until(api, has("run_planned"), run="mine")
    assert names(events)[-2:] == ["run_put", "run_planned"]
    newest = events[-1]["id"]
    assert [each["id"] for each in events] == sorted({each["id"] for each in events})
    assert api.get("/v1/events", run="mine", after=newest) == {"events": []}
    assert api.get("/v1/events", run="mine", limit=1)["events"] == [events[-1]]
    put_run("other")
    until(api, has("run_planned"), run="other", after=newest)
    assert api.get("/v1/events", run="mine", after=newest) == {"events": []}
    assert [each["run"] for each in api.get("/v1/events", after=newest)["events"]][:1] == ["other"]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"after": -1}, "after"),
        ({"after": 2**53}, "after"),
        ({"after": "x"}, "after"),
        ({"run": "a b"}, "run"),
        ({"since": 3}, "since"),
    ],
)
def test_what_can_not_be_asked(shared_api: Api, params: dict[str, Any], field: str) -> None:
    assert shared_api.get("/v1/events", 422, **params)["field"] == field


def test_any_token_will_do_and_none_will_not(tmp_path: Path) -> None:
    world = World(f"sqlite:///{tmp_path}/state.sqlite", tmp_path / "data")
    api = world.replica(tokens=Tokens(frozenset({"w"}), frozenset({"o"}))).api
    for token in ("w", "o"):
        api.ask("GET", "/v1/events", 200, headers={"Authorization": f"Bearer {token}"})
    api.ask("GET", "/v1/events", 401)
    world.close()


def test_starts_stops_and_an_outage_of_the_store(tmp_path: Path, own_redis_server: RedisServer) -> None:
    server = ServerProcess(
        tmp_path, "--store", own_redis_server.url, environ={"BUCKETLINE_STORE_TIMEOUT_S": "5"}
    )
    try:
        api = server.api()
        until(api, has("coordinator_started"))
        own_redis_server.kill()
        for _ in range(20):
            api.ask("GET", "/v1/runs", 503)
        api.ask("GET", "/v1/events", 503)
        api.put_csv("small", SMALL, 201)  # maps need no store
        own_redis_server.start()
        events = until(api, has("store_back"))
        assert names(events) == ["coordinator_started", "store_unavailable", "map_put", "store_back"]
        assert events[-1]["fields"]["lasted_s"] == pytest.approx(events[-1]["at"] - events[1]["at"], abs=0.01)
        assert {each["count"] for each in events} == {1}
        first = server.process.pid
        assert server.stop()[0] == 0
        server.start()
        events = until(server.api(), lambda found: found[-1]["event"] == "coordinator_started")
        assert names(events)[-2:] == ["coordinator_stopped", "coordinator_started"]
        assert [each["pid"] for each in events] == [first] * 5 + [server.process.pid]
        with Operator(server.url) as operator:
            assert operator.events() == events[::-1]
            assert operator.events(limit=2) == events[-2:][::-1]
            assert operator.events("run", after=events[0]["id"]) == []
            assert operator.events(after=events[-2]["id"]) == events[-1:]
    finally:
        server.close()


def test_every_event_and_field_is_in_the_document(shared_api: Api) -> None:
    schemas = shared_api.contract.document["components"]["schemas"]
    assert set(schemas["EventOut"]["properties"]["event"]["enum"]) == set(KEPT_EVENTS)
    told = " ".join(each["description"] for each in schemas["EventFields"]["properties"].values())
    # these are identified by name and run alone
    bare = {"coordinator_stopped", "run_deleted", "map_root_back"}
    assert {name for name in KEPT_EVENTS if name in told} == set(KEPT_EVENTS) - bare
