"""Coordinators to test against: the real app in this process over a real store, and ``bucketline serve`` in its own."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import httpx

from bucketline_service.coordinator import Coordinator
from bucketline_service.http import ApiSettings, create_app
from bucketline_service.maps import MapStore, SharedMapStore, SharedRoot
from bucketline_service.observability.metrics import Metrics
from bucketline_service.plans.plan_store import PlanStore
from bucketline_service.store import open_store
from tests import warm
from tests.checked import Api, Contract
from tests.cut_bodies import CutBodies

COCO = Path(__file__).parents[1] / "service" / "bucketline_service" / "data" / "coco-5k.csv"
if importlib.util.find_spec("sniffio") is None:
    # httpx looks for it at every request to an app, on the whole path: a third of what a short request takes
    sys.modules["sniffio"] = None  # type: ignore[assignment]

STARTED = re.compile(r"bucketline: listening on (https?)://[\d.]+:(\d+)\n")


_contracts: list[Contract] = []


def _contract(document: Callable[[], dict[str, Any]]) -> Contract:
    """Every coordinator has the same; generating it takes longer than most tests, so only the first one is asked."""
    if not _contracts:
        _contracts.append(Contract(document()))
    return _contracts[0]


def _maps(data_dir: Path, root: str | None) -> MapStore:
    return (
        MapStore(data_dir / "maps") if root is None else SharedMapStore(data_dir / "copies", SharedRoot(root))
    )


class _Current:
    """Stands for whatever ``find`` gives when it is used."""

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find

    def __getattr__(self, name: str) -> Any:
        return getattr(self._find(), name)

    def __fspath__(self) -> str:
        return os.fspath(self._find())


class _Front:
    """The app and its loop, for one coordinator after another: to make an app takes longer than most tests."""

    _free: ClassVar[dict[str, list[_Front]]] = {}

    @classmethod
    def of(cls, settings: dict[str, Any]) -> _Front:
        free = cls._free.setdefault(repr(settings), [])
        return free.pop() if free else cls(settings, free)

    def __init__(self, settings: dict[str, Any], free: list[_Front]) -> None:
        self._others = free
        self.replica: Replica | None = None
        coordinator: Any = _Current(lambda: self._coordinator)
        for kept in ("delivery", "metrics", "queries"):  # the routes keep these
            setattr(coordinator, kept, _Current(partial(lambda kept: getattr(self._coordinator, kept), kept)))
        uploads: Any = _Current(lambda: self.replica and self.replica.uploads)
        self.app = create_app(coordinator, ApiSettings(uploads, **settings), "test")
        transport = httpx.ASGITransport(CutBodies(self.app), raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    @property
    def _coordinator(self) -> Coordinator:
        assert self.replica, "used after it was closed"
        return self.replica.coordinator

    def give_back(self) -> None:
        self.replica = None
        self._others.append(self)


class Replica:
    """One coordinator in a thread of this process. Several may share a store's URL and a data directory."""

    def __init__(
        self,
        store_url: str,
        data_dir: Path,
        *,
        clock: Callable[[], float] = time.time,
        timeout_s: float = 30.0,
        map_root: str | None = None,
        **settings: Any,
    ) -> None:
        self.uploads = data_dir / "uploads"
        self.uploads.mkdir(parents=True, exist_ok=True)
        self.metrics = Metrics()
        maps, plans = (
            _maps(data_dir, map_root),
            PlanStore(data_dir / "plans", self.metrics.plan_seconds.observe),
        )
        store = open_store(store_url, timeout_s=timeout_s)
        self.coordinator = Coordinator(store, maps, plans, self.metrics, clock)
        self._front = _Front.of(settings)
        self._front.replica = self
        self.app, self._loop, self._client = self._front.app, self._front.loop, self._front.client
        self._lifespan = self.app.router.lifespan_context(self.app)
        self._wait(self._lifespan.__aenter__())
        self.api = Api(self.send, _contract(self.app.openapi))

    def send(self, method: str, path: str, **request: Any) -> httpx.Response:
        assert self._front.replica is self, "used after it was closed"
        response: httpx.Response = self._wait(self._client.request(method, path, **request))
        return response

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """In the coordinator's own loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.start(coroutine).result()

    def close(self) -> None:
        self._wait(self._lifespan.__aexit__(None, None, None))
        self._front.give_back()


class ServerProcess:
    """``bucketline serve`` with flags. ``before`` runs in the child before it starts: limits, say. ``is_session``: it
    leads a session of its own, whose processes can be signalled together."""

    def __init__(
        self,
        data_dir: Path,
        *flags: str,
        environ: dict[str, str] | None = None,
        before: Callable[[], None] | None = None,
        is_session: bool = False,
    ) -> None:
        self._data_dir = data_dir
        self._is_session = is_session
        self._flags = flags
        self._environ = environ or {}
        self._before = before
        self._port = "0"
        self._client = httpx.Client(timeout=30, verify=False, trust_env=False)  # loads no authorities
        self.start()

    def start(self) -> None:
        """Return when it listens; on the port that it had before."""
        self.process = popen(
            "serve", "--port", self._port, "--data-dir", str(self._data_dir), *self._flags,
            environ=self._environ, before=self._before, is_session=self._is_session,
        )  # fmt: skip
        assert self.process.stdout is not None
        started = STARTED.fullmatch(line := self.process.stdout.readline())
        if not started:
            self.process.kill()
            raise AssertionError(line + self.process.communicate()[1])
        self._port = started[2]
        self.url = f"{started[1]}://127.0.0.1:{self._port}"

    def api(self, token: str | None = None) -> Api:
        send = self._sender(token)
        return Api(send, _contract(lambda: send("GET", "/openapi.json").json()))

    def _sender(self, token: str | None) -> Callable[..., httpx.Response]:
        def send(method: str, path: str, **request: Any) -> httpx.Response:
            headers = {
                **request.pop("headers", {}),
                **({"Authorization": f"Bearer {token}"} if token else {}),
            }
            return self._client.request(method, self.url + path, headers=headers, **request)

        return send

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> tuple[int, str]:
        """End it with SIGTERM: its exit status, and its log."""
        return self._end(signal.SIGTERM)

    def close(self) -> None:
        self._client.close()
        if self.process.poll() is None:
            self.kill()

    def _end(self, number: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(number)
        _, errors = self.process.communicate()
        return self.process.returncode, errors


def popen(
    *arguments: str,
    environ: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
    is_session: bool = False,
) -> subprocess.Popen[str]:
    """``bucketline`` in its own process, forked from a warm one, which sees no setting but the given ones."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BUCKETLINE_")}
    return warm.Popen(
        [sys.executable, "-m", "bucketline", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**clean, **(environ or {})},
        preexec_fn=before,
        start_new_session=is_session,
    )


def run_command(*arguments: str, **options: Any) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command that ends by itself."""
    process = popen(*arguments, **options)
    out, errors = process.communicate()
    return process.returncode, out, errors
