"""A run that is put while its map is deleted, through two replicas: either way, no run is left without its map."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bucketline_service.runs import map_deletion_guard
from bucketline_service.store import open_store
from tests.checked import Api
from tests.redis_server import RedisServer
from tests.runs.test_replicas import Clock, Watched
from tests.server import Replica, ServerProcess
from tests.store.jobs import FIRST
from tests.worlds import SMALL, World

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
OTHER = SMALL.replace("512", "576")
USES: dict[str, dict[str, Any]] = {
    "map": SPEC,
    "valid_ids": {**SPEC, "map": "kept", "valid_ids": "small"},
    "maps": {**SPEC, "map": None, "maps": [{"map": "kept"}, {"map": "small"}]},
}
"""Specs of runs that need the map ``small``."""


STORES_AND_MAPS = [
    *(("sqlite", "root"), ("redis", "folder")),
    *(
        pytest.param(*each, marks=pytest.mark.exhaustive)
        for each in (("sqlite", "folder"), ("redis", "root"))
    ),
]
on_replicas = pytest.mark.parametrize(("world", "replicas"), STORES_AND_MAPS, indirect=True)

VERBS = ("find", "announce_run", "create_run")
IN_TEST = [*zip(VERBS, USES, strict=True)]
MOMENTS = [
    pytest.param(*each, marks=[] if each in IN_TEST else pytest.mark.exhaustive)
    for each in itertools.product(VERBS, USES)
]
"""What the store or the maps are asked as the other comes between, and how the run uses the map."""


@pytest.fixture
def replicas(
    world: World, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Replica, Replica]]:
    """Two, that share their maps through a data directory, or through a root alone."""
    if request.param == "folder":
        yield world.replica(), world.replica()
        return
    (tmp_path / "root").mkdir()
    root = (tmp_path / "root").as_uri()
    both = [Replica(world.store_url, tmp_path / name, map_root=root) for name in ("a", "b")]
    yield both[0], both[1]
    for each in both:
        for run in each.api.get("/v1/runs")["runs"]:
            each.api.ask("DELETE", f"/v1/runs/{run['run']}", 204)
        each.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The overtaken replica waits for the other one, which must not wait in turn."""
    monkeypatch.setattr(map_deletion_guard, "WAIT_S", 0.0)


def overtake(replica: Replica, verb: str, what: Callable[[], object]) -> None:
    """Do it once, just before the replica asks that of its store, or of its maps."""
    coordinator = replica.coordinator
    if hasattr(coordinator.maps, verb):
        real, is_done = getattr(coordinator.maps, verb), threading.Event()

        def overtaken(*arguments: Any) -> Any:
            if not is_done.is_set():
                is_done.set()
                what()
            return real(*arguments)

        setattr(coordinator.maps, verb, overtaken)
        return
    watched: Any = Watched(coordinator.store, verb, what)
    coordinator.store = coordinator.runs.store = watched


def put_ready(api: Api, name: str, spec: dict[str, Any]) -> None:
    """The run is put, and gets its plan."""
    api.put(f"/v1/runs/{name}", spec)
    while (status := api.get(f"/v1/runs/{name}")["status"]) == "planning":
        pass  # each answer waits a moment for the plan
    assert status == "ready"


def is_there(api: Api, path: str) -> bool:
    return api.ask("GET", path).status_code == 200


@pytest.mark.parametrize(("verb", "uses"), MOMENTS)
@on_replicas
def test_a_map_that_is_deleted_in_the_midst_of_putting_a_run(
    replicas: tuple[Replica, Replica], verb: str, uses: str
) -> None:
    spec = USES[uses]
    one, two = replicas
    for name, csv in (("small", SMALL), ("kept", OTHER)):
        one.api.put_csv(name, csv, 201)
    overtake(one, verb, lambda: two.api.ask("DELETE", "/v1/maps/small", 204))
    problem = one.api.put("/v1/runs/run", spec, 404)
    assert "small" in problem["detail"]
    assert not is_there(two.api, "/v1/runs/run")
    assert two.api.get("/v1/runs") == {"runs": []}
    one.api.put_csv("small", SMALL, 201)
    put_ready(one.api, "run", spec)


@pytest.mark.parametrize("verb", ["find", "close_map", "list_runs", "delete", "open_map"])
@on_replicas
def test_a_run_that_is_put_in_the_midst_of_deleting_its_map(
    replicas: tuple[Replica, Replica], verb: str
) -> None:
    one, two = replicas
    one.api.put_csv("small", SMALL, 201)
    statuses: list[int] = []

    def put() -> None:
        status = two.api.ask("PUT", "/v1/runs/run", json=SPEC).status_code
        statuses.append(201 if status == 202 else status)  # on a busy machine the plan takes longer

    overtake(one, verb, put)
    deleted = one.api.ask("DELETE", "/v1/maps/small").status_code
    came_first = verb in ("find", "close_map")
    assert (statuses, deleted) == (
        ([201], 409) if came_first else ([404 if verb == "open_map" else 409], 204)
    )
    assert is_there(two.api, "/v1/runs/run") == is_there(two.api, "/v1/maps/small") == came_first


