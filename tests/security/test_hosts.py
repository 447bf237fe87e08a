"""Without a token, ``Host`` and origin are checked: any page may use a browser on the operator's machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bucketline_service.http import Tokens
from tests.checked import Api
from tests.server import ServerProcess
from tests.worlds import SMALL, World

OWN = [
    {"Host": "localhost"},
    {"Host": "localhost:7700"},
    {"Host": "LocalHost.:7700"},
    {"Host": "bucketline.localhost"},
    {"Host": "127.0.0.1:1"},
    {"Host": "127.8.9.1"},
    {"Host": "[::1]:7700"},
    {"Host": "[::1]"},
    {"Host": "proxy.example"},
    {"Host": "Proxy.Example:443"},
    {"Origin": "http://localhost:7700"},
    {"Origin": "http://[::1]:7700"},
    {"Origin": "https://proxy.example"},
    {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"},
    {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
]
ELSE = [
    {"Host": "evil.example"},
    {"Host": "evil.example:7700"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost.evil.example"},
    {"Host": "notlocalhost"},
    {"Host": "evil.example:80@localhost"},
    {"Host": "localhost:80.evil.example"},
    {"Host": "0.0.0.0:7700"},
    {"Host": "[::]:7700"},
    {"Host": "192.168.1.5:7700"},
    {"Host": "169.254.169.254"},
    {"Host": "::1"},
    {"Host": ""},
    {"Host": "proxy.example.evil.example"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost.evil.example:7700"},
    {"Origin": "null"},
    {"Origin": "file://"},
    {"Origin": "chrome-extension://localhostlocalhost"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Sec-Fetch-Site": "cross-site"},
]
PATHS = [
    ("GET", "/v1/runs"),
    ("GET", "/v1/maps/small"),
    ("HEAD", "/v1/runs/run"),
    ("PUT", "/v1/maps/other"),
    ("PUT", "/v1/runs/other"),
    ("POST", "/v1/runs/run/sessions"),
    ("POST", "/v1/runs/run/ranks/0/lease"),
    ("POST", "/v1/previews"),
    ("DELETE", "/v1/maps/small"),
    ("DELETE", "/v1/runs/run"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/docs-assets/swagger-ui.css"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("hosts")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    yield world
    world.close()


@pytest.fixture(scope="module")
def api(world: World) -> Api:
    api = world.replica(allowed_hosts=("proxy.example:8080",)).api
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", {"map": "small", "world_size": 2, "batch_size": 8}, 201)
    return api


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_who_asks_this_machine_is_answered(api: Api, headers: dict[str, str]) -> None:
    api.ask("GET", "/v1/runs", 200, headers=headers)
    lease = api.lease("run", 0)["lease"]
    api.ask("POST", "/v1/runs/run/ranks/0/next", 200, json={"lease": lease}, headers=headers)


@pytest.mark.parametrize("headers", ELSE, ids=str)
def test_who_asks_another_host_or_from_anothers_page_is_not(api: Api, headers: dict[str, str]) -> None:
    lease = api.lease("run", 0)["lease"]
    for method, path, body in (
        ("GET", "/v1/runs", {}),
        ("POST", "/v1/runs/run/ranks/0/next", {"json": {"lease": lease}}),
    ):
        problem = api.ask(method, path, 421, headers=headers, **body).json()
        assert problem["code"] == "misdirected"
        for remedy in ("BUCKETLINE_WORKER_TOKEN", "--allowed-hosts", "localhost"):
            assert remedy in problem["detail"]


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_nothing_at_all_is_answered_or_done(api: Api, method: str, path: str) -> None:
    before = api.get("/v1/runs"), api.get("/v1/maps")
    response = api._send(method, path, headers={"Host": "evil.example"})
    assert response.status_code == 421
    assert (api.get("/v1/runs"), api.get("/v1/maps")) == before


def test_two_hosts_are_both_looked_at(api: Api) -> None:
    for hosts in (("localhost", "evil.example"), ("evil.example", "localhost")):
        api.ask("GET", "/v1/runs", 421, headers=[("Host", host) for host in hosts])


def test_a_refusal_is_counted(api: Api) -> None:
    api.ask("GET", "/v1/runs", 421, headers={"Host": "evil.example"})
    assert 'route="unmatched",status="421"' in api.ask("GET", "/metrics").text


def test_where_tokens_are_asked_for_any_name_will_do(world: World) -> None:
    api = world.replica(tokens=Tokens(frozenset({"w"}), frozenset({"o"}))).api
    for headers in ELSE:
        api.ask("GET", "/healthz", 200, headers=headers)
        api.ask("GET", "/v1/runs", 401, headers=headers)
        api.ask("GET", "/v1/runs", 200, headers={**headers, "Authorization": "Bearer w"})


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "text/json"]
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/runs/run/sessions", '{"session": "forged", "resume": "start"}'),
        ("/v1/runs/run/ranks/0/lease", '{"holder": "forged"}'),
        ("/v1/runs/run/ranks/0/next", '{"lease": 1}'),
        ("/v1/previews", '{"map": "small", "specs": [{"world_size": 1, "batch_size": 1}]}'),
    ],
)
def test_what_a_page_may_send_without_asking_first_is_no_json(
    api: Api, path: str, body: str, content_type: str | None
) -> None:
    before = api.get("/v1/runs"), api.get("/v1/runs/run/ranks")
    headers = {} if content_type is None else {"Content-Type": content_type}
    problem = api.ask("POST", path, 422, content=body, headers=headers).json()
    assert problem["field"] == "body"
    assert "Content-Type: application/json" in problem["detail"]
    assert (api.get("/v1/runs"), api.get("/v1/runs/run/ranks")) == before


def test_a_page_is_not_told_that_it_may_ask(api: Api) -> None:
    asked = {"Access-Control-Request-Method": "PUT", "Origin": "http://localhost:3000"}
    response = api.ask("OPTIONS", "/v1/runs/run", 405, headers=asked)
    assert not [name for name in response.headers if name.startswith("access-control-")]


def test_a_served_coordinator_has_names_by_its_setting(tmp_path: Path) -> None:
    with closing(ServerProcess(tmp_path, "--allowed-hosts", "proxy.example, other.example:80")) as server:
        send = server.api()._send
        for host, status in (("other.example:8080", 200), ("PROXY.example", 200), ("evil.example", 421)):
            assert send("GET", "/readyz", headers={"Host": host}).status_code == status
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:  # haproxy's checks are HTTP/1.0
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            assert connection.recv(64).startswith(b"HTTP/1.1 200 ")
