from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bucketline_service.store.port import LEASE_STRIDE
from tests.checked import Api
from tests.http.test_sessions import on_both_stores

PutRun = Callable[..., dict[str, Any]]


@on_both_stores
def test_the_same_holder_gets_the_same_lease_and_another_fences_it(put_run: PutRun, api: Api) -> None:
    put_run()
    first = api.lease("run", 0, "a")
    assert api.lease("run", 0, "a") == first
    api.ack("run", 0, first["lease"], 0, 2)
    second = api.lease("run", 0, "b")
    assert second["lease"] > first["lease"]
    assert second["cursor"] == {"epoch": 0, "step": 3}
    for more in ({}, {"ack": {"epoch": 0, "step": 5}}, {"ack": {"epoch": 0, "step": 10**6}, "generation": 1}):
        problem = api.next("run", 0, first["lease"], 409, **more)
        assert problem["code"] == "fenced"
    assert api.cursors("run") == [(0, 3), (0, 0)]
    third = api.lease("run", 0, "a")
    assert third["lease"] > second["lease"]
    assert api.next("run", 0, second["lease"], 409)["code"] == "fenced"


def test_the_lease_of_another_rank(put_run: PutRun, api: Api) -> None:
    put_run()
    lease = api.lease("run", 1)["lease"]
    for more in ({}, {"ack": {"epoch": 0, "step": 0}}, {"ack": {"epoch": 0, "step": 0}, "generation": 1}):
        problem = api.next("run", 0, lease, 409, **more)
        assert problem["code"] == "fenced"
        assert "belongs to rank 1" in problem["detail"]
    assert api.cursors("run") == [(0, 0), (0, 0)]


@pytest.mark.parametrize("lease", [0, LEASE_STRIDE, 2**53 - LEASE_STRIDE])
@pytest.mark.parametrize("more", [{}, {"ack": {"epoch": 0, "step": 1}}])
def test_a_lease_that_was_never_given(steady: Api, lease: int, more: dict[str, Any]) -> None:
    before = steady.cursors("run")
    for rank in range(2):  # the first has a lease of its own
        steady.next("run", rank, lease, 409, **more)
    assert steady.cursors("run") == before


@pytest.mark.parametrize(
    ("rank", "body", "field"),
    [
        ("1", {}, "holder"),
        ("1", {"holder": ""}, "holder"),
        ("1", {"holder": 1}, "holder"),
        ("1", {"holder": "h", "session": ""}, "session"),
        ("1", {"holder": "h", "lease": 1}, "lease"),
        ("x", {"holder": "h"}, "rank"),
        ("-1", {"holder": "h"}, "rank"),
        ("16384", {"holder": "h"}, "rank"),
    ],
)
def test_a_lease_request_that_is_wrong(steady: Api, rank: str, body: dict[str, Any], field: str) -> None:
    assert steady.post(f"/v1/runs/run/ranks/{rank}/lease", body, 422)["field"] == field
    assert steady.get("/v1/runs/run/ranks")["ranks"][1]["holder"] is None
