"""From a URL to a store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bucketline_service import state
from bucketline_service.errors import Invalid
from bucketline_service.state import open_store, port
from tests.contract.jobs import FIRST
from tests.contract.threads import in_store

WRONG = [
    "",
    "state.db",
    "/data/state.db",
    "mysql://host/db",
    "sqlite:state.db",
    "sqlite://",
    "sqlite://state.db",
    "sqlite:///",
    "sqlite:////",
    "sqlite:///:memory:",
    "redis:host",
    "redis+sentinel://host:26379/mymaster",
    "redis+cluster://host:6379",
    "redis://host:port/0",
    "redis://host/0?no_such_option=1",
]


@pytest.mark.parametrize("url", WRONG)
def test_what_is_no_store_is_invalid_and_says_what_would_do(url: str) -> None:
    with pytest.raises(Invalid, match="redis://") as caught:
        open_store(url)
    assert caught.value.field == "store"


@pytest.mark.parametrize("scheme", ["redis+sentinel", "redis+cluster"])
def test_what_is_not_there_yet_is_said(scheme: str) -> None:
    with pytest.raises(Invalid, match=r"redis\+sentinel:// and redis\+cluster:// are not there yet"):
        open_store(f"{scheme}://host")


@pytest.mark.parametrize(
    "url", ["redis://host", "redis://u:p@host:1/2", "rediss://host", "unix:///x.sock", "unix:///x.sock?db=1"]
)
def test_opening_connects_to_nothing(url: str) -> None:
    open_store(url)


def test_a_relative_path_is_relative_to_where_it_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///data/state.db")
    monkeypatch.chdir(tmp_path / "elsewhere")
    in_store("sqlite:///other.db", lambda other: other.create_run("run", b"", FIRST))
    assert (tmp_path / "elsewhere" / "other.db").is_file()
    assert not (tmp_path / "data").exists()
    assert store is not None


def imported_by(url: str) -> bool:
    code = (
        "import sys; from bucketline_service.state import open_store; "
        f"open_store({url!r}); sys.exit('redis' in sys.modules)"
    )
    return bool(subprocess.run([sys.executable, "-c", code], check=False).returncode)


def test_redis_is_imported_for_redis_alone() -> None:
    assert not imported_by("sqlite:///state.db")
    assert imported_by("redis://host")


def test_the_port_is_exported_whole() -> None:
    defined = {
        name
        for name, value in vars(port).items()
        if getattr(value, "__module__", None) == port.__name__ or name == "LEASE_STRIDE"
    }
    assert set(state.__all__) == defined | {"open_store"}
