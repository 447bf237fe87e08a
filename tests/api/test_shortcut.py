"""``next`` has two ways through the app, and one answer: a charset in the content type makes it take the long one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import orjson
import pytest

from bucketline_service.api import Tokens
from bucketline_service.api.shortcut import MAX_BYTES
from tests.checked import Api
from tests.worlds import SMALL, World

PutRun = Callable[..., dict[str, Any]]
LONG = {"Content-Type": "application/json; charset=utf-8"}
SHORT = {"Content-Type": "application/json"}
OPERATOR = {"Authorization": "Bearer operator"}


def both(api: Api, path: str, body: bytes, **headers: str | bytes) -> httpx.Response:
    """The answer, which is the same both ways."""
    short, long = (api.ask("POST", path, content=body, headers={**way, **headers}) for way in (SHORT, LONG))
    assert (short.status_code, short.content) == (long.status_code, long.content)
    assert dict(short.headers) == dict(long.headers)
    return short


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({}, 200),
        ({"count": 5}, 200),
        ({"count": 1024}, 200),
        ({"ack": {"epoch": 0, "step": 3}}, 200),
        ({"ack": {"epoch": 0, "step": 3}, "count": 2, "generation": 1}, 200),
        ({"from": {"epoch": 7, "step": 0}}, 200),
        ({"ack": {"epoch": 0, "step": 10**6}}, 422),
        ({"from": {"epoch": 0, "step": 10**6}}, 422),
        ({"include": ["crop", "original_size"], "count": 3}, 200),
        ({"include": ["crops"]}, 422),
        ({"include": "crop"}, 422),
        ({"count": 0}, 422),
        ({"count": 1025}, 422),
        ({"count": 1.0}, 422),
        ({"count": "1"}, 422),
        ({"ack": {"epoch": 0}}, 422),
        ({"begin": {"epoch": 0, "step": 0}}, 422),
        ({"misspelt": 1}, 422),
        ({"lease": 5}, 409),
        ({"lease": 2**60}, 422),
        ({"lease": None}, 422),
    ],
)
def test_what_is_asked_well_or_badly(api: Api, put_run: PutRun, more: dict[str, Any], status: int) -> None:
    put_run()
    lease = api.lease("run", 0)["lease"]
    body = orjson.dumps({"lease": lease, **more})
    assert both(api, "/v1/runs/run/ranks/0/next", body).status_code == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/runs/none/ranks/0/next", 404),
        ("/v1/runs/run/ranks/1/next", 409),
        ("/v1/runs/run/ranks/7/next", 404),
        ("/v1/runs/run/ranks/99999/next", 422),
        ("/v1/runs/run/ranks/-1/next", 422),
        ("/v1/runs/run/ranks/x/next", 422),
        ("/v1/runs/r%75n/ranks/0/next", 200),
        ("/v1/runs/run/ranks/0/next/", 404),
    ],
)
def test_paths(api: Api, put_run: PutRun, path: str, status: int) -> None:
    put_run()
    lease = api.lease("run", 0)["lease"]
    assert both(api, path, orjson.dumps({"lease": lease})).status_code == status


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"lease": 1', b"\xff", b'{"lease": NaN}', b"1" * MAX_BYTES]
)
def test_bodies_that_are_none(shared_api: Api, body: bytes) -> None:
    assert both(shared_api, "/v1/runs/run/ranks/0/next", body).status_code == 422


def test_a_long_body_is_as_good_as_a_short_one(api: Api, put_run: PutRun) -> None:
    put_run()
    body = orjson.dumps({"lease": api.lease("run", 0)["lease"]})
    short = both(api, "/v1/runs/run/ranks/0/next", body)
    assert both(api, "/v1/runs/run/ranks/0/next", body + b" " * MAX_BYTES).content == short.content


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """With tokens and a run."""
    folder = tmp_path_factory.mktemp("guarded")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    api = world.replica(tokens=Tokens(frozenset({"worker"}), frozenset({"operator"}))).api
    api.ask("PUT", "/v1/maps/small", 201, content=SMALL, headers={"Content-Type": "text/csv", **OPERATOR})
    spec = {"map": "small", "world_size": 2, "batch_size": 8}
    api.ask("PUT", "/v1/runs/run", 201, json=spec, headers=OPERATOR)
    yield api
    world.close()


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Basic worker", 401),
        ("Bearer", 401),
        ("Bearer worker", 200),
        ("bearer worker", 200),
        ("Bearer operator", 200),
        ("Bearer wörker".encode("latin-1"), 401),
    ],
)
def test_tokens(guarded: Api, header: str | bytes | None, status: int) -> None:
    lease = guarded.ask(
        "POST", "/v1/runs/run/ranks/0/lease", 200, json={"holder": "me"}, headers=OPERATOR
    ).json()
    given = {} if header is None else {"Authorization": header}
    answer = both(guarded, "/v1/runs/run/ranks/0/next", orjson.dumps({"lease": lease["lease"]}), **given)
    assert answer.status_code == status


def test_both_ways_are_counted_alike(world: World) -> None:
    replica = world.replica()
    api = replica.api
    api.put_csv("small", SMALL)
    api.put("/v1/runs/run", {"map": "small", "world_size": 2, "batch_size": 8})
    lease = api.lease("run", 0)["lease"]
    both(api, "/v1/runs/run/ranks/0/next", orjson.dumps({"lease": lease}))
    both(api, "/v1/runs/run/ranks/0/next", orjson.dumps({"lease": 5}))
    route = "/v1/runs/{run}/ranks/{rank}/next"
    told = api.ask("GET", "/metrics", 200).text
    for status in (200, 409):
        assert f'bucketline_requests_total{{method="POST",route="{route}",status="{status}"}} 2.0' in told
    assert 'bucketline_fences_total{run="run"} 2.0' in told
