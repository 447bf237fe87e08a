"""A state of another plan is refused, with what differs."""

from __future__ import annotations

from typing import Any

import pytest

from bucketline_service.plans.fingerprint import PARTS, differences
from tests.checked import Api
from tests.worlds import SMALL

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
OTHER = SMALL.replace("\n0,512,", "\n0,513,")


def put(api: Api, run: str, **spec: Any) -> Any:
    """The run's state dict."""
    api.put("/v1/runs/" + run, {**SPEC, **spec}, 201)
    return api.get("/v1/runs/" + run)["state"]


@pytest.fixture
def one(api: Api) -> Api:
    """With a run ``run``, and two maps."""
    api.put_csv("small", SMALL, 201)
    api.put_csv("other", OTHER, 201)
    put(api, "run")
    return api


@pytest.mark.parametrize(
    ("spec", "differs", "fields"),
    [
        ({"map": "other"}, ["map"], ["map"]),
        ({"valid_ids": list(range(100))}, ["valid_ids"], ["valid_ids"]),
        pytest.param({"seed": 7}, ["spec"], ["seed"], marks=pytest.mark.exhaustive),
        ({"seed": 7, "tails": "pad", "epochs": 3}, ["spec"], ["seed", "tails"]),
        ({"world_size": 4}, ["spec"], ["lockstep"]),
        pytest.param({"batch_size": 4}, ["buckets"], ["batch_size"], marks=pytest.mark.exhaustive),
        ({"ladder": {"max_size": [512, 512]}}, ["buckets"], ["ladder"]),
        (
            {"map": "other", "batch_size": 4, "seed": 7},
            ["map", "buckets", "spec"],
            ["batch_size", "map", "seed"],
        ),
    ],
)
def test_the_error_says_what_differs(one: Api, spec: Any, differs: list[str], fields: list[str]) -> None:
    state = put(one, "saved", **spec)
    before = one.get("/v1/runs/run")
    problem = one.session("run", "s", 409, resume=state)
    assert problem["code"] == "plan_mismatch"
    assert (problem["given"], problem["expected"]) == (state["fingerprint"], before["fingerprint"])
    assert (problem["differs"], problem["fields"], problem["run"]) == (differs, fields, "saved")
    for told in (*fields, "'saved'", "resume: start"):
        assert told in problem["detail"]
    assert one.get("/v1/runs/run") == before
    # the run of that plan was deleted: the fingerprints alone still show which parts differ
    one.ask("DELETE", "/v1/runs/saved", 204)
    alone = one.session("run", "s", 409, resume=state)
    assert alone["differs"] == differs
    assert "run" not in alone
    assert "'saved'" not in alone["detail"]


def test_buckets_that_hang_on_the_images_differ_with_the_map(one: Api) -> None:
    ladder = {"kind": "fitted", "num_buckets": 3}
    put(one, "fitted", ladder=ladder)
    wide = "id,width,height\n" + "".join(f"{i},{2000 + 9 * i},700\n" for i in range(200))
    one.put_csv("wide", wide, 201)
    state = put(one, "saved", map="wide", ladder=ladder)
    problem = one.session("fitted", "s", 409, resume=state)
    assert (problem["differs"], problem["fields"]) == (["map", "buckets"], ["map"])


def test_a_map_of_the_same_content_is_the_same_plan(one: Api) -> None:
    one.put_csv("copy", SMALL, 201)
    state = put(one, "saved", map="copy", epochs=3)
    assert one.session("run", "s", resume=state)["generation"] == 2


def test_a_fingerprint_of_another_form_is_of_another_version(one: Api) -> None:
    state = one.get("/v1/runs/run")["state"]
    for given in ("0" * 64, "", "1-2", "x" * 1000):
        problem = one.session("run", "s", 409, resume={**state, "fingerprint": given})
        assert (problem["code"], problem["differs"]) == ("plan_mismatch", ["version"])
        assert "version" in problem["detail"]


def test_every_part_of_a_fingerprint_is_told_by_itself(one: Api) -> None:
    ours = one.get("/v1/runs/run")["fingerprint"]
    parts = ours.split("-")
    assert differences(ours, ours) == []
    for at, name in enumerate(PARTS):
        theirs = "-".join([*parts[:at], "f" * len(parts[at]), *parts[at + 1 :]])
        assert differences(ours, theirs) == differences(theirs, ours) == [name]
    # what tells plans apart is the last part, whatever the others say
    theirs = "-".join([*parts[:-1], "f" * 32])
    problem = one.session("run", "s", 409, resume={**one.get("/v1/runs/run")["state"], "fingerprint": theirs})
    assert (problem["code"], problem["differs"]) == ("plan_mismatch", [])


def test_a_session_that_stands_refuses_a_state_of_another_plan_as_well(one: Api) -> None:
    """A rank that has loaded another job's checkpoint does not join the start that the others have made."""
    state, other = one.get("/v1/runs/run")["state"], put(one, "saved", seed=7)
    began = one.session("run", "s", resume=state)
    assert one.session("run", "s", 409, resume=other)["code"] == "plan_mismatch"
    assert one.session("run", "s", resume=state) == began
    one.session("run", "newer", resume=state)
    assert one.session("run", "s", 409, resume=other)["code"] == "fenced"


def test_what_is_rolled_over_is_told_to_every_rank_of_a_start(one: Api) -> None:
    state = one.get("/v1/runs/run")["state"]
    num = one.get("/v1/runs/run")["num_steps"] * 2
    late = {**state, "step": num // 2 - 1, "offset": num - 2}
    answers = [one.session("run", "s", world_size=5, resume=late) for _ in range(3)]
    assert answers[0]["cursor"] == {"epoch": 1, "step": 0}
    # and the epoch that begins is planned for 5, so that it leaves none out
    assert (answers[0]["left_out_batches"], answers[0]["rolled_over_batches"]) == (2, 2)
    assert answers[1:] == answers[:1] * 2
