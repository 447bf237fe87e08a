"""Fixtures over both stores, for tests/api and tests/coordinator: import what a conftest wants."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checked import Api
from tests.redis_server import RedisServer
from tests.server import COCO, Replica

_databases = itertools.count(1)
SMALL = "id,width,height\n" + "".join(f"{i},{512 + 64 * (i % 5)},{512 + 64 * (i % 3)}\n" for i in range(200))
"""200 images, ids 0 to 199."""


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
        for replica in self._replicas:
            replica.close()


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a store that nobody else uses."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.sqlite'}"
    server: RedisServer = request.getfixturevalue("redis_server")
    # a database is taken anew every 15 tests: the names of runs keep them apart then
    return server.url.rpartition("/")[0] + f"/{next(_databases) % 15 + 1}"


@pytest.fixture
def world(store_url: str, tmp_path: Path) -> Iterator[World]:
    world = World(store_url, tmp_path / "data")
    yield world
    api = world.replica().api
    for run in api.get("/v1/runs")["runs"]:
        api.ask("DELETE", f"/v1/runs/{run['run']}", 204)
    world.close()


@pytest.fixture
def api(world: World) -> Api:
    """One coordinator, no tokens."""
    return world.replica().api


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
        answer: dict[str, Any] = api.put(f"/v1/runs/{name}", {"map": "small", "world_size": 2, "batch_size": 8, **spec})
        return answer

    return put
