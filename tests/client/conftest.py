from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bucketline import BucketClient

from .coordinators import Coordinator, Proxy, put_run

_numbers = itertools.count()
LAUNCHERS = (
    *("BUCKETLINE_SESSION", "TORCHELASTIC_", "SLURM_", "OMPI_", "PMI_", "PMIX_"),
    *("MV2_", "FLUX_", "JSM_", "PALS_"),
    *("RANK", "WORLD_SIZE", "LOCAL_RANK"),
)
"""The prefixes of launchers' variables."""


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """One coordinator for all tests that do not disturb it; each test has its own run in it."""
    coordinator = Coordinator(tmp_path_factory.mktemp("coordinator"))
    yield coordinator
    coordinator.stop()


@pytest.fixture
def url(shared: Coordinator) -> str:
    return shared.url


@pytest.fixture
def run(url: str) -> str:
    """A new run with the defaults of ``put_run``."""
    name = f"run-{next(_numbers)}"
    put_run(url, name)
    return name


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Coordinator]:
    """A coordinator to kill, with a run ``run`` in it."""
    coordinator = Coordinator(tmp_path)
    put_run(coordinator.url, "run")
    yield coordinator
    coordinator.stop()


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    """In front of the shared coordinator."""
    proxy = Proxy(url)
    yield proxy
    proxy.close()


@pytest.fixture
def canned() -> Iterator[Proxy]:
    """In front of nothing: it returns only the answers that it is given."""
    proxy = Proxy()
    yield proxy
    proxy.close()


@pytest.fixture
def connect(url: str, run: str) -> Iterator[Callable[..., BucketClient]]:
    """Makes clients of the test's run, and closes what the test leaves open."""
    clients: list[BucketClient] = []

    def make(to: str = url, run: str = run, **options: object) -> BucketClient:
        clients.append(BucketClient(to, run, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.__exit__(RuntimeError, None, None)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher's variables, and warnings about retries only where a test looks for them."""
    for name in os.environ:
        if name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)
    monkeypatch.delenv("BUCKETLINE_TOKEN", raising=False)
    logging.getLogger("bucketline").setLevel(logging.WARNING)
