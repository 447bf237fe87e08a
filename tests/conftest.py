"""Fixtures for all tests: a real Redis, shared or of one's own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.redis_server import RedisServer, ServerMissingError


def _server() -> RedisServer:
    try:
        return RedisServer()
    except ServerMissingError as exc:
        if os.environ.get("CI") or os.environ.get("BUCKETLINE_TEST_REDIS"):
            pytest.fail(str(exc))
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for the whole session: use names of your own, and leave it running and unlimited."""
    with _server() as server:
        yield server


@pytest.fixture
def own_redis_server() -> Iterator[RedisServer]:
    """A server for this test alone: kill it, pause it, fill it."""
    with _server() as server:
        yield server
