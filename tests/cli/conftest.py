from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server import COCO, ServerProcess


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One for the modules that have no other, with map ``coco``: name your runs after what they are for."""
    server = ServerProcess(tmp_path_factory.mktemp("cli"))
    server.api().put_csv("coco", COCO.read_bytes(), 201)
    yield server
    server.close()
