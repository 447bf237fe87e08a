"""Malicious clients, before any token is checked: each connection is bounded, and the others are served."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from bucketline_service.http import connection_limits
from tests.server import COCO, ServerProcess
from tests.waiting import until

TIMEOUT_S = 1.0
DEADLINE_S = 30
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(
        tmp_path_factory.mktemp("slow") / "data", "--client-timeout-s", str(TIMEOUT_S),
        environ={"BUCKETLINE_WORKER_TOKEN": "w", "BUCKETLINE_OPERATOR_TOKEN": "o"},
    )  # fmt: skip
    yield server
    server.close()


def connect(server: ServerProcess) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=DEADLINE_S)


def rest(client: socket.socket) -> bytes:
    """What the server says until it hangs up; fails where it does not."""
    found = b""
    with suppress(ConnectionResetError):
        while piece := client.recv(65536):
            found += piece
    return found


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /hea",
        HEAD,
        b"\r\n",
        b"PUT /v1/maps/m HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer o\r\nContent-Type: text/csv\r\n"
        b"Content-Length: 1000\r\n\r\nid,width",
        b"PUT /v1/maps/m HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nid,width",
    ],
)
def test_a_client_that_falls_silent_is_let_go(server: ServerProcess, sent: bytes) -> None:
    with connect(server) as client:
        client.sendall(sent)
        rest(client)
    assert httpx.get(f"{server.url}/healthz", verify=False).status_code == 200


def test_a_head_that_comes_byte_by_byte_has_a_deadline(server: ServerProcess) -> None:
    """Each byte comes in time, but the head never ends."""
    client = connect(server)
    client.settimeout(TIMEOUT_S / 10)
    client.sendall(HEAD)
    with client, pytest.raises(OSError, match=r"reset|[Bb]roken|abort"):
        dribble(client)


def dribble(client: socket.socket) -> None:
    for _ in range(int(DEADLINE_S / (TIMEOUT_S / 10))):
        client.sendall(b"x")
        with suppress(TimeoutError):
            if client.recv(1) == b"":
                raise ConnectionResetError("reset: it has hung up")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"x" * (1 << 20),
        HEAD + b"X: " + b"x" * (1 << 20),
        HEAD + b"X: x\r\n" * (1 << 17),
        b"POST /v1/runs/r/sessions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer w\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * (1 << 20),
    ],
    ids=["line", "header", "headers", "trailer"],
)  # fmt: skip
def test_a_head_without_an_end_is_refused(server: ServerProcess, sent: bytes) -> None:
    with connect(server) as client:
        with suppress(OSError):  # it may hang up before all is sent
            client.sendall(sent)
        answer = rest(client)
    # where it hangs up while more is on its way, the answer may be lost with it
    assert answer == b"" or re.match(rb"HTTP/1.1 4(31|00|01|22) ", answer)


def test_headers_up_to_the_bound_are_taken(server: ServerProcess) -> None:
    room = connection_limits.MAX_HEAD_BYTES - 1000
    answer = httpx.get(f"{server.url}/healthz", headers={"X": "x" * room}, verify=False)
    assert answer.status_code == 200


def test_what_is_no_http_is_a_problem(server: ServerProcess) -> None:
    with connect(server) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\r\n\r\n")
        head, _, body = rest(client).partition(b"\r\n\r\n")
    assert b"400" in head.splitlines()[0]
    assert b"application/problem+json" in head
    assert b'"code": "invalid"' in body


def open_files(server: ServerProcess) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the process as Linux tells it")
def test_one_who_never_reads_is_let_go(server: ServerProcess) -> None:
    """Its answers fill all buffers on their way; it is cut off, and finds them broken off."""
    api = server.api("o")
    api.put_csv("coco", COCO.read_bytes(), 201)
    api.put("/v1/runs/run", {"map": "coco", "world_size": 1, "batch_size": 64}, 201)
    path = "/v1/runs/run/batches?epoch=0&step=0&rank=0&count=1024"
    one = len(api.ask("GET", path, 200).content)
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer o\r\n\r\n".encode()
    before = open_files(server)
    with connect(server) as client:
        client.sendall(request * connection_limits.MAX_WAITING)
        for is_served in (True, False):
            until(f"served: {is_served}", lambda served=is_served: (open_files(server) > before) == served)
        assert len(rest(client)) < one * connection_limits.MAX_WAITING


def test_requests_that_do_not_wait_for_answers_are_few(server: ServerProcess) -> None:
    request = HEAD + b"\r\n"
    with connect(server) as client:
        client.sendall(request * connection_limits.MAX_WAITING + HEAD + b"Connection: close\r\n\r\n")
        assert rest(client).count(b"HTTP/1.1 200") == connection_limits.MAX_WAITING + 1
    with connect(server) as client, suppress(OSError):
        client.sendall(request * 100_000)
        assert rest(client).count(b"HTTP/1.1 200") < 1000


def test_connections_beyond_the_bound_are_refused(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data", "--max-connections", "3")
    try:
        clients = [connect(server) for _ in range(3)]
        clients[2].sendall(HEAD + b"\r\n")  # the others are silent, and count
        assert clients[2].recv(65536).startswith(b"HTTP/1.1 503")
        for client in clients:
            client.close()
        wanted = iter(range(1000))
        while httpx.get(f"{server.url}/healthz", verify=False).status_code != 200:
            next(wanted)
    finally:
        server.close()


def test_a_process_has_no_more_connections_than_files() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert connection_limits.most_connections(1) == 1
    if hard != resource.RLIM_INFINITY:
        most = connection_limits.most_connections(2 * hard)
        assert most == max(1, hard - connection_limits.RESERVED_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
