from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bucketline_service.errors import Invalid
from bucketline_service.maps import MapStore

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
