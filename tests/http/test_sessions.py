from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.checked import Api

PutRun = Callable[..., dict[str, Any]]
on_both_stores = pytest.mark.parametrize("shared_world", ["sqlite", "redis"], indirect=True, scope="session")
"""Where a rule may depend on what the store does under concurrent writes, or on how it keeps names."""


def drive(api: Api, run: str, world_size: int, num_steps: int | None = None) -> list[Any]:
    """Every rank of the job takes ``num_steps`` steps, or goes to the end of its epoch, and acknowledges them: the ids
    that came."""
    ids: list[Any] = []
    for rank in range(world_size):
        lease = api.lease(run, rank)
        todo = lease["num_steps"] - lease["cursor"]["step"] if num_steps is None else num_steps
        batches = api.next(run, rank, lease["lease"], count=todo)["batches"]
        ids += [image for batch in batches for image in batch["ids"]]
        api.ack(run, rank, lease["lease"], batches[-1]["epoch"], batches[-1]["step"])
    return ids


def state(api: Api, run: str = "run") -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/v1/runs/{run}")["state"]
    return found


def test_a_session_is_idempotent_by_its_name(put_run: PutRun, api: Api) -> None:
    put_run()
    lease = api.lease("run", 0)["lease"]
    api.ack("run", 0, lease, 0, 3)
    one = api.session("run", "one")
    assert (one["generation"], one["world_size"], one["cursor"]) == (2, 2, {"epoch": 0, "step": 0})
    assert api.session("run", "one") == one
    assert api.session("run", "one", resume="start", world_size=2) == one
    assert api.get("/v1/runs/run")["session"] == "one"
    assert api.session("run", "one", 409, world_size=4)["code"] == "conflict"
    two = api.session("run", "two", world_size=4)
    assert (two["generation"], two["world_size"]) == (3, 4)
    problem = api.session("run", "one", 409)
    assert (problem["code"], problem["generation"]) == ("fenced", 3)
    assert api.get("/v1/runs/run")["generation"] == 3


@on_both_stores
def test_all_ranks_may_start_the_same_session_at_once(put_run: PutRun, api: Api) -> None:
    put_run()
    with ThreadPoolExecutor(16) as pool:
        for session in ("a", "b", "c"):
            answers = list(
                pool.map(lambda _, name=session: api.session("run", name, world_size=2), range(16))
            )
            assert all(answer == answers[0] for answer in answers)
    assert api.get("/v1/runs/run")["generation"] == 4


@on_both_stores
def test_a_session_fences_all_leases_of_the_older(put_run: PutRun, api: Api) -> None:
    put_run()
    old = api.lease("run", 0, "a")["lease"]
    api.ack("run", 0, old, 0, 1)
    api.session("run", "s", resume="start")
    for more in (
        {},
        {"ack": {"epoch": 0, "step": 5}},
        {"from_": {"epoch": 0, "step": 10**6}},
        {"generation": 1},
    ):
        problem = api.next("run", 0, old, 409, **more)
        assert (problem["code"], problem["generation"]) == ("fenced", 2)
    assert api.cursors("run") == [(0, 0), (0, 0)]
    assert api.lease("run", 0, "a", 409, session="other")["code"] == "fenced"
    new = api.lease("run", 0, "a", session="s")
    assert new["lease"] > old
    assert new["generation"] == 2
    assert api.ack("run", 0, new["lease"], 0, 0)["cursor"] == {"epoch": 0, "step": 1}


def test_a_rank_of_a_larger_generation_is_fenced_and_not_unknown(put_run: PutRun, api: Api) -> None:
    put_run(world_size=4)
    lease = api.lease("run", 3)["lease"]
    api.next("run", 3, lease)
    api.session("run", "smaller", world_size=2)
    assert api.next("run", 3, lease, 409, ack={"epoch": 0, "step": 0})["code"] == "fenced"
    assert api.next("run", 3, lease, 409, generation=1)["code"] == "fenced"
    assert api.cursors("run") == [(0, 0), (0, 0)]


