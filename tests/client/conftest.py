from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bucketline import BucketClient

from .coordinators import Coordinator, Proxy, new_run, put_run

LAUNCHERS = (
    *("BUCKETLINE_SESSION", "TORCHELASTIC_", "SLURM_", "OMPI_", "PMI_", "PMIX_"),
    *("MV2_", "FLUX_", "JSM_", "PALS_"),
    *("RANK", "WORLD_SIZE", "LOCAL_RANK"),
)
"""The prefixes of launchers' variables."""


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a coordinator with a map and a run ``run``. Copies of it spare other coordinators the upload."""
    folder = tmp_path_factory.mktemp("filled")
    coordinator = Coordinator(folder)
    put_run(coordinator.url, "run")
    coordinator.stop()
    return folder / "data"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, filled: Path) -> Iterator[Coordinator]:
    """One coordinator for all tests that do not disturb it; each test has its own run in it."""
    folder = tmp_path_factory.mktemp("coordinator")
    shutil.copytree(filled, folder / "data")
    coordinator = Coordinator(folder)
    yield coordinator
    coordinator.stop()


@pytest.fixture
def url(shared: Coordinator) -> str:
    return shared.url


@pytest.fixture
def run(url: str) -> str:
    """A new run with the defaults of ``put_run``."""
    return new_run(url)


@pytest.fixture
def own(tmp_path: Path, filled: Path) -> Iterator[Coordinator]:
    """A coordinator to kill, with a run ``run`` in it."""
    shutil.copytree(filled, tmp_path / "data")
    coordinator = Coordinator(tmp_path)
    yield coordinator
    coordinator.stop()


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, filled: Path) -> Iterator[list[Coordinator]]:
    folder = tmp_path_factory.mktemp("pair")
    shutil.copytree(filled, folder / "data")
    both = [Coordinator(folder) for _ in range(2)]
    yield both
    for each in both:
        each.stop()


@pytest.fixture
def replicas(request: pytest.FixtureRequest) -> Iterator[list[Coordinator]]:
    """Two to kill, over one store and one data directory: ``pair``, or the fixture that the test's parameter names."""
    both: list[Coordinator] = request.getfixturevalue(getattr(request, "param", "pair"))
    yield both
    for each in both:
        each.revive()


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
