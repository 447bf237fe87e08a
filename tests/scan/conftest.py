from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gs_server import GsServer
from tests.s3_server import ENVIRON, S3Server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What is scanned: nothing in it may change."""
    path = tmp_path / "images"
    path.mkdir()
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "map.parquet"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(scope="module")
def gs() -> Iterator[GsServer]:
    server = GsServer()
    yield server
    server.close()