def test_resume_cursor_begins_at_the_slowest_rank(put_run: PutRun, api: Api) -> None:
    put_run()
    leases = [api.lease("run", rank)["lease"] for rank in range(2)]
    api.ack("run", 0, leases[0], 0, 6)
    api.ack("run", 1, leases[1], 0, 3)
    assert (state(api)["step"], state(api)["offset"]) == (4, 8)
    session = api.session("run", "s", resume="cursor")
    assert session["cursor"] == {"epoch": 0, "step": 4}
    assert (session["origin"], session["offset"]) == ({"epoch": 0, "step": 4}, 8)
    assert api.cursors("run") == [(0, 4), (0, 4)]
    assert api.get("/v1/runs/run/batches", 422, epoch=0, step=3, rank=0)["field"] == "step"
    lease = api.lease("run", 0)["lease"]
    assert api.next("run", 0, lease, 422, from_={"epoch": 0, "step": 3})["field"] == "from.step"
    assert api.next("run", 0, lease, ack={"epoch": 0, "step": 2})["cursor"] == {"epoch": 0, "step": 4}
    assert api.cursors("run") == [(0, 4), (0, 4)]


SIZES = [(4, 2), (2, 4), (4, 3), (3, 4, 1), (2, 2, 2), (1, 5, 2)]
TYPICAL = [
    ("cursor", (4, 3), "balanced"),
    ("state", (3, 4, 1), "balanced"),
    ("state", (4, 3), "same_shape"),
]


@pytest.mark.parametrize(
    ("how", "sizes", "steps"),
    [
        each if each in TYPICAL else pytest.param(*each, marks=pytest.mark.exhaustive)
        for each in itertools.product(("cursor", "state"), SIZES, ("balanced", "same_shape"))
    ],
)
def test_the_rest_of_an_epoch_is_dealt_to_any_number_of_ranks(
    put_run: PutRun, api: Api, sizes: tuple[int, ...], how: str, steps: str
) -> None:
    put_run(world_size=sizes[0], batch_size=4, lockstep=2, steps=steps)
    stats = api.get("/v1/runs/run/stats")
    num_planned = stats["num_batches"] * 4
    ids = drive(api, "run", sizes[0], 3)
    left_out = 0
    for number, world_size in enumerate(sizes[1:]):
        resume = "cursor" if how == "cursor" else state(api)
        before = state(api)
        session = api.session("run", f"s{number}", world_size=world_size, resume=resume)
        assert session["cursor"] == {"epoch": 0, "step": before["step"]}
        assert session == api.session("run", f"s{number}", world_size=world_size, resume=resume)
        assert state(api) == {**before, "world_size": world_size, "start": session["generation_id"]}
        left_out = session["left_out_batches"]
        is_last = number == len(sizes) - 2
        ids += drive(api, "run", world_size, None if is_last else 2)
    assert set(Counter(ids).values()) == {1}
    assert len(ids) + left_out * 4 == num_planned
    assert api.cursors("run") == [(1, 0)] * sizes[-1]
    assert set(Counter(drive(api, "run", sizes[-1])).values()) == {1}


def test_a_rest_that_is_less_than_a_step_is_rolled_over_and_told(put_run: PutRun, api: Api) -> None:
    num_batches = put_run(world_size=1, lockstep=1)["num_steps"]
    lease = api.lease("run", 0)["lease"]
    api.ack("run", 0, lease, 0, num_batches - 3)
    session = api.session("run", "s", world_size=4)
    assert session["cursor"] == session["origin"] == {"epoch": 1, "step": 0}
    assert (session["left_out_batches"], session["rolled_over_batches"]) == (2, 2)
    assert (session["origin_lockstep"], session["lockstep"]) == (4, 4)


def test_another_start_than_the_states_tells_how_much_the_state_had_left(put_run: PutRun, api: Api) -> None:
    """Under a name that was used before: a client sees that continuing there would lose them."""
    num_batches = put_run(world_size=1, lockstep=1)["num_steps"]
    late = {**state(api), "step": num_batches - 10, "offset": num_batches - 10}
    api.session("run", "s", world_size=4, resume={**late, "step": num_batches, "offset": num_batches})
    again = api.session("run", "s", world_size=4, resume=late)
    assert (again["rolled_over_batches"], again["left_out_batches"]) == (10, 0)
    assert again["cursor"] == {"epoch": 1, "step": 0}
    other = api.session("run", "t", world_size=4, resume=late)
    assert (other["rolled_over_batches"], other["left_out_batches"]) == (None, 2)
    assert (other["origin_lockstep"], other["lockstep"]) == (1, 4)


