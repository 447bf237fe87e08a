"""The headers of every answer that concern browsers."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.checked import Api
from tests.server import ServerProcess

PutRun = Callable[..., dict[str, Any]]
VALUES = {"{run}": "run", "{map}": "small", "{rank}": "0", "{id}": "3"}


def check(response: httpx.Response) -> None:
    told = response.request.method, response.request.url, response.status_code
    assert response.headers["cache-control"] == "no-store", told
    assert response.headers["x-content-type-options"] == "nosniff", told


def test_every_call_of_the_api(api: Api, put_run: PutRun) -> None:
    """Whether it succeeds or not. Deletions come last, that of a map after that of its run."""
    put_run()
    operations = api.contract.document["paths"].items()
    calls = [(method.upper(), path) for path, methods in operations for method in methods]
    assert len(calls) > 20
    statuses = set()
    for method, path in sorted(calls, key=lambda call: (call[0] == "DELETE", "/maps/" in call[1])):
        path = path.replace("{figure}", "sizes" if "/maps/" in path else "ranks")
        for name, value in VALUES.items():
            path = path.replace(name, value)
        query = "?epoch=0&step=0&rank=0" if path.endswith("/batches") else ""
        responses = [api.ask(method, f"{path}?misspelt=1"), api.ask(method, path + query)]
        if method == "GET":
            responses.append(api.ask("HEAD", path + query))
        for response in responses:
            check(response)
            statuses.add(response.status_code)
    assert {200, 204, 422} <= statuses


def test_next_both_ways_and_what_is_refused(api: Api, put_run: PutRun) -> None:
    put_run()
    lease = api.lease("run", 0)["lease"]
    for content_type in ("application/json", "application/json; charset=utf-8"):
        headers = {"Content-Type": content_type}
        for body, status in (({"lease": lease}, 200), ({"lease": 1}, 409), ({"lease": 0, "count": 0}, 422)):
            check(api.ask("POST", "/v1/runs/run/ranks/0/next", status, json=body, headers=headers))
    check(api.ask("GET", "/v1/nothing", 404))
    check(api.ask("PATCH", "/v1/runs", 405))
    check(api.ask("GET", "/v1/runs", 421, headers={"Host": "evil.example"}))
    check(api.ask("POST", "/v1/runs/run/sessions", 413, content=b" " * 70_000))


def test_what_is_refused_before_the_app_hears_of_it(tmp_path: Path) -> None:
    with closing(ServerProcess(tmp_path)) as server:
        port = int(server.url.rpartition(":")[2])
        long = b"GET /v1/runs HTTP/1.1\r\nX: " + b"x" * 70_000
        for request, status in ((b"NONSENSE\r\n\r\n", b"400"), (long, b"431")):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(request)
                answer = connection.makefile("rb").read()
            head, _, body = answer.partition(b"\r\n\r\n")
            assert status in head.partition(b"\r\n")[0]
            headers = dict(re.findall(rb"(?m)^([\w-]+): (.*?)\r?$", head.lower()))
            assert (headers[b"cache-control"], headers[b"x-content-type-options"]) == (
                b"no-store",
                b"nosniff",
            )
            assert int(headers[b"content-length"]) == len(body)


@pytest.mark.parametrize(
    "path", ["/docs", "/openapi.json", "/docs-assets/swagger-ui-bundle.js", "/docs-assets/favicon.png"]
)
def test_the_docs_are_what_they_say(shared_api: Api, path: str) -> None:
    response = shared_api._send("GET", path)
    assert response.status_code == 200
    assert response.headers["x-content-type-options"] == "nosniff"
    assert shared_api._send("GET", "/redoc").status_code == 404
