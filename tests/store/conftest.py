"""Every test that asks for ``url``, ``store`` or ``job`` runs once for each store in ``STORES``."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bucketline_service.store import Store, open_store
from tests.store.jobs import Job

STORES: dict[str, Callable[[pytest.FixtureRequest, Path], str]] = {
    "sqlite": lambda _, tmp_path: f"sqlite:///{tmp_path}/state.db",
    "redis": lambda request, _: request.getfixturevalue("redis_server").url,
    "redis-unix": lambda request, _: request.getfixturevalue("redis_server").unix_url,
    "sentinel": lambda request, _: request.getfixturevalue("sentinel_set").url,
    "cluster": lambda request, _: request.getfixturevalue("cluster_set").url,
}
"""A store's name, and its URL. A further store is a further line."""

TIMEOUT_S = 30.0
"""Long, so that a busy machine makes no test fail."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


OVER_UNIX = {"test_runs", "test_generations", "test_leases", "test_commits", "test_survival"}
"""Modules that ask the Redis over its socket file as well: every verb, and a connection that ends."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        metafunc.parametrize("kind", [each for each in STORES if each != "redis-unix" or module in OVER_UNIX])


@pytest.fixture
def url(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> str:
    return STORES[kind](request, tmp_path)


@pytest.fixture
def name() -> str:
    """A run's name that no other test has used: the stores are shared."""
    return f"run-{uuid.uuid4().hex}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    store = open_store(url, timeout_s=TIMEOUT_S)
    yield store
    await store.close()


@pytest.fixture
async def job(store: Store, name: str) -> Job:
    """A run of four ranks, begun at (0, 0) without a session."""
    return await Job.create(store, name)
