"""Callers who hang up, over real sockets: work for them stops."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from bucketline_service.http import connection_limits
from tests.server import Replica
from tests.worlds import SMALL, World

SPEC = {"world_size": 2, "batch_size": 8, "valid_ids": "small"}
"""Asks for the map once more, each."""


class Gate:
    """Stands before every look at a map, and counts them."""

    def __init__(self, replica: Replica) -> None:
        self.num_passed = 0
        self.is_open = threading.Event()
        self.is_waited_at = threading.Event()
        maps = replica.coordinator.maps
        self._get = maps.get
        maps.get = self._passed  # type: ignore[method-assign]

    def _passed(self, name: str) -> Any:
        self.is_waited_at.set()
        self.is_open.wait()
        self.num_passed += 1
        return self._get(name)


@contextmanager
def served(replica: Replica) -> Iterator[int]:
    """The app of a replica on its own port."""
    bound = socket.create_server(("127.0.0.1", 0))
    http = connection_limits.protocol(timeout_s=60)
    server = uvicorn.Server(uvicorn.Config(replica.app, lifespan="off", http=http, log_config=None))
    serving = asyncio.run_coroutine_threadsafe(server.serve([bound]), replica._loop)
    yield bound.getsockname()[1]
    server.should_exit = True
    serving.result()


def previewing(port: int, num_specs: int) -> socket.socket:
    """A connection that has asked for previews."""
    body = json.dumps({"map": "small", "specs": [SPEC] * num_specs}).encode()
    head = "POST /v1/previews HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def test_previews_that_nobody_waits_for_leave_the_queue(world: World) -> None:
    replica = world.replica()
    replica.api.put_csv("small", SMALL, 201)
    gate = Gate(replica)

    def wait_for_gone(num: int) -> None:
        told = f'bucketline_requests_total{{method="POST",route="/v1/previews",status="400"}} {num}.0'
        while told not in replica.api.ask("GET", "/metrics").text:
            pass

    with served(replica) as port:
        first = previewing(port, 16)
        gate.is_waited_at.wait()
        for each in [previewing(port, 16) for _ in range(8)]:
            each.close()
        wait_for_gone(8)
        last = previewing(port, 1)  # behind the first, which is under way
        first.close()
        wait_for_gone(9)
        gate.is_open.set()
        answer = last.makefile("rb").read()
        last.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    # the first for its map but none of its specs, the last for its map and its spec, the others for nothing
    assert gate.num_passed == 1 + 2
