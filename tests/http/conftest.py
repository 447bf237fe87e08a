from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.checked import Api
from tests.worlds import *  # noqa: F403
from tests.worlds import SMALL, World


@pytest.fixture(scope="session")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A coordinator on SQLite with runs that no test may move, of 2 ranks by 8 images: ``run``, whose rank 0 is past
    step 1, and ``short`` of 4 epochs, both of whose ranks are past step 4."""
    folder = tmp_path_factory.mktemp("steady")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    api = world.replica().api
    api.put_csv("small", SMALL, 201)
    spec = {"map": "small", "world_size": 2, "batch_size": 8}
    api.put("/v1/runs/run", spec, 201)
    api.put("/v1/runs/short", {**spec, "epochs": 4}, 201)
    api.ack("run", 0, api.lease("run", 0)["lease"], 0, 1)
    for rank in range(2):
        api.ack("short", rank, api.lease("short", rank)["lease"], 0, 4)
    yield api
    world.close()
