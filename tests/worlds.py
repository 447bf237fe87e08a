"""A coordinator over each of both stores, as fixtures: ``from tests.worlds import *`` in a conftest.

``tests/store`` proves that both stores behave in the same way. `make test` therefore runs only ``ON_BOTH`` on Redis as
well; `make test-all` runs the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checked import Api
from tests.redis_server import RedisServer
from tests.server import COCO, Replica

__all__ = [
    *("api", "coco", "put_run", "pytest_generate_tests"),
    *("shared_api", "shared_replica", "shared_world", "world"),
]

ON_BOTH = {
    *("test_map_deletion_guard", "test_replicas", "test_store_risks"),
}
"""Modules whose rules depend on what the store does under concurrent or lost writes."""

SMALL = "id,width,height\n" + "".join(f"{i},{512 + 64 * (i % 5)},{512 + 64 * (i % 3)}\n" for i in range(200))
"""200 images, ids 0 to 199."""

_databases = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    is_on_both = metafunc.module.__name__.rpartition(".")[2] in ON_BOTH
    redis = pytest.param("redis", marks=[] if is_on_both else pytest.mark.exhaustive)
    marks = [*metafunc.definition.iter_markers("parametrize")]
    for name, scope in (("world", "function"), ("shared_world", "session")):
        is_own = getattr(metafunc.module, name, globals()[name]) is not globals()[name]
        is_given = is_own or any(name in mark.args[0] for mark in marks)
        if name in metafunc.fixturenames and not is_given:
            metafunc.parametrize(name, ["sqlite", redis], indirect=True, scope=scope)


class World:
    """A store and a data directory, and as many coordinators over them as a test wants."""

    def __init__(self, store_url: str, data_dir: Path) -> None:
        self.store_url = store_url
        self.data_dir = data_dir
        self._replicas: list[Replica] = []

    def replica(self, **options: Any) -> Replica:
        self._replicas.append(Replica(self.store_url, self.data_dir, **options))
        return self._replicas[-1]

    def close(self) -> None:
        while self._replicas:
            self._replicas.pop().close()

    def clean(self) -> None:
        """Delete all runs and maps, so that the next test finds none."""
        api = (self._replicas or [self.replica()])[0].api
        for kind in ("run", "map"):
            for each in api.get(f"/v1/{kind}s")[f"{kind}s"]:
                forced = "?force=true" if kind == "run" else ""  # a test has just worked on it
                api.ask("DELETE", f"/v1/{kind}s/{each[kind]}{forced}", 204)


def _worlds(request: pytest.FixtureRequest, folder: Path) -> Iterator[World]:
    if request.param == "sqlite":
        store_url = f"sqlite:///{folder / 'state.sqlite'}"
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        # a new database is used every 15 tests: by then the runs of the old one are deleted
        store_url = server.url.rpartition("/")[0] + f"/{next(_databases) % 15 + 1}"
    world = World(store_url, folder / "data")
    yield world
    if request.param == "redis":
        world.clean()
    world.close()


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A store and a data directory of the test's own, over either store."""
    yield from _worlds(request, tmp_path)


@pytest.fixture(scope="session")
def shared_world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield from _worlds(request, tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def shared_replica(shared_world: World) -> Replica:
    return shared_world.replica()


@pytest.fixture
def api(shared_world: World, shared_replica: Replica) -> Iterator[Api]:
    """One coordinator, no tokens, empty; over either store."""
    yield shared_replica.api
    shared_world.clean()


@pytest.fixture
def coco(api: Api) -> Api:
    """The same, with the shipped map as ``coco``."""
    api.put_csv("coco", COCO.read_bytes())
    return api


@pytest.fixture
def put_run(api: Api) -> Callable[..., dict[str, Any]]:
    """Puts run ``run`` over a map of 200 images, on 2 ranks by 8 images unless told otherwise."""

    def put(name: str = "run", **spec: Any) -> dict[str, Any]:
        api.put_csv("small", SMALL)
        answer: dict[str, Any] = api.put(
            f"/v1/runs/{name}", {"map": "small", "world_size": 2, "batch_size": 8, **spec}
        )
        return answer

    return put


@pytest.fixture(scope="session")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One coordinator on SQLite, with the map ``small``, for tests that are refused and change nothing."""
    folder = tmp_path_factory.mktemp("refusing")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    api = world.replica().api
    api.put_csv("small", SMALL, 201)
    yield api
    world.close()