@pytest.mark.parametrize("planner", ["line", "novelai"])
def test_the_state_of_a_run_is_a_checkpoint(put_run: PutRun, api: Api, planner: str) -> None:
    put_run(planner=planner)
    drive(api, "run", 2, 5)
    saved = state(api)
    after = [api.get("/v1/runs/run/batches", epoch=0, step=5, rank=rank, count=30) for rank in range(2)]
    drive(api, "run", 2, 4)
    session = api.session("run", "back", resume=saved)
    assert session["cursor"] == {"epoch": 0, "step": 5}
    assert state(api) == {**saved, "start": session["generation_id"]}
    for rank in range(2):
        lease = api.lease("run", rank)["lease"]
        assert api.next("run", rank, lease, count=30)["batches"] == after[rank]["batches"]


def test_novelai_keeps_its_world_size_within_an_epoch(put_run: PutRun, api: Api) -> None:
    num_steps = put_run(planner="novelai")["num_steps"]
    drive(api, "run", 2, 5)
    for more in ({"resume": "cursor"}, {"resume": state(api)}):
        assert api.session("run", "s", 422, world_size=3, **more)["field"] == "world_size"
    assert api.get("/v1/runs/run")["generation"] == 1
    assert api.cursors("run") == [(0, 5), (0, 5)]
    end = {**state(api), "step": num_steps, "offset": 2 * num_steps}
    assert api.session("run", "end", world_size=3, resume=end)["cursor"] == {"epoch": 1, "step": 0}
    assert api.session("run", "start", world_size=4, resume="start")["cursor"] == {"epoch": 0, "step": 0}


@pytest.mark.parametrize(
    ("change", "status", "what"),
    [
        ({"fingerprint": "0" * 64}, 409, "plan_mismatch"),
        *(({"offset": offset}, 422, "resume.offset") for offset in (10**6, 0, 4)),
        *(({"step": step}, 422, "resume.offset") for step in (10**6, 0)),
        *(({"epoch": epoch}, 422, "resume.epoch") for epoch in (5, 4, -1, 2**40)),
        ({"world_size": 0}, 422, "resume.world_size"),
        ({"step": "5"}, 422, "resume.step"),
        ({"more": 1}, 422, "resume.more"),
        ({"run": None}, 422, "resume.run"),
    ],
)
def test_a_state_that_is_none_moves_nothing(
    steady: Api, change: dict[str, Any], status: int, what: str
) -> None:
    before = steady.get("/v1/runs/short")
    problem = steady.session("short", "s", status, resume={**before["state"], **change})
    assert what in (problem["code"], problem.get("field"))
    assert steady.get("/v1/runs/short") == before


def test_an_epoch_that_can_not_be_planned_fences_nobody(put_run: PutRun, api: Api) -> None:
    put_run(planner="novelai")
    lease = api.lease("run", 0)["lease"]
    far = {**state(api), "epoch": 10**6}
    assert api.session("run", "far", 422, resume=far)["code"] == "invalid"
    assert api.get("/v1/runs/run")["generation"] == 1
    assert api.ack("run", 0, lease, 0, 0)["cursor"] == {"epoch": 0, "step": 1}
    assert api.session("run", "far")["generation"] == 2  # the name was not used up


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "session"),
        ({"session": ""}, "session"),
        ({"session": "x" * 257}, "session"),
        ({"session": 1}, "session"),
        ({"session": "s", "world_size": 0}, "world_size"),
        ({"session": "s", "world_size": 16_385}, "world_size"),
        ({"session": "s", "world_size": 16_000}, "world_size"),
        ({"session": "s", "resume": "end"}, "resume"),
        ({"session": "s", "resume": {}}, "resume.run"),
        ({"session": "s", "resume": None}, "resume"),
        ({"session": "s", "other": 1}, "other"),
    ],
)
def test_a_session_that_is_wrong(steady: Api, body: dict[str, Any], field: str) -> None:
    assert steady.post("/v1/runs/run/sessions", body, 422)["field"] == field
    assert steady.get("/v1/runs/run")["generation"] == 1


@on_both_stores
def test_names_of_sessions_and_holders_are_any_text(put_run: PutRun, api: Api) -> None:
    generation = put_run()["generation"]
    for name in ("a b", "ü → x", "-", "+x", " ", "1 2 3 4 5 6", "x" * 256, "\u0000", "a\nb"):
        generation += 1
        assert api.session("run", name)["generation"] == generation
        assert api.session("run", name)["generation"] == generation
        assert api.get("/v1/runs/run")["session"] == name
        lease = api.lease("run", 1, name, session=name)["lease"]
        assert api.lease("run", 1, name)["lease"] == lease
        assert api.get("/v1/runs/run/ranks")["ranks"][1]["holder"] == name
