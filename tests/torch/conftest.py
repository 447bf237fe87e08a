from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bucketline import BucketClient, Operator
from tests.client.conftest import LAUNCHERS
from tests.client.coordinators import Coordinator, put_run

NUM_STEPS = 9
"""Of an epoch of the small run, on each of its two ranks."""

_names = (f"start-{number}" for number in itertools.count())


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    coordinator = Coordinator(tmp_path_factory.mktemp("coordinator"))
    put_run(coordinator.url, "small", batch_size=256)
    yield coordinator.url
    coordinator.stop()


@pytest.fixture(scope="session")
def plan(url: str) -> list[tuple[int, int, list[Any]]]:
    """(epoch, step, ids) of three epochs of rank 0."""
    with BucketClient(url, "small") as client, Operator(url) as operator:
        client.start_session(2, "start", session="plan")
        batches = operator.batches("small", 0, 0, 0, 3 * NUM_STEPS)
    return [(batch.epoch, batch.step, batch.ids) for batch in batches]


@pytest.fixture
def start(url: str) -> Iterator[Callable[..., BucketClient]]:
    """Clients of the small run. Each is a separate start of the job; one that ``resumes`` begins no session by
    itself."""
    clients: list[BucketClient] = []

    def make(run: str = "small", world_size: int = 2, resumes: bool = False) -> BucketClient:
        clients.append(client := BucketClient(url, run, session=next(_names)))
        if not resumes:
            client.start_session(world_size, "start")
        return client

    yield make
    for client in clients:
        client.__exit__(RuntimeError, None, None)


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Those that scikit-image ships: many sizes, grey and colour, PNG and JPEG."""
    import skimage

    folder = tmp_path / "photographs"
    folder.mkdir()
    for file in (Path(skimage.__file__).parent / "data").iterdir():
        if file.suffix in (".png", ".jpg"):
            shutil.copy(file, folder)
    assert len(list(folder.iterdir())) > 20
    return folder
