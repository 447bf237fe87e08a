"""``next`` has its own route in front of FastAPI's: it must read, refuse and count as all others do."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import orjson
import pytest
from starlette.types import Message

from bucketline_service.http import Tokens
from bucketline_service.http.middleware import MAX_WORKER_BYTES
from bucketline_service.plans import build_checkpoint
from bucketline_service.runs import registry
from tests.cut_bodies import messages
from tests.redis_server import RedisServer
from tests.server import Replica, ServerProcess
from tests.worlds import SMALL, World

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
NEXT = "/v1/runs/run/ranks/0/next"


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """Without tokens, and with run ``run``."""
    folder = tmp_path_factory.mktemp("next")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    replica = world.replica()
    replica.api.put_csv("small", SMALL, 201)
    replica.api.put("/v1/runs/run", SPEC, 201)
    yield replica
    world.close()


@pytest.fixture
def lease(replica: Replica) -> int:
    found: int = replica.api.lease("run", 0)["lease"]
    return found


def ask(replica: Replica, body: bytes, path: str = NEXT, **headers: str) -> httpx.Response:
    given = {"Content-Type": "application/json", **headers}
    return replica.api.ask("POST", path, content=body, headers=given)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"include": ["crops"]}, "include.0"),
        ({"include": "crop"}, "include"),
        ({"count": 0}, "count"),
        ({"count": 1025}, "count"),
        ({"count": 1.0}, "count"),
        ({"count": "1"}, "count"),
        ({"ack": {"epoch": 0}}, "ack.step"),
        ({"ack": {"epoch": 0, "step": 10**6}}, "ack.step"),
        ({"from": {"epoch": 0, "step": 10**6}}, "from.step"),
        ({"begin": {"epoch": 0, "step": 0}}, "begin"),
        ({"lease": 2**60}, "lease"),
        ({"lease": None}, "lease"),
        ({"generation_id": "a:b"}, "generation_id"),
    ],
)
def test_a_field_that_is_wrong_is_named(
    replica: Replica, lease: int, more: dict[str, Any], field: str
) -> None:
    refused = ask(replica, orjson.dumps({"lease": lease, **more}))
    assert (refused.status_code, refused.json()["field"]) == (422, field)


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        ("/v1/runs/none/ranks/0/next", 404, None),
        ("/v1/runs/run/ranks/7/next", 404, None),
        ("/v1/runs/run/ranks/1/next", 409, None),
        ("/v1/runs/run/ranks/99999/next", 422, "rank"),
        ("/v1/runs/run/ranks/x/next", 422, "rank"),
        ("/v1/runs/r%75n/ranks/000/next", 200, None),
        ("/v1/runs/r%0An/ranks/0/next", 404, None),
        ("/v1/runs/run/ranks/0/next/", 404, None),
        ("/v1/runs/run/ranks/0/next?count=2", 422, "count"),
    ],
)
def test_paths(replica: Replica, lease: int, path: str, status: int, field: str | None) -> None:
    answer = ask(replica, orjson.dumps({"lease": lease}), path)
    assert (answer.status_code, answer.json().get("field")) == (status, field)


def test_all_that_is_wrong_is_listed_the_path_first(replica: Replica) -> None:
    refused = ask(replica, b'{"lease": "x", "misspelt": 1}', "/v1/runs/run/ranks/x/next").json()
    assert [each["field"] for each in refused["errors"]] == ["rank", "lease", "misspelt"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_other_methods(replica: Replica, method: str) -> None:
    refused = replica.api.ask(method, NEXT, 405)
    assert refused.headers["allow"] == "POST"
    assert not refused.content if method == "HEAD" else refused.json()["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"lease": 1', b"\xff", b'{"lease": NaN}', b"1" * 5000, b"[" * 5000]
)
def test_bodies_that_are_no_object(replica: Replica, body: bytes) -> None:
    assert ask(replica, body).status_code == 422


def test_a_field_that_is_given_twice_is_refused(replica: Replica, lease: int) -> None:
    for body, field in (
        (b'{"lease": 5, "lease": %d}' % lease, "lease"),
        (b'{"lease": %d, "ack": {"epoch": 0, "epoch": 0, "step": 1}}' % lease, "epoch"),
    ):
        refused = ask(replica, body)
        assert (refused.status_code, refused.json()["field"]) == (422, field)


def test_a_body_may_be_as_long_as_a_workers_and_no_longer(replica: Replica, lease: int) -> None:
    body = orjson.dumps({"lease": lease})
    assert ask(replica, body.ljust(MAX_WORKER_BYTES)).content == ask(replica, body).content
    assert ask(replica, body.ljust(MAX_WORKER_BYTES + 1)).status_code == 413


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("application/problem+json", 200),
        ("application/jsonl", 422),
        ("text/json", 422),
        ("", 422),
    ],
)
def test_content_types(replica: Replica, lease: int, content_type: str, status: int) -> None:
    body = orjson.dumps({"lease": lease})
    assert ask(replica, body, **{"Content-Type": content_type}).status_code == status


def test_pages_of_other_sites_are_refused(replica: Replica, lease: int) -> None:
    refused = ask(replica, orjson.dumps({"lease": lease}), Origin="http://elsewhere.example")
    assert (refused.status_code, refused.json()["code"]) == (421, "misdirected")


def test_a_run_that_is_being_planned(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, allocate = threading.Event(), build_checkpoint._allocate

    def wait_and_allocate(*arguments: Any) -> None:
        assert go_on.wait(60)
        allocate(*arguments)

    monkeypatch.setattr(build_checkpoint, "_allocate", wait_and_allocate)
    monkeypatch.setattr(registry, "WAIT_FOR_PLAN_S", 0.0)
    world = World(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path / "data")
    replica = world.replica()
    replica.api.put_csv("small", SMALL, 201)
    assert replica.api.put("/v1/runs/run", SPEC, 202)["warnings"] is None
    answer = ask(replica, b'{"lease": 1}')
    assert (answer.status_code, answer.json()["code"]) == (503, "planning")
    go_on.set()
    world.close()


def test_a_store_that_is_gone_is_counted(own_redis_server: RedisServer, tmp_path: Any) -> None:
    world = World(own_redis_server.url, tmp_path)
    replica = world.replica(timeout_s=5.0)
    replica.api.put_csv("small", SMALL, 201)
    replica.api.put("/v1/runs/run", SPEC, 201)
    own_redis_server.kill()
    answer = ask(replica, b'{"lease": 1, "ack": {"epoch": 0, "step": 0}}')
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert "bucketline_store_errors_total 1.0" in replica.metrics.exposition().decode()
    world.close()


def test_a_defect_is_an_internal_error_and_its_traceback_is_logged(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replica = world.replica()

    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(replica.coordinator.delivery, "next", broken)
    assert replica.send("POST", NEXT, json={"lease": 1}).json()["code"] == "internal"
    assert [record.exc_info for record in caplog.records if record.msg == "request failed"] != [None]


def test_what_is_answered_is_counted_by_the_route(world: World) -> None:
    api = world.replica().api
    api.put_csv("small", SMALL)
    api.put("/v1/runs/run", SPEC)
    lease = api.lease("run", 0)["lease"]
    api.next("run", 0, lease)
    api.next("run", 0, 5, 409)
    counted = api.ask("GET", "/metrics", 200).text
    for status in (200, 409):
        series = f'method="POST",route="/v1/runs/{{run}}/ranks/{{rank}}/next",status="{status}"'
        assert f"bucketline_requests_total{{{series}}} 1.0" in counted
    assert 'bucketline_fences_total{run="run"} 1.0' in counted


# --- bodies as networks cut them -----------------------------------------------------------------------------


def answered(replica: Replica, sent: Sequence[Message]) -> tuple[int, bytes]:
    """Status and body of the answer to a request of these very messages, after which the caller is gone."""
    left, said = iter(sent), list[Message]()

    async def receive() -> Message:
        return next(left, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        said.append(message)

    path = {"path": NEXT, "raw_path": NEXT.encode(), "root_path": "", "query_string": b""}
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "scheme": "http", "http_version": "1.1", "headers": headers}
    replica.start(replica.app({**scope, **path}, receive, send)).result()
    return said[0]["status"], b"".join(each.get("body", b"") for each in said)


@pytest.mark.parametrize("form", range(9))
def test_a_body_in_several_messages(replica: Replica, lease: int, form: int) -> None:
    for body, status in (
        (orjson.dumps({"lease": lease}), 200),
        (b'{"lease": 5}', 409),
        (orjson.dumps({"lease": lease, "count": 0}), 422),
        (b" " * (MAX_WORKER_BYTES + 1), 413),
    ):
        expected = ask(replica, body)
        assert expected.status_code == status
        assert answered(replica, messages(body, form)) == (status, expected.content)


def test_a_body_byte_by_byte(replica: Replica, lease: int) -> None:
    body = orjson.dumps({"lease": lease})
    pieces: list[Message] = [
        {"type": "http.request", "body": body[i : i + 1], "more_body": True} for i in range(len(body))
    ]
    end: Message = {"type": "http.request", "body": b"", "more_body": False}
    assert answered(replica, [*pieces, end]) == (200, ask(replica, body).content)


def test_a_caller_that_is_gone_amid_its_body_has_moved_nothing(replica: Replica, lease: int) -> None:
    """Though what it has sent is whole."""
    body = orjson.dumps({"lease": lease, "ack": {"epoch": 5, "step": 0}})
    before = replica.api.cursors("run")
    answered(replica, [{"type": "http.request", "body": body, "more_body": True}])
    assert replica.api.cursors("run") == before


# --- tokens --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """With tokens and a run."""
    folder = tmp_path_factory.mktemp("guarded")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    replica = world.replica(tokens=Tokens(frozenset({"worker"}), frozenset({"operator"})))
    operator = {"Authorization": "Bearer operator"}
    replica.api.ask(
        "PUT", "/v1/maps/small", 201, content=SMALL, headers={"Content-Type": "text/csv", **operator}
    )
    replica.api.ask("PUT", "/v1/runs/run", 201, json=SPEC, headers=operator)
    yield replica
    world.close()


@pytest.mark.parametrize(
    ("tokens", "status"),
    [
        ([], 401),
        (["Bearer wrong"], 401),
        (["Basic worker"], 401),
        (["Bearer"], 401),
        (["Bearer worker"], 409),
        (["bearer worker"], 409),
        (["Bearer operator"], 409),
        (["Bearer  worker"], 409),
        (["Bearer wörker"], 401),
        (["Bearer worker", "Bearer wrong"], 409),  # of several the first counts
        (["Bearer wrong", "Bearer worker"], 401),
    ],
)
def test_tokens(guarded: Replica, tokens: list[str], status: int) -> None:
    headers = [(b"Authorization", each.encode("latin-1")) for each in tokens]
    guarded.api.ask("POST", NEXT, status, json={"lease": 1}, headers=headers)


def test_who_has_no_token_learns_nothing_more(guarded: Replica) -> None:
    for path in ("/v1/runs/none/ranks/0/next", "/v1/runs/run/ranks/x/next?count=2"):
        guarded.api.ask("POST", path, 401, content=b"{")


def test_over_a_socket_in_chunks(tmp_path: Any) -> None:
    server = ServerProcess(tmp_path)
    api = server.api()
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", SPEC, 201)
    body = orjson.dumps({"lease": api.lease("run", 0)["lease"]})
    connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=60)
    for pieces in ([body], [body[:7], body[7:]], [body[i : i + 1] for i in range(len(body))]):
        headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        connection.request("POST", NEXT, iter(pieces), headers, encode_chunked=True)
        answer = connection.getresponse()
        assert (answer.status, len(orjson.loads(answer.read())["batches"])) == (200, 1)
    connection.close()
    server.close()
