"""Puts a coordinator together from its settings, and serves it."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from bucketline_service import dashboard, event_kinds
from bucketline_service.coordinator import Coordinator
from bucketline_service.errors import Invalid, StoreUnavailable
from bucketline_service.http import ApiSettings, Tokens, connection_limits, create_app, tls_files
from bucketline_service.maps import MapStore, SharedMapStore, SharedRoot
from bucketline_service.maps.store import STAGING_LIFE_S
from bucketline_service.observability import logs
from bucketline_service.observability.metrics import MULTIPROCESS, Metrics
from bucketline_service.observability.traces import Traces
from bucketline_service.plans.plan_store import PlanStore
from bucketline_service.settings import Settings
from bucketline_service.store import open_store
from bucketline_service.version import VERSION

GRACEFUL_S = 20
START_S = 30
"""A worker process that does not answer its parent for this long is replaced: on a busy machine it takes uvicorn's 5 s
to start, and would be replaced before it serves."""


def build_app(settings: Settings, tokens: Tokens) -> FastAPI:
    """The app over real stores and files. Raises ``StoreUnavailable`` unless the data directory can be written."""
    data_dir = settings.data_dir.absolute()
    uploads = data_dir / "uploads"
    try:
        uploads.mkdir(parents=True, exist_ok=True)
        _sweep(uploads)
        tempfile.TemporaryFile(dir=data_dir).close()
    except OSError as error:
        raise StoreUnavailable(
            f"the data directory {data_dir} cannot be written: {error.strerror}. "
            "Give this user write permission, or choose another with --data-dir or BUCKETLINE_DATA_DIR"
        ) from error
    metrics = Metrics()
    traces = Traces() if settings.otel else None
    store = open_store(settings.store_url, timeout_s=settings.store_timeout_s)
    coordinator = Coordinator(
        store,
        _open_maps(settings, data_dir),
        PlanStore(data_dir / "plans", on_built=metrics.plan_seconds.observe),
        metrics,
        max_runs=settings.max_runs,
    )
    api = ApiSettings(
        uploads=uploads,
        tokens=tokens,
        map_sources=settings.map_sources,
        max_upload_bytes=settings.max_upload_bytes,
        max_json_bytes=settings.max_json_bytes,
        allowed_hosts=settings.host_names,
    )
    app = create_app(coordinator, api, VERSION, traces)
    app.include_router(dashboard.routes())
    return app


def _sweep(uploads: Path) -> None:
    """Delete the uploads that a killed coordinator has left behind. Newer ones may belong to another coordinator."""
    for file in uploads.iterdir():
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > STAGING_LIFE_S:
                file.unlink()


def _open_maps(settings: Settings, data_dir: Path) -> MapStore:
    if settings.map_root is None:
        return MapStore(data_dir / "maps", timeout_s=settings.map_timeout_s)
    copies, root = data_dir / "map-copies", SharedRoot(settings.map_root)
    return SharedMapStore(copies, root, timeout_s=settings.map_timeout_s)


class Config(uvicorn.Config):
    """uvicorn's configuration, which on SIGHUP reads tokens and certificate again. A worker process gets a copy and
    builds its app from it, with the tokens that its parent read last: a token file that is broken meanwhile does not
    keep it from starting."""

    def __init__(self, settings: Settings, tokens: Tokens, app: FastAPI | None, **options: Any) -> None:
        self._settings = settings
        self._tokens = tokens
        super().__init__(app or self.build, factory=app is None, workers=settings.workers, **options)

    def build(self) -> FastAPI:
        logs.configure(self._settings.log_level)
        return build_app(self._settings, self._tokens)

    def load(self) -> None:
        _end_with_parent()
        super().load()
        gc.collect()
        gc.freeze()  # what exists by now stays, so that no later collection spends some 50 ms on it
        if self._settings.is_renewable and sys.platform != "win32":
            # in the event loop: a plain signal handler could run while half a line of the log is written
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.renew)

    def renew(self) -> bool:
        """Read tokens and certificate again. False where one of them is invalid: then nothing changes. Open connections
        keep the certificate they began with."""
        cert, key = self._settings.tls_cert, self._settings.tls_key
        try:
            tokens = read_tokens(self._settings)
            tls_files.check(cert, key)
        except Invalid as error:
            event_kinds.log("not_renewed", detail=error.detail)
            return False
        self._tokens.renew(tokens)
        if cert is not None and self.loaded and self.ssl is not None:
            self.ssl.load_cert_chain(cert, key)
        event_kinds.log("renewed")
        return True


class Workers(Multiprocess):
    """uvicorn's parent of several processes. uvicorn would restart them on SIGHUP, which closes their connections; this
    one passes the signal on. A worker that does not handle signals yet ends, and is started again."""

    def __init__(self, config: Config, sockets: list[socket.socket], *, is_renewable: bool) -> None:
        self._renew = config.renew if is_renewable else None
        super().__init__(config, sockets)

    def init_processes(self) -> None:
        with _ctrl_c_blocked():
            super().init_processes()

    def keep_subprocess_alive(self) -> None:
        with _ctrl_c_blocked():
            super().keep_subprocess_alive()

    def handle_hup(self) -> None:
        if self._renew is None:
            self.handle_term()  # the default action of SIGHUP
        elif self._renew():
            for process in self.processes:
                if process.pid is not None and process.process.is_alive():
                    os.kill(process.pid, signal.SIGHUP)


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """A terminal sends SIGINT to all processes. A worker that is just starting would end with a traceback; the parent
    ends its workers itself."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def read_tokens(settings: Settings) -> Tokens:
    """The tokens in the environment and in the files, as they are now. Raises ``Invalid`` for an empty or unreadable
    file."""
    return Tokens(settings.worker_tokens, settings.operator_tokens)


