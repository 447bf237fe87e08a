"""A lease that the store does not know: only an equal generation id proves that the store has lost it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from bucketline_service.runs.delivery import MAX_FROM_AHEAD
from bucketline_service.runs.lease_tokens import MAX_LEASE_AHEAD_S, TICKS_PER_S
from bucketline_service.runs.sharding import MAX_COUNT
from bucketline_service.store import LEASE_STRIDE
from tests.checked import Api
from tests.runs.test_replicas import NAMES, Watched
from tests.worlds import SMALL, World

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
LATER = 100 * LEASE_STRIDE
ONE_DAY = int(MAX_LEASE_AHEAD_S * TICKS_PER_S) * LEASE_STRIDE


@pytest.fixture
def api(world: World) -> Api:
    api = world.replica().api
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", SPEC, 201)
    return api


def steps(number: int, num_steps: int) -> dict[str, int]:
    """The place after so many steps of epochs of ``num_steps``."""
    return dict(zip(("epoch", "step"), divmod(number, num_steps), strict=True))


def named(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in ("generation", "generation_id")}


def num_adoptions(api: Api) -> float:
    metrics = api.ask("GET", "/metrics", 200).text.splitlines()
    told = [line for line in metrics if line.startswith('bucketline_adoptions_total{run="run"}')]
    return sum(float(line.split()[-1]) for line in told)


def test_every_start_has_an_id_of_its_own_and_every_answer_tells_it(api: Api) -> None:
    lease = api.lease("run", 0)
    told = [lease["generation_id"], api.next("run", 0, lease["lease"])["generation_id"]]
    state = api.get("/v1/runs/run")["state"]
    assert {*told, state["start"]} == {lease["generation_id"]}
    ids = [lease["generation_id"]]
    for session, resume in (("a", "start"), ("b", "cursor"), ("c", state), ("c", state)):
        begun = api.session("run", session, resume=resume)
        lease = api.lease("run", 0)
        assert api.get("/v1/runs/run")["state"]["start"] == begun["generation_id"] == lease["generation_id"]
        ids.append(begun["generation_id"])
    assert len(set(ids)) == 4
    assert ids[-1] == ids[-2]  # a repeat of the same session
    api.ask("DELETE", "/v1/runs/run?force=true", 204)
    api.put("/v1/runs/run", SPEC, 201)
    assert api.lease("run", 0)["generation_id"] not in ids


def test_a_lease_that_the_store_has_lost_is_adopted(api: Api) -> None:
    """The store lost the lease and the cursor, not the run: what it looks like when an older copy was restored."""
    lease = api.lease("run", 0)
    lost = lease["lease"] + LATER
    answer = api.next("run", 0, lost, ack={"epoch": 0, "step": 6}, **named(lease))
    assert answer["cursor"] == {"epoch": 0, "step": 7}
    api.next("run", 0, lease["lease"], 409)
    assert num_adoptions(api) == 1
    assert api.cursors("run")[0] == (0, 7)


def test_a_request_for_a_step_that_does_not_exist_adopts_nothing(api: Api) -> None:
    lease = api.lease("run", 0)
    lost, no_step = lease["lease"] + LATER, {"epoch": 0, "step": lease["num_steps"]}
    assert api.next("run", 0, lost, 409, ack=no_step, **named(lease))["code"] == "fenced"
    assert num_adoptions(api) == 0
    api.ack("run", 0, lease["lease"], 0, 0)  # the holder continues


def test_nothing_but_an_equal_id_is_adopted(api: Api) -> None:
    lease = api.lease("run", 0)
    changes: tuple[dict[str, Any], ...] = (
        {"generation_id": None},
        {"generation_id": None, "generation": None},
        {"generation": None},
        {"generation": 2},
        {"generation_id": "0123456789abcdef"},
    )
    for change, ack in itertools.product(changes, ({"epoch": 0, "step": 6}, None)):
        asked = {**named(lease), **change, "ack": ack}
        assert api.next("run", 0, lease["lease"] + LATER, 409, **asked)["code"] == "fenced", asked
    assert api.cursors("run")[0] == (0, 0)
    assert num_adoptions(api) == 0
    api.ack("run", 0, lease["lease"], 0, 0)  # the holder continues


def test_a_start_of_the_same_number_is_another(api: Api) -> None:
    """A worker of generation 2 of a run that was put again, and is in its own generation 2."""
    api.session("run", "a", resume="start")
    old = api.lease("run", 0, "old")
    api.ask("DELETE", "/v1/runs/run?force=true", 204)
    api.put("/v1/runs/run", SPEC, 201)
    api.session("run", "a", resume="start")
    new = api.lease("run", 0, "new")
    assert new["generation"] == old["generation"] == 2
    for lease in (old["lease"], old["lease"] + LATER, new["lease"]):
        answer = api.next("run", 0, lease, 409, ack={"epoch": 0, "step": 3}, **named(old))
        assert answer["code"] == "fenced"
    assert api.cursors("run")[0] == (0, 0)
    api.next("run", 0, new["lease"], ack={"epoch": 0, "step": 3}, **named(new))


def test_an_adoption_is_bounded_as_an_acknowledgement_is(api: Api) -> None:
    lease = api.lease("run", 0)
    lost, num_steps = lease["lease"] + LATER, lease["num_steps"]
    far = api.next("run", 0, lost, 409, ack=steps(MAX_COUNT, num_steps), **named(lease))
    assert far["code"] == "fenced"
    assert "the checkpoint" in far["detail"]
    assert (api.cursors("run")[0], num_adoptions(api)) == ((0, 0), 0)
    api.next("run", 0, lease["lease"])  # nothing was changed
    answer = api.next("run", 0, lost, ack=steps(MAX_COUNT - 1, num_steps), **named(lease))
    assert answer["cursor"] == steps(MAX_COUNT, num_steps)


@pytest.mark.parametrize("forged", [2**53 - LEASE_STRIDE, None])
def test_a_forged_lease_does_not_spoil_the_rank(api: Api, forged: int | None) -> None:
    lease = api.lease("run", 0)
    if forged is None:  # the furthest ahead of the clock that is not adopted
        forged = lease["lease"] + ONE_DAY + LATER * TICKS_PER_S
    assert api.next("run", 0, forged, 409, **named(lease))["code"] == "fenced"
    api.ack("run", 0, lease["lease"], 0, 0)
    api.next(
        "run", 0, lease["lease"] + ONE_DAY - LATER * TICKS_PER_S, **named(lease)
    )  # by a clock that was wrong
    for holder in ("a", "b"):
        again = api.lease("run", 0, holder)
        assert again["lease"] < 2**53 - ONE_DAY
        api.next("run", 0, again["lease"], ack={"epoch": 0, "step": 1}, **named(lease))


def test_leases_and_ids_that_cannot_exist(api: Api) -> None:
    for lease in (2**53, 10**30):
        assert api.next("run", 0, lease, 422)["field"] == "lease"
    lease, state = api.lease("run", 0)["lease"], api.get("/v1/runs/run")["state"]
    for wrong in ("", "a b", "é", "x" * 65, 1, "a.b"):
        assert api.next("run", 0, lease, 422, generation_id=wrong)["field"] == "generation_id", wrong
        assert api.session("run", "s", 422, resume={**state, "start": wrong})["field"] == "resume.start"


@pytest.mark.parametrize("ack", [None, pytest.param(0, marks=pytest.mark.exhaustive), 40])
def test_batches_are_asked_for_so_far_ahead_and_no_further(api: Api, ack: int | None) -> None:
    lease = api.lease("run", 0)
    num_steps = lease["num_steps"]
    cursor = 0 if ack is None else ack + 1
    acked = {} if ack is None else {"ack": steps(ack, num_steps)}
    furthest = steps(cursor + MAX_FROM_AHEAD, num_steps)
    beyond = steps(cursor + MAX_FROM_AHEAD + 1, num_steps)
    problem = api.next("run", 0, lease["lease"], 422, from_=beyond, **acked)
    assert (problem["code"], problem["field"]) == ("invalid", "from")
    assert api.cursors("run")[0] == (0, 0)  # what it acknowledged is not taken
    (batch,) = api.next("run", 0, lease["lease"], from_=furthest, **acked)["batches"]
    assert {name: batch[name] for name in ("epoch", "step")} == furthest
    # the cursor is what counts, not what this request acknowledges
    (batch,) = api.next("run", 0, lease["lease"], from_=furthest)["batches"]
    assert {name: batch[name] for name in ("epoch", "step")} == furthest


def test_an_acknowledgement_too_far_ahead_is_told_before_what_is_wanted(api: Api) -> None:
    lease = api.lease("run", 0)
    far = steps(5000, lease["num_steps"])
    assert api.next("run", 0, lease["lease"], 422, ack=far, from_=far)["field"] == "ack"


OLDER = [pytest.param(names, marks=pytest.mark.exhaustive) for names in NAMES[:-1]]


@pytest.mark.parametrize("nth", [1, 2, 3], ids=["commit", "read_run", "commit again"])
@pytest.mark.parametrize("names", [*OLDER, NAMES[-1]])
def test_a_replaced_worker_beside_a_start_is_fenced_and_nothing_is_lost(
    world: World, caplog: pytest.LogCaptureFixture, nth: int, names: tuple[str, ...]
) -> None:
    """Whenever the start happens: nobody may report that the store has lost state."""
    one, two = world.replica(), world.replica().api
    one.api.put_csv("small", SMALL, 201)
    one.api.put("/v1/runs/run", SPEC, 201)
    one.api.session("run", "first", resume="start")
    old = one.api.lease("run", 0, "old")
    one.api.lease("run", 0, "new")
    runs = one.coordinator.runs
    begin = lambda: two.session("run", "second", resume="start")  # noqa: E731
    runs.store = Watched(runs.store, nth, begin)  # type: ignore[assignment]
    problem = one.api.next("run", 0, old["lease"], 409, **{name: old[name] for name in names})
    assert problem["code"] == "fenced"
    assert "lost" not in problem["detail"]
    assert not [record for record in caplog.records if record.message == "store_lost_state"]
