from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bucketline import Operator
from bucketline_service.errors import Invalid
from bucketline_service.maps import MapStore, SharedMapStore, SharedRoot
from tests.gs_server import GsServer
from tests.s3_server import ENVIRON, S3Server
from tests.server import ServerProcess

from .files import contents


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "maps"


@pytest.fixture
def store(root: Path) -> MapStore:
    return MapStore(root)


@pytest.fixture
def refused(store: MapStore, root: Path, tmp_path: Path) -> Callable[..., Invalid]:
    """Put a file that must be refused: the error, after checking that nothing is left behind."""

    def put(format: str, data: bytes | Path, *columns: Any) -> Invalid:
        path = data if isinstance(data, Path) else tmp_path / "upload"
        if isinstance(data, bytes):
            path.write_bytes(data)
        before = contents(root)
        with pytest.raises(Invalid) as caught:
            store.put("refused", path, format, *columns)
        assert contents(root) == before
        return caught.value

    return put


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A coordinator for the whole session; ``operator`` leaves it empty."""
    server = ServerProcess(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture
def operator(server: ServerProcess) -> Iterator[Operator]:
    with Operator(server.url) as operator:
        yield operator
        for each in operator.maps():
            operator.delete_map(each["map"])


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One for the whole session: take a bucket of your own."""
    server = S3Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def gs_server() -> Iterator[GsServer]:
    """The same of Google's."""
    server = GsServer()
    yield server
    server.close()


EXHAUSTIVE = pytest.mark.exhaustive


@pytest.fixture(params=["folder", *(pytest.param(kind, marks=EXHAUSTIVE) for kind in ("s3", "gs"))])
def root_uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty map root: a folder, or a prefix of a bucket."""
    if request.param == "s3":
        for name, value in ENVIRON.items():
            monkeypatch.setenv(name, value)
        server: S3Server = request.getfixturevalue("s3_server")
        return server.new_root()
    if request.param == "gs":
        google: GsServer = request.getfixturevalue("gs_server")
        return google.new_root()
    (tmp_path / "shared").mkdir()
    return (tmp_path / "shared").as_uri()


@pytest.fixture
def replica(root_uri: str, tmp_path: Path) -> Callable[..., SharedMapStore]:
    """A store with its own copies, on the root; its name says whose copies."""

    def open_one(name: str = "a", **options: Any) -> SharedMapStore:
        return SharedMapStore(tmp_path / f"copies-{name}", SharedRoot(root_uri), **options)

    return open_one


@pytest.fixture(params=["own", "folder", pytest.param("s3", marks=EXHAUSTIVE)])
def any_store(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> MapStore:
    """Every layout: in its own folder, or at a root with copies."""
    if request.param == "own":
        return MapStore(root)
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        for name, value in ENVIRON.items():
            patch.setenv(name, value)
        return SharedMapStore(root, SharedRoot(server.new_root()))
    (tmp_path / "shared").mkdir()
    return SharedMapStore(root, SharedRoot((tmp_path / "shared").as_uri()))
