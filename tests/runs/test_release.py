"""A store whose runs another release has planned: they are refused and reported, and nothing of them is changed."""

from __future__ import annotations

from typing import Any

import pytest

from bucketline_service.plans import fingerprint
from tests.checked import Api
from tests.worlds import SMALL, World

pytestmark = pytest.mark.parametrize("world", ["sqlite"], indirect=True)

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
PLACE = {"epoch": 0, "step": 0, "rank": 0}


@pytest.fixture
def before(world: World) -> dict[str, Any]:
    """Of run ``run``, of which a rank has a lease, as the release before this one told of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint, "VERSION", fingerprint.VERSION - 1)
        api = world.replica().api
        api.put_csv("small", SMALL, 201)
        api.put("/v1/runs/run", SPEC, 201)
        lease = api.lease("run", 0)["lease"]
        assert api.next("run", 0, lease)["batches"]
        told: dict[str, Any] = api.get("/v1/runs/run")
    return {**told, "lease": lease}


@pytest.fixture
def api(before: dict[str, Any], world: World) -> Api:
    return world.replica().api


ASKED = [
    ("PUT", "", SPEC),
    ("POST", "/sessions", {"session": "s", "world_size": 2, "resume": "cursor"}),
    ("POST", "/ranks/0/lease", {"holder": "me"}),
    ("GET", "/stats", None),
    ("GET", "/ranks", None),
    ("GET", "/images/7", None),
    ("GET", "/batches?epoch=0&step=0&rank=0", None),
    ("GET", "/ledger?from=0&to=0", None),
    ("GET", "/figures/buckets", None),
]


def test_all_that_hangs_on_its_plan_is_refused(api: Api, before: dict[str, Any]) -> None:
    for method, path, body in ASKED:
        problem = api.ask(method, f"/v1/runs/run{path}", 409, **({"json": body} if body else {})).json()
        assert problem["code"] == "plan_mismatch", path
        assert (problem["given"], problem["differs"]) == (before["fingerprint"], ["version"])
        assert "another release" in problem["detail"]
        now = api.get("/v1/runs/run")
        assert (now["status"], now["detail"], now["state"]) == ("failed", problem["detail"], None)
    next_problem = api.next("run", 0, before["lease"], 409)
    assert (next_problem["code"], next_problem["detail"]) == ("plan_mismatch", now["detail"])
    assert [run["status"] for run in api.get("/v1/runs")["runs"]] == ["failed"]


def test_the_other_release_takes_it_up_again(
    api: Api, before: dict[str, Any], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.put("/v1/runs/run", SPEC, 409)
    api.lease("run", 0, status=409)
    monkeypatch.setattr(fingerprint, "VERSION", fingerprint.VERSION - 1)
    old = world.replica().api
    told = old.get("/v1/runs/run")
    assert told == {name: before[name] for name in told}
    assert old.next("run", 0, before["lease"])["batches"]


def test_what_its_detail_advises(api: Api, before: dict[str, Any]) -> None:
    for step in ("delete the run", "put it again", "resume: start", "begins at epoch 0", "refuses"):
        assert step in api.get("/v1/runs/run")["detail"]
    api.ask("DELETE", "/v1/runs/run?force=true", 204)
    api.put("/v1/runs/run", SPEC, 201)
    refused = api.session("run", "s", 409, resume=before["state"])
    assert (refused["code"], refused["differs"]) == ("plan_mismatch", ["version"])
    assert api.session("run", "s", resume="start")["cursor"] == {"epoch": 0, "step": 0}
    assert api.get("/v1/runs/run/batches", **PLACE)["batches"]