@pytest.mark.parametrize("verb", VERBS)
@on_replicas
def test_a_map_that_is_put_anew_in_the_midst_of_putting_a_run(
    replicas: tuple[Replica, Replica], verb: str
) -> None:
    """Its name is there as before, what it stands for is not: the run would have been of the old content."""
    one, two = replicas
    one.api.put_csv("small", SMALL, 201)

    def anew() -> None:
        two.api.ask("DELETE", "/v1/maps/small", 204)
        two.api.put_csv("small", OTHER, 201)

    overtake(one, verb, anew)
    assert "put again meanwhile" in one.api.put("/v1/runs/run", SPEC, 409)["detail"]
    assert not is_there(two.api, "/v1/runs/run")
    put_ready(one.api, "run", SPEC)


@on_replicas
def test_a_run_is_put_again_while_a_deletion_of_its_map_is_refused(replicas: tuple[Replica, Replica]) -> None:
    one, two = replicas
    one.api.put_csv("small", SMALL, 201)
    one.api.put("/v1/runs/run", SPEC, 201)
    overtake(one, "list_runs", lambda: two.api.put("/v1/runs/run", SPEC))
    assert one.api.ask("DELETE", "/v1/maps/small", 409).json()["runs"] == ["run"]
    put_ready(two.api, "other", {**SPEC, "seed": 1})


@on_replicas
def test_another_map_is_deleted_in_the_midst_of_putting_a_run(replicas: tuple[Replica, Replica]) -> None:
    one, two = replicas
    for name, csv in (("small", SMALL), ("other", OTHER)):
        one.api.put_csv(name, csv, 201)
    overtake(one, "create_run", lambda: two.api.ask("DELETE", "/v1/maps/other", 204))
    put_ready(one.api, "run", SPEC)


def in_store(url: str, ask: Callable[[Any], Any]) -> None:
    async def asked() -> None:
        store = open_store(url, timeout_s=30.0)
        await ask(store)
        await store.close()

    asyncio.run(asked())


def test_a_deletion_that_died_holds_runs_up_for_a_while_and_not_the_next_deletion(world: World) -> None:
    clock = Clock()
    one = world.replica(clock=clock).api
    one.put_csv("small", SMALL, 201)
    in_store(
        world.store_url, lambda store: store.close_map("small", "dead", clock() + map_deletion_guard.CLOSED_S)
    )
    assert "being deleted" in one.put("/v1/runs/run", SPEC, 409)["detail"]
    one.ask("DELETE", "/v1/maps/small", 204)
    one.put_csv("small", SMALL, 201)
    one.put("/v1/runs/run", SPEC, 409)
    clock.ahead_s = map_deletion_guard.CLOSED_S + 1
    one.put("/v1/runs/run", SPEC, 201)


def test_a_run_that_an_older_coordinator_has_put_holds_its_map(world: World) -> None:
    """It announced nothing: what tells is its document."""
    one = world.replica()
    one.api.put_csv("small", SMALL, 201)
    one.api.put("/v1/runs/run", SPEC, 201)
    record = one._wait(one.coordinator.store.read_run("run"))
    one.api.ask("DELETE", "/v1/runs/run", 204)
    first = replace(FIRST, birth="", world_size=2)
    in_store(world.store_url, lambda store: store.create_run("run", record.document, first))
    assert one.api.ask("DELETE", "/v1/maps/small", 409).json()["runs"] == ["run"]


@pytest.mark.parametrize("store", ["sqlite", pytest.param("redis", marks=pytest.mark.exhaustive)])
def test_two_processes_race(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    server: RedisServer | None = request.getfixturevalue("own_redis_server") if store == "redis" else None
    flags = ("--store", server.url) if server else ()
    servers = [ServerProcess(tmp_path / "data", *flags) for _ in range(2)]
    try:
        one, two = (each.api() for each in servers)
        outcomes = set()
        with ThreadPoolExecutor(2) as threads:
            for i in range(0, 20, 2):
                one.put_csv("small", SMALL)
                start = threading.Barrier(2)

                def put(name: str, start: threading.Barrier = start) -> int:
                    start.wait()
                    status = 503
                    while status == 503:  # as every client asks again
                        status = one.ask("PUT", f"/v1/runs/{name}", json=SPEC).status_code
                    return 201 if status == 202 else status

                def delete(tries: int, start: threading.Barrier = start) -> int:
                    start.wait()
                    for _ in range(tries):  # so that it meets each place of the other
                        two.ask("GET", "/healthz", 200)
                    return two.ask("DELETE", "/v1/maps/small").status_code

                answers = threads.submit(put, f"run-{i}"), threads.submit(delete, i)
                put_status, deleted = (answer.result() for answer in answers)
                outcomes.add((put_status, deleted))
                runs, maps = one.get("/v1/runs")["runs"], two.get("/v1/maps")["maps"]
                assert len(runs) == (put_status == 201) == len(maps) == (deleted == 409)
                for run in runs:
                    assert run["status"] != "failed"
                    one.ask("DELETE", f"/v1/runs/{run['run']}", 204)
        assert outcomes <= {(201, 409), (404, 204), (409, 204)}
    finally:
        for each in servers:
            each.close()
