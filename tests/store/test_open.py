"""From a URL to a store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bucketline_service import store
from bucketline_service.errors import Invalid
from bucketline_service.store import open_store, port
from bucketline_service.store.store_kinds import KINDS, URL_HELP
from tests.shell import ROOT
from tests.store.conftest import STORES
from tests.store.jobs import FIRST
from tests.store.threads import in_store

WRONG = [
    "",
    "state.db",
    "/data/state.db",
    "mysql://host/db",
    "sqlite:store.db",
    "sqlite://",
    "sqlite://state.db",
    "sqlite:///",
    "sqlite:////",
    "sqlite:///:memory:",
    "redis:host",
    "redis://host:port/0",
    "redis://host/0?no_such_option=1",
    "redis+other://host",
    "redis+sentinel://host:26379",
    "redis+sentinel://host:26379/",
    "redis+sentinel://host:26379/service/db",
    "redis+sentinel://host:26379/service/0/1",
    "redis+sentinel://host:port/service",
    "redis+sentinel://host,,other/service",
    "redis+sentinel:///service",
    "redis+sentinel://::1/service",
    "redis+sentinel://host/service#part",
    "redis+sentinel://host/service?no_such_option=1",
    "redis+sentinel://host/service?socket_timeout=soon",
    "redis://host?wait_replicas=",
    "redis://host?wait_replicas=one",
    "redis+sentinel://host/service?wait_replicas=-1",
    "redis+cluster://host?wait_replicas=1&wait_replicas=2",
    "redis+cluster://",
    "redis+cluster://host:99999",
    "redis+cluster://host:6379/1",
    "redis+cluster://host:6379/service",
    "redis+cluster://host:6379?no_such_option=1",
]


@pytest.mark.parametrize("url", WRONG)
def test_what_is_no_store_is_invalid_and_says_what_would_do(url: str) -> None:
    with pytest.raises(Invalid, match=r"redis(\+\w+)?://") as caught:
        open_store(url)
    assert caught.value.field == "store"


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://u:p@host:1/2",
        "rediss://host",
        "unix:///x.sock",
        "unix:///x.sock?db=1",
        "redis+sentinel://host/service",
        "redis+sentinel://u:p@host:1,other,[::1]:3/service/2",
        "rediss+sentinel://host/service?sentinel_password=p&ssl_ca_certs=/ca.pem",
        "redis://host?wait_replicas=1",
        "unix:///x.sock?wait_replicas=2&db=1",
        "rediss+sentinel://host/service?ssl_ca_certs=/ca.pem&wait_replicas=1",
        "redis+cluster://host?wait_replicas=0",
        "rediss+cluster://host?wait_replicas=1",
        "redis+cluster://host",
        "redis+cluster://u:p%40%2F@host:1,other,[::1]:3/0",
        "rediss+cluster://host?ssl_ca_certs=/ca.pem",
    ],
)
def test_opening_connects_to_nothing(url: str) -> None:
    open_store(url)


def test_every_kind_is_tested_and_documented() -> None:
    assert set(STORES) == {kind.name for kind in KINDS}
    guide = (ROOT / "docs/how-to/choose-a-store.md").read_text()
    for kind in KINDS:
        assert kind.short in URL_HELP
        assert f"{kind.schemes[0]}://" in guide


def test_the_example_of_every_kind_opens() -> None:
    for kind in KINDS:
        for example in kind.examples:
            open_store(example)


@pytest.mark.parametrize("scheme", ["redis+sentinel", "redis+cluster"])
@pytest.mark.parametrize("password", ["s3cr3t/", "s3cr3t#", "s3cr3t?", "s3cr3t"])
def test_a_wrong_url_does_not_tell_the_password(scheme: str, password: str) -> None:
    """An unescaped sign makes a port or a path of it."""
    with pytest.raises(Invalid) as caught:
        open_store(f"{scheme}://user:{password}@host:port/service/0/1")
    assert "s3cr3t" not in str(caught.value)


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
        "import sys; from bucketline_service.store import open_store; "
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
    assert set(store.__all__) == defined | {"open_store"}