def serve(settings: Settings) -> None:
    """Bind the port, print the address, and serve until a signal; then finish the open requests."""
    tokens = read_tokens(settings)
    tls_files.check(settings.tls_cert, settings.tls_key)
    _check_exposure(settings.host, tokens)
    logs.configure(settings.log_level)
    bound = _bind(settings.host, settings.port)
    # built here with several workers too, so that an error is reported once, before anything listens
    app = build_app(settings, tokens)
    config = Config(settings, tokens, app if settings.workers == 1 else None, **_uvicorn_options(settings))
    server = uvicorn.Server(config) if settings.workers == 1 else None
    _end_quietly(server)
    if settings.is_renewable and sys.platform != "win32":
        # until the event loop or ``Workers`` handles it
        signal.signal(signal.SIGHUP, lambda *_: config.renew())
    _announce(bound, tokens, is_tls=settings.tls_cert is not None)
    if server is not None:
        server.run(sockets=[bound])
        return
    with tempfile.TemporaryDirectory(prefix="bucketline-metrics-") as counts:
        os.environ[MULTIPROCESS] = counts
        Workers(config, [bound], is_renewable=settings.is_renewable).run()


def _check_exposure(host: str, tokens: Tokens) -> None:
    if not tokens and not _is_loopback(host):
        raise Invalid(
            "host",
            f"must be a loopback address while no token is set, got {host}",
            "Set BUCKETLINE_WORKER_TOKEN and BUCKETLINE_OPERATOR_TOKEN, or bind 127.0.0.1",
        )


def _uvicorn_options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "loop": "uvloop" if sys.platform != "win32" else "asyncio",
        "http": connection_limits.protocol(settings.client_timeout_s),
        "limit_concurrency": connection_limits.most_connections(settings.max_connections),
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": settings.otel,  # only spans name the client
        "timeout_graceful_shutdown": GRACEFUL_S,
        "timeout_worker_healthcheck": START_S,
    }
    if settings.tls_cert is not None:
        options |= {"ssl_certfile": settings.tls_cert, "ssl_keyfile": settings.tls_key}
    return options


def _announce(bound: socket.socket, tokens: Tokens, *, is_tls: bool) -> None:
    host, port = bound.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    print(f"bucketline: listening on http{'s' if is_tls else ''}://{address}:{port}", flush=True)
    if not tokens:
        print("bucketline: no token is set: any process on this machine may do everything", flush=True)
    elif not tokens.known[1]:
        print(
            "bucketline: no operator token is set: workers can use the existing runs, but maps and runs cannot be put "
            "or deleted. Set BUCKETLINE_OPERATOR_TOKEN or --operator-token-file",
            flush=True,
        )


def _end_quietly(server: uvicorn.Server | None) -> None:
    """uvicorn finishes the open requests, and then raises the signal that ended it again: handle it, so that the
    process exits with 0. It also handles a signal that comes before uvicorn's own handlers are installed."""

    def end(*_: object) -> None:
        if server is None:
            raise SystemExit(0)
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def _end_with_parent() -> None:
    """End this worker process with its parent, which cannot end it if it was killed: it would keep the port."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="bucketline-parent", daemon=True).start()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(2048)
    except OSError as error:
        raise Invalid(
            "port", f"{host}:{port} cannot be bound: {error.strerror}", "Choose another with --port"
        ) from error
    bound.set_inheritable(True)
    return bound
