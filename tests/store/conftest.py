"""Every test that asks for ``url``, ``store`` or ``job`` runs once for each store in ``STORES``.

`make test` runs all of them on SQLite and one Redis, and some on the others; `make test-all` runs the rest.
"""

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
    "unix": lambda request, _: request.getfixturevalue("redis_server").unix_url,
    "sentinel": lambda request, _: request.getfixturevalue("sentinel_set").url,
    "cluster": lambda request, _: request.getfixturevalue("cluster_set").url,
}
"""By the name of a kind in ``store/store_kinds.py``: the URL of one that runs."""

IN_FULL = {"sqlite", "redis"}
IN_PART = {
    "unix": {"test_survival"},
    "sentinel": {"test_survival"},
    # on a cluster a run and the index are in different slots: what spans both is another sequence of steps there
    "cluster": {"test_survival", "test_runs", "test_map_deletion_guard"},
}
"""The modules whose tests `make test` runs on each of the other kinds."""

TIMEOUT_S = 30.0
"""Long, so that a busy machine makes no test fail."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        in_test = IN_FULL | {kind for kind, modules in IN_PART.items() if module in modules}
        metafunc.parametrize(
            "kind",
            [pytest.param(kind, marks=[] if kind in in_test else pytest.mark.exhaustive) for kind in STORES],
        )


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
