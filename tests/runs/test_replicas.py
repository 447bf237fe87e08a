"""Two coordinators over one store and one data directory: neither may serve what the other has deleted."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from bucketline_service.store import Store
from tests.checked import Api
from tests.worlds import SMALL, World

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
OTHER = {**SPEC, "seed": 7}


class Clock:
    """The real one, set forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


class Watched:
    """A coordinator's store, whose verbs are noted. ``overtake`` is done once, just before the first verb of the name
    ``at``, or the ``at``-th of all."""

    def __init__(
        self, store: Store, at: str | int = "", overtake: Callable[[], object] = lambda: None
    ) -> None:
        self._store = store
        self._at = at
        self._left = [overtake]
        self.verbs: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.verbs.append(name)
        if self._left and self._at in (name, len(self.verbs)):
            self._left.pop()()
        return getattr(self._store, name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def replicas(world: World, clock: Clock) -> tuple[Api, Api]:
    one, two = (world.replica(clock=clock).api for _ in range(2))
    one.put_csv("small", SMALL, 201)
    one.put("/v1/runs/run", SPEC, 201)
    return one, two


def anew(api: Api, spec: dict[str, Any]) -> None:
    api.ask("DELETE", "/v1/runs/run?force=true", 204)
    api.put("/v1/runs/run", spec, 201)


def test_both_tell_the_same(replicas: tuple[Api, Api]) -> None:
    one, two = replicas
    lease = one.lease("run", 0)
    assert two.lease("run", 0) == lease
    assert one.next("run", 0, lease["lease"], count=20) == two.next("run", 0, lease["lease"], count=20)
    two.ack("run", 0, lease["lease"], 0, 4)
    assert one.next("run", 0, lease["lease"])["cursor"] == {"epoch": 0, "step": 5}
    assert one.get("/v1/runs/run/stats") == two.get("/v1/runs/run/stats")


def test_a_session_through_one_fences_at_the_other(replicas: tuple[Api, Api]) -> None:
    one, two = replicas
    lease = one.lease("run", 0)["lease"]
    one.next("run", 0, lease)
    two.session("run", "s", world_size=4, resume="start")
    one.next("run", 0, lease, 409, ack={"epoch": 0, "step": 3})
    lease = two.lease("run", 3)["lease"]
    assert one.next("run", 3, lease, count=9) == two.next("run", 3, lease, count=9)


@pytest.mark.parametrize("later_s", [0.0, pytest.param(3600.0, marks=pytest.mark.exhaustive)])
def test_a_run_put_anew_is_never_served_by_the_old_plan(
    replicas: tuple[Api, Api], clock: Clock, later_s: float
) -> None:
    one, two = replicas
    old = [one.lease("run", rank)["lease"] for rank in range(2)]
    before = [one.next("run", rank, old[rank], count=9)["batches"] for rank in range(2)]
    clock.ahead_s += later_s
    anew(two, OTHER)
    new = [two.lease("run", rank)["lease"] for rank in range(2)]
    for rank in range(2):
        assert new[rank] > old[rank]
        expected = two.next("run", rank, new[rank], count=9)["batches"]
        assert expected != before[rank]
        assert one.next("run", rank, new[rank], count=9)["batches"] == expected
        assert one.get("/v1/runs/run/batches", epoch=0, step=0, rank=rank, count=9)["batches"] == expected
        assert one.ack("run", rank, new[rank], 0, 2)["cursor"] == {"epoch": 0, "step": 3}


NAMES: list[tuple[str, ...]] = [(), ("generation",), ("generation", "generation_id")]
"""What a worker names of the generation of its lease: as curl does, as older clients do, as ours does."""


@pytest.mark.parametrize("later_s", [0.0, -3600.0, pytest.param(3600.0, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("is_leased", [True, False])
def test_an_old_lease_is_never_valid_in_the_new_run(
    replicas: tuple[Api, Api], clock: Clock, later_s: float, is_leased: bool
) -> None:
    """Also where the clock was set back meanwhile, so that the old lease is the larger one."""
    one, two = replicas
    old = one.lease("run", 0)
    one.ack("run", 0, old["lease"], 0, 1)
    clock.ahead_s += later_s
    anew(two, OTHER)
    new = two.lease("run", 0, "young")["lease"] if is_leased else None
    for api, names, ack in itertools.product((one, two), NAMES, ({"epoch": 0, "step": 5}, None)):
        named = {name: old[name] for name in names}
        problem = api.next("run", 0, old["lease"], 409, ack=ack, from_=None, **named)
        assert problem["code"] == "fenced", named
    assert two.cursors("run") == one.cursors("run") == [(0, 0), (0, 0)]
    if new is not None:
        assert one.ack("run", 0, new, 0, 0)["cursor"] == {"epoch": 0, "step": 1}


@pytest.mark.parametrize("is_leased", [True, False])
def test_a_worker_of_the_old_run_is_fenced_where_its_replica_saw_nothing(
    replicas: tuple[Api, Api], is_leased: bool
) -> None:
    """The same spec, the same number: only the generation's id is another, and the old lease looks like a lost one."""
    one, two = replicas
    two.put("/v1/runs/other", SPEC, 201)  # keeps the plan's files, else their loss would be noticed
    old = one.lease("run", 0)
    one.ack("run", 0, old["lease"], 0, 1)
    anew(two, SPEC)
    if is_leased:
        two.lease("run", 0, "new")
    for step, names in enumerate(NAMES, start=2):
        named = {name: old[name] for name in names}
        answer = one.next("run", 0, old["lease"], 409, ack={"epoch": 0, "step": step}, **named)
        assert answer["code"] == "fenced", named
    assert one.cursors("run") == [(0, 0), (0, 0)]
    assert 'bucketline_adoptions_total{run="run"} 0.0' in one.ask("GET", "/metrics", 200).text


@pytest.mark.parametrize("verb", ["lease", "begin", "session", "ranks", "commit"])
def test_a_run_put_anew_in_the_middle_of_a_request(world: World, verb: str) -> None:
    """Between what a coordinator has read of the run and what it asks of the store next."""
    coordinator, two = world.replica(), world.replica().api
    one = coordinator.api
    one.put_csv("small", SMALL, 201)
    one.put("/v1/runs/run", SPEC, 201)
    state = one.get("/v1/runs/run")["state"]
    old = one.lease("run", 0)["lease"]
    runs = coordinator.coordinator.runs
    runs.store = Watched(runs.store, verb, lambda: anew(two, {**SPEC, "batch_size": 4}))  # type: ignore[assignment]
    if verb == "lease":
        assert one.lease("run", 0, "late") == two.lease("run", 0, "late")
    elif verb == "commit":
        assert one.next("run", 0, old, 409, ack={"epoch": 0, "step": 1})["code"] == "fenced"
    elif verb == "ranks":
        answer = one.get("/v1/runs/run")
        assert answer == two.get("/v1/runs/run")
        assert answer["state"]["fingerprint"] == answer["fingerprint"] != state["fingerprint"]
    else:
        assert one.session("run", "s", 409, resume=state)["code"] == "plan_mismatch"
        assert two.get("/v1/runs/run")["generation"] == 1
    assert two.cursors("run") == [(0, 0), (0, 0)]


def test_what_a_lease_and_a_batch_cost(world: World) -> None:
    coordinator = world.replica()
    api, runs = coordinator.api, coordinator.coordinator.runs
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", SPEC, 201)
    runs.store = watched = Watched(runs.store)  # type: ignore[assignment]
    lease = api.lease("run", 0)["lease"]
    assert watched.verbs == ["read_run", "lease"]
    for step in range(3):
        api.next("run", 0, lease, ack={"epoch": 0, "step": step})
    assert watched.verbs[2:] == ["commit"] * 3
    api.put("/v1/runs/run", SPEC, 200)  # creates again, which repairs what a crash has left out
    assert "create_run" in watched.verbs[5:]


def test_deleted_is_deleted_at_both(replicas: tuple[Api, Api]) -> None:
    one, two = replicas
    lease = one.lease("run", 0)["lease"]
    one.next("run", 0, lease)
    two.ask("DELETE", "/v1/runs/run?force=true", 204)
    one.next("run", 0, lease, 404, ack={"epoch": 0, "step": 0})
    one.lease("run", 0, status=404)
    assert one.get("/v1/runs") == {"runs": []}
    assert 'run="run"' not in one.ask("GET", "/metrics", 200).text


def test_the_plan_of_a_deleted_run_goes_on_where_it_is_open(replicas: tuple[Api, Api]) -> None:
    """The same plan under another name: deleted and put again through one replica while the other has its files
    mapped."""
    one, two = replicas
    expected = two.get("/v1/runs/run/batches", epoch=5, step=0, rank=0, count=20)
    one.ask("DELETE", "/v1/runs/run?force=true", 204)
    two.put("/v1/runs/again", SPEC, 201)
    one.put("/v1/runs/run", SPEC, 201)
    for api in (one, two):
        for run in ("run", "again"):
            assert api.get(f"/v1/runs/{run}/batches", epoch=5, step=0, rank=0, count=20) == expected
