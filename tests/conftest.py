"""Fixtures for all tests: a real Redis, real sentinels and a real cluster, shared or for one test alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from tests.redis_server import RedisServer, ServerMissingError
from tests.redis_sets import ClusterSet, SentinelSet

try:
    from hypothesis import settings
except ImportError:  # the venvs of torch and of Ray do without
    pass
else:
    settings.register_profile("suite", max_examples=int(os.environ.get("BUCKETLINE_TEST_EXAMPLES", "15")))
    settings.load_profile("suite")

if hasattr(signal, "SIGHUP"):
    # a runner under nohup ignores it, and so would all that the tests start and hang up on
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # likewise a runner that a script has put into the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

T = TypeVar("T", RedisServer, SentinelSet, ClusterSet)

SOON_MS = 500
"""How long a server may be silent before the others consider it dead, if a test kills it."""


def _started(make: Callable[[], T]) -> Iterator[T]:
    try:
        with make() as servers:
            yield servers
    except ServerMissingError as exc:
        if os.environ.get("CI") or os.environ.get("BUCKETLINE_TEST_REDIS"):
            pytest.fail(str(exc))
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for the whole session: use names of your own, and leave it running and unlimited."""
    yield from _started(RedisServer)


@pytest.fixture(scope="session")
def sentinel_set() -> Iterator[SentinelSet]:
    """Also one for the whole session. Its sentinels do not replace a slow master."""
    yield from _started(SentinelSet)


@pytest.fixture(scope="session")
def cluster_set() -> Iterator[ClusterSet]:
    """Also one for the whole session."""
    yield from _started(ClusterSet)


@pytest.fixture
def own_redis_server() -> Iterator[RedisServer]:
    """A server for this test alone: kill it, pause it, fill it."""
    yield from _started(RedisServer)


@pytest.fixture
def own_sentinel_set() -> Iterator[SentinelSet]:
    """Servers for this test alone, whose sentinels soon replace a master that is silent."""
    yield from _started(lambda: SentinelSet(SOON_MS))


@pytest.fixture
def own_cluster_set() -> Iterator[ClusterSet]:
    """Nodes for this test alone; they serve their own slots whatever happens to the others."""
    yield from _started(lambda: ClusterSet(cluster_node_timeout=SOON_MS, cluster_require_full_coverage="no"))
