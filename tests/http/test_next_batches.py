"""``next`` has two ways through the app, and one answer: what the short one answers over a real socket is held against
an app that does not have it."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import orjson
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bucketline_service.http import ApiSettings, Tokens, connection_limits, create_app
from bucketline_service.http.middleware import MAX_WORKER_BYTES
from bucketline_service.http.routes.next_batches import MAX_BYTES, Shortcut
from bucketline_service.plans import build_checkpoint
from bucketline_service.runs import registry
from tests.redis_server import RedisServer
from tests.server import Replica
from tests.worlds import SMALL, World

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
NEXT = "/v1/runs/run/ranks/0/next"
JSON = {"Content-Type": "application/json"}
OPERATOR = {"Authorization": "Bearer operator"}


class Passed:
    """Stands behind the short way, and counts what comes so far: what took the long way."""

    def __init__(self, app: ASGIApp, requests: list[str]) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._requests.append(scope["path"])
        await self._app(scope, receive, send)


class Doors:
    """One coordinator behind two apps, with the short way and without it, each on a socket of the server's own
    protocol."""

    def __init__(self, replica: Replica, **settings: Any) -> None:
        self.api = replica.api
        self._passed: list[str] = []
        api_settings = ApiSettings(replica.uploads, **settings)
        self.short = create_app(replica.coordinator, api_settings, "test")
        without = create_app(replica.coordinator, api_settings, "test")
        place = [each.cls for each in self.short.user_middleware].index(Shortcut)  # type: ignore[arg-type]
        self.short.user_middleware.insert(place + 1, Middleware(Passed, self._passed))
        del without.user_middleware[place]
        self._replica = replica
        self._servers: list[tuple[uvicorn.Server, Any]] = []
        self._clients = [httpx.Client(base_url=self._serve(app)) for app in (self.short, without)]

    def _serve(self, app: FastAPI) -> str:
        bound = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, http=connection_limits.protocol(60.0), lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        self._servers.append((server, self._replica.start(server.serve([bound]))))
        return "http://{}:{}".format(*bound.getsockname())

    def ask(self, path: str, body: bytes, way: str, **headers: str | bytes) -> httpx.Response:
        """The answer, which both apps give. ``way``: which one it went where there are both."""
        self._passed.clear()
        with_it, without = (
            client.post(path, content=body, headers={**JSON, **headers}) for client in self._clients
        )
        assert (with_it.status_code, with_it.content) == (without.status_code, without.content)
        assert _lasting(with_it) == _lasting(without)
        assert ("long" if self._passed else "short") == way
        return with_it

    def send_raw(self, body: Sequence[bytes], *headers: tuple[str, str]) -> list[tuple[int, bytes]]:
        """What both answer to pieces of a body in chunks, and to headers that may stand there twice."""
        return [self._sent_raw(client, body, headers) for client in self._clients]

    def _sent_raw(
        self, client: httpx.Client, body: Sequence[bytes], headers: tuple[tuple[str, str], ...]
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=60)
        connection.putrequest("POST", NEXT)
        for name, value in (*headers, ("Transfer-Encoding", "chunked")):
            connection.putheader(name, value)
        connection.endheaders(iter(body), encode_chunked=True)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    def told(self, messages: list[Message], way: str) -> tuple[int, bytes]:
        """Status and body of the answer to these very messages, which go that way."""
        self._passed.clear()
        left, said = iter(messages), list[Message]()

        async def receive() -> Message:
            return next(left, {"type": "http.disconnect"})

        async def send(message: Message) -> None:
            said.append(message)

        path = {"path": NEXT, "raw_path": NEXT.encode(), "root_path": "", "query_string": b""}
        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        about = {
            "type": "http",
            "method": "POST",
            "scheme": "http",
            "http_version": "1.1",
            "headers": headers,
        }
        self._replica.start(self.short({**about, **path}, receive, send)).result()
        assert ("long" if self._passed else "short") == way
        return said[0]["status"], b"".join(each.get("body", b"") for each in said)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for server, serving in self._servers:
            server.should_exit = True
            serving.result()


def _lasting(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name != "date"}


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """Without tokens, and with run ``run``."""
    folder = tmp_path_factory.mktemp("doors")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    doors = Doors(world.replica())
    doors.api.put_csv("small", SMALL, 201)
    doors.api.put("/v1/runs/run", SPEC, 201)
    yield doors
    doors.close()
    world.close()


@pytest.fixture
def lease(doors: Doors) -> int:
    found: int = doors.api.lease("run", 0)["lease"]
    return found


@pytest.mark.parametrize(
    ("more", "status", "way"),
    [
        ({}, 200, "short"),
        ({"count": 5}, 200, "short"),
        ({"count": 1024}, 200, "short"),
        ({"ack": {"epoch": 0, "step": 3}}, 200, "short"),
        ({"ack": {"epoch": 0, "step": 3}, "count": 2, "generation": 1}, 200, "short"),
        ({"ack": {"epoch": 0, "step": 1}}, 200, "short"),  # an older one: nothing goes back
        ({"lease": 5, "generation": 9}, 409, "short"),
        ({"from": {"epoch": 7, "step": 0}}, 200, "short"),
        ({"ack": {"epoch": 0, "step": 10**6}}, 422, "short"),
        ({"from": {"epoch": 0, "step": 10**6}}, 422, "short"),
        ({"include": ["crop", "original_size"], "count": 3}, 200, "short"),
        ({"include": ["crops"]}, 422, "long"),
        ({"include": "crop"}, 422, "long"),
        ({"count": 0}, 422, "long"),
        ({"count": 1025}, 422, "long"),
        ({"count": 1.0}, 422, "long"),
        ({"count": "1"}, 422, "long"),
        ({"ack": {"epoch": 0}}, 422, "long"),
        ({"begin": {"epoch": 0, "step": 0}}, 422, "long"),
        ({"misspelt": 1}, 422, "long"),
        ({"lease": 5}, 409, "short"),
        ({"lease": 2**60}, 422, "long"),
        ({"lease": None}, 422, "long"),
    ],
)
def test_what_is_asked_well_or_badly(
    doors: Doors, lease: int, more: dict[str, Any], status: int, way: str
) -> None:
    body = orjson.dumps({"lease": lease, **more})
    assert doors.ask(NEXT, body, way).status_code == status


@pytest.mark.parametrize(
    ("path", "status", "way"),
    [
        ("/v1/runs/none/ranks/0/next", 404, "short"),
        ("/v1/runs/run/ranks/1/next", 409, "short"),
        ("/v1/runs/run/ranks/7/next", 404, "short"),
        ("/v1/runs/run/ranks/007/next", 404, "short"),
        ("/v1/runs/run/ranks/99999/next", 422, "long"),
        ("/v1/runs/run/ranks/-1/next", 422, "long"),
        ("/v1/runs/run/ranks/x/next", 422, "long"),
        ("/v1/runs/r%75n/ranks/0/next", 200, "short"),
        ("/v1/runs/r%0An/ranks/0/next", 404, "short"),
        ("/v1/runs/run/ranks/0/next/", 404, "long"),
        ("/v1/runs/run/ranks/0/next?count=2", 422, "long"),
    ],
)
def test_paths(doors: Doors, lease: int, path: str, status: int, way: str) -> None:
    assert doors.ask(path, orjson.dumps({"lease": lease}), way).status_code == status


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"lease": 1', b"\xff", b'{"lease": NaN}', b"1" * MAX_BYTES]
)
def test_bodies_that_are_none(doors: Doors, body: bytes) -> None:
    assert doors.ask(NEXT, body, "long").status_code == 422


def test_a_name_twice_is_read_alike(doors: Doors, lease: int) -> None:
    """It is refused, which the long way says."""
    for body in (
        b'{"lease": 5, "lease": %d}' % lease,
        b'{"lease": %d, "ack": {"epoch": 0, "epoch": 0, "step": 1}}' % lease,
    ):
        assert doors.ask(NEXT, body, "long").status_code == 422


def test_a_long_body_is_as_good_as_a_short_one_and_one_too_large_is_not(doors: Doors, lease: int) -> None:
    body = orjson.dumps({"lease": lease})
    short = doors.ask(NEXT, body, "short")
    assert doors.ask(NEXT, body.ljust(MAX_BYTES), "short").content == short.content
    assert doors.ask(NEXT, body.ljust(MAX_BYTES + 1), "long").content == short.content
    assert doors.ask(NEXT, body.ljust(MAX_WORKER_BYTES), "long").content == short.content
    assert doors.ask(NEXT, body.ljust(MAX_WORKER_BYTES + 1), "long").status_code == 413


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("application/problem+json", 200),
        ("text/plain", 422),
        ("", 422),
    ],
)
def test_other_content_types(doors: Doors, lease: int, content_type: str, status: int) -> None:
    body = orjson.dumps({"lease": lease})
    given = {"Content-Type": content_type}
    assert doors.ask(NEXT, body, "long", **given).status_code == status


def test_a_run_that_is_planned(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, allocate = threading.Event(), build_checkpoint._allocate

    def wait_and_allocate(*arguments: Any) -> None:
        assert go_on.wait(60)
        allocate(*arguments)

    monkeypatch.setattr(build_checkpoint, "_allocate", wait_and_allocate)
    monkeypatch.setattr(registry, "WAIT_FOR_PLAN_S", 0.0)
    folder = tmp_path_factory.mktemp("planned")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    doors = Doors(world.replica())
    doors.api.put_csv("small", SMALL, 201)
    doors.api.put("/v1/runs/run", SPEC, 202)
    answer = doors.ask(NEXT, b'{"lease": 1}', "short")
    assert (answer.status_code, answer.json()["code"]) == (503, "planning")
    go_on.set()
    doors.close()
    world.close()


def test_a_store_that_is_gone(
    own_redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world = World(own_redis_server.url, tmp_path_factory.mktemp("gone"))
    doors = Doors(world.replica(timeout_s=5.0))
    doors.api.put_csv("small", SMALL, 201)
    doors.api.put("/v1/runs/run", SPEC, 201)
    own_redis_server.kill()
    answer = doors.ask(NEXT, b'{"lease": 1, "ack": {"epoch": 0, "step": 0}}', "short")
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    doors.close()
    world.close()


# --- bodies as networks cut them -----------------------------------------------------------------------------


def cut(body: bytes, where: str) -> list[bytes]:
    at = len(body) // 2
    pieces = {
        "once": [body],
        "in two": [body[:at], body[at:]],
        "bytes": [body[i : i + 1] for i in range(len(body))],
    }
    return pieces[where]


CUTS = ["once", "in two", "bytes"]


@pytest.mark.parametrize("where", CUTS)
def test_a_body_in_chunks(doors: Doors, lease: int, where: str) -> None:
    good = doors.ask(NEXT, orjson.dumps({"lease": lease}), "short")
    header = ("Content-Type", "application/json")
    assert doors.send_raw(cut(orjson.dumps({"lease": lease}), where), header) == [(200, good.content)] * 2
    (status, told), again = doors.send_raw(cut(b'{"lease": "x"}', where), header)
    assert (status, (status, told)) == (422, again)


@pytest.mark.parametrize("end", [b"", None], ids=["with the last piece", "in a message of its own"])
@pytest.mark.parametrize("where", CUTS)
def test_a_body_in_several_messages(doors: Doors, lease: int, where: str, end: bytes | None) -> None:
    """As the server gives them, which joins what has come by then: here they are apart for certain."""
    for asked, way, status in (
        ({"lease": lease}, "short", 200),
        ({"lease": 5}, "short", 409),
        ({"lease": lease, "count": 0}, "long", 422),
        ({"lease": lease, "misspelt": "x" * MAX_BYTES}, "long", 422),
    ):
        pieces = cut(orjson.dumps(asked), where) + ([b""] if end is None else [])
        messages = [{"type": "http.request", "body": each, "more_body": True} for each in pieces]
        messages[-1]["more_body"] = False
        expected = doors.ask(NEXT, orjson.dumps(asked), way)
        assert doors.told(messages, way) == (status, expected.content)


def test_a_caller_that_is_gone_amid_its_body_has_moved_nothing(doors: Doors, lease: int) -> None:
    body = orjson.dumps({"lease": lease, "ack": {"epoch": 5, "step": 0}})
    before = doors.api.cursors("run")
    doors.told(
        [{"type": "http.request", "body": body, "more_body": True}, {"type": "http.disconnect"}], "long"
    )
    assert doors.api.cursors("run") == before


# --- tokens --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """With tokens and a run."""
    folder = tmp_path_factory.mktemp("guarded")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    guarded = Doors(world.replica(), tokens=Tokens(frozenset({"worker"}), frozenset({"operator"})))
    guarded.api.put_csv("small", SMALL, 201)
    guarded.api.put("/v1/runs/run", SPEC, 201)
    yield guarded
    guarded.close()
    world.close()


@pytest.mark.parametrize(
    ("header", "status", "way"),
    [
        (None, 401, "long"),
        ("Bearer wrong", 401, "long"),
        ("Basic worker", 401, "long"),
        ("Bearer", 401, "long"),
        ("Bearer worker", 200, "short"),
        ("bearer worker", 200, "short"),
        ("Bearer operator", 200, "short"),
        ("Bearer  worker", 200, "long"),
        ("Bearer wörker".encode("latin-1"), 401, "long"),
    ],
)
def test_tokens(guarded: Doors, header: str | bytes | None, status: int, way: str) -> None:
    lease = guarded.api.lease("run", 0)["lease"]
    given = {} if header is None else {"Authorization": header}
    assert guarded.ask(NEXT, orjson.dumps({"lease": lease}), way, **given).status_code == status


@pytest.mark.parametrize(("tokens", "status"), [(["worker", "wrong"], 200), (["wrong", "worker"], 401)])
def test_of_several_headers_the_first_counts_either_way(
    guarded: Doors, tokens: list[str], status: int
) -> None:
    body = [orjson.dumps({"lease": guarded.api.lease("run", 0)["lease"]})]
    headers = [("Authorization", f"Bearer {each}") for each in tokens]
    answers = guarded.send_raw(body, *JSON.items(), *headers)
    assert answers[0] == answers[1]
    assert answers[0][0] == status


def test_both_ways_are_counted_alike(world: World) -> None:
    doors = Doors(world.replica())
    api = doors.api
    api.put_csv("small", SMALL)
    api.put("/v1/runs/run", SPEC)
    lease = api.lease("run", 0)["lease"]
    doors.ask(NEXT, orjson.dumps({"lease": lease}), "short")
    doors.ask(NEXT, orjson.dumps({"lease": 5}), "short")
    route = "/v1/runs/{run}/ranks/{rank}/next"
    told = api.ask("GET", "/metrics", 200).text
    for status in (200, 409):
        assert f'bucketline_requests_total{{method="POST",route="{route}",status="{status}"}} 2.0' in told
    assert 'bucketline_fences_total{run="run"} 2.0' in told
    doors.close()
