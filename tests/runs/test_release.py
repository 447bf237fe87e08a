"""A store whose runs another release has planned: they are refused and reported, and nothing of them is changed."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from bucketline_service.plans import fingerprint
from tests.checked import Api
from tests.worlds import SMALL, World

pytestmark = pytest.mark.parametrize("world", ["sqlite"], indirect=True)

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
PLACE = {"epoch": 0, "step": 0, "rank": 0}


class Release(NamedTuple):
    """Another one: which of its planner's versions is not ours, and a spec whose plan has that version."""

    constant: str
    version: int
    spec: dict[str, Any]

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        ours = getattr(fingerprint, self.constant)
        known = [self.version if version == ours else version for version in fingerprint._VERSIONS]
        patch.setattr(fingerprint, self.constant, self.version)
        patch.setattr(fingerprint, "_VERSIONS", tuple(known))


RELEASES = {
    "of_same_shape": Release("VERSION", fingerprint.VERSION - 1, {**SPEC, "steps": "same_shape"}),
    "of_balanced": Release("VERSION_OF_STEPS", fingerprint.VERSION_OF_STEPS + 1, SPEC),
}


@pytest.fixture(params=RELEASES)
def other(request: pytest.FixtureRequest) -> Release:
    return RELEASES[request.param]


@pytest.fixture
def before(world: World, other: Release) -> dict[str, Any]:
    """Of run ``run``, of which a rank has a lease, as the other release told of it."""
    with pytest.MonkeyPatch.context() as patch:
        other.patch(patch)
        api = world.replica().api
        api.put_csv("small", SMALL, 201)
        api.put("/v1/runs/run", other.spec, 201)
        lease = api.lease("run", 0)["lease"]
        assert api.next("run", 0, lease)["batches"]
        told: dict[str, Any] = api.get("/v1/runs/run")
    return {**told, "lease": lease}


@pytest.fixture
def api(before: dict[str, Any], world: World) -> Api:
    return world.replica().api


ASKED = [
    ("POST", "/sessions", {"session": "s", "world_size": 2, "resume": "cursor"}),
    ("POST", "/ranks/0/lease", {"holder": "me"}),
    ("GET", "/stats", None),
    ("GET", "/ranks", None),
    ("GET", "/images/7", None),
    ("GET", "/batches?epoch=0&step=0&rank=0", None),
    ("GET", "/ledger?from=0&to=0", None),
    ("GET", "/figures/buckets", None),
]


def test_all_that_hangs_on_its_plan_is_refused(api: Api, before: dict[str, Any], other: Release) -> None:
    for method, path, body in [("PUT", "", other.spec), *ASKED]:
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
    api: Api, before: dict[str, Any], other: Release, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.put("/v1/runs/run", other.spec, 409)
    api.lease("run", 0, status=409)
    other.patch(monkeypatch)
    old = world.replica().api
    told = old.get("/v1/runs/run")
    assert told == {name: before[name] for name in told}
    assert old.next("run", 0, before["lease"])["batches"]


def test_what_its_detail_advises(api: Api, before: dict[str, Any], other: Release) -> None:
    for step in ("delete the run", "put it again", "resume: start", "begins at epoch 0", "refuses"):
        assert step in api.get("/v1/runs/run")["detail"]
    api.ask("DELETE", "/v1/runs/run?force=true", 204)
    api.put("/v1/runs/run", other.spec, 201)
    refused = api.session("run", "s", 409, resume=before["state"])
    assert (refused["code"], refused["differs"]) == ("plan_mismatch", ["version"])
    assert api.session("run", "s", resume="start")["cursor"] == {"epoch": 0, "step": 0}
    assert api.get("/v1/runs/run/batches", **PLACE)["batches"]
