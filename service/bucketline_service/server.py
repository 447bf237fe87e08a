"""The one place where the world is put together: settings in, a running coordinator out."""

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

from bucketline_service import dashboard, events
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
    """The app over real stores and files. Raises ``StoreUnavailable`` where the data directory can not be used."""
    data_dir = settings.data_dir.absolute()
    uploads = data_dir / "uploads"
    try:
        uploads.mkdir(parents=True, exist_ok=True)
        _sweep(uploads)
        tempfile.TemporaryFile(dir=data_dir).close()
    except OSError as error:
        raise StoreUnavailable(
            f"the data directory {data_dir} can not be written: {error.strerror}. "
            "Let this process's user write there, or give another with --data-dir or BUCKETLINE_DATA_DIR"
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
    """Away with what a coordinator that was killed had of bodies. Younger ones may be another's, and on their way."""
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
    """uvicorn's, which has SIGHUP read tokens and certificate again. A worker process gets a copy, and builds its app
    from that: with the tokens that its parent had read last, so that a file that can not be used does not stop it."""

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
        gc.freeze()  # what is there by now stays: not to be looked through again and again, some 50 ms each time
        if self._settings.is_renewable and sys.platform != "win32":
            # in the loop, not between any two instructions: half a line of the log may have been written there
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.renew)

    def renew(self) -> bool:
        """Read tokens and certificate again, and tell whether they are in use now. All or nothing: what can not be used
        leaves everything as it was. Connections go on with what they began with."""
        cert, key = self._settings.tls_cert, self._settings.tls_key
        try:
            tokens = read_tokens(self._settings)
            tls_files.check(cert, key)
        except Invalid as error:
            events.log("not_renewed", detail=error.detail)
            return False
        self._tokens.renew(tokens)
        if cert is not None and self.loaded and self.ssl is not None:
            self.ssl.load_cert_chain(cert, key)
        events.log("renewed")
        return True


class Workers(Multiprocess):
    """uvicorn's parent of several processes, which would start them anew on SIGHUP. This one tells them, so that
    nobody's connection ends of it. One that does not listen to signals yet ends, and is started again."""

    def __init__(self, config: Config, sockets: list[socket.socket], *, is_renewable: bool) -> None:
        self._renew = config.renew if is_renewable else None
        super().__init__(config, sockets)

    def init_processes(self) -> None:
        with _sparing_children_ctrl_c():
            super().init_processes()

    def keep_subprocess_alive(self) -> None:
        with _sparing_children_ctrl_c():
            super().keep_subprocess_alive()

    def handle_hup(self) -> None:
        if self._renew is None:
            self.handle_term()  # as it ends a process that has nothing to read again
        elif self._renew():
            for process in self.processes:
                if process.pid is not None and process.process.is_alive():
                    os.kill(process.pid, signal.SIGHUP)


@contextmanager
def _sparing_children_ctrl_c() -> Iterator[None]:
    """A terminal sends it to all processes. One that is started meanwhile would end of it with a traceback: its parent
    sees to it, and ends its workers."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def read_tokens(settings: Settings) -> Tokens:
    """From the environment and the files as they are now; ``Invalid`` for a file that can not be read or is empty."""
    return Tokens(settings.worker_tokens, settings.operator_tokens)


def serve(settings: Settings) -> None:
    """Bind, say where, and serve until a signal. What was begun is finished first."""
    tokens = read_tokens(settings)
    tls_files.check(settings.tls_cert, settings.tls_key)
    if not tokens and not _is_loopback(settings.host):
        raise Invalid(
            "host",
            f"{settings.host} can be reached from other machines, and no token is set",
            "Set BUCKETLINE_WORKER_TOKEN and BUCKETLINE_OPERATOR_TOKEN, or bind 127.0.0.1",
        )
    logs.configure(settings.log_level)
    bound = _bind(settings.host, settings.port)
    options: dict[str, Any] = {
        "loop": "uvloop" if sys.platform != "win32" else "asyncio",
        "http": connection_limits.protocol(settings.client_timeout_s),
        "limit_concurrency": connection_limits.most_connections(settings.max_connections),
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": GRACEFUL_S,
        "timeout_worker_healthcheck": START_S,
    }
    if settings.tls_cert is not None:
        options |= {"ssl_certfile": settings.tls_cert, "ssl_keyfile": settings.tls_key}
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    # built here with several workers too, so that what is wrong is said once, before anything listens
    app = build_app(settings, tokens)
    config = Config(settings, tokens, app if settings.workers == 1 else None, **options)
    server = uvicorn.Server(config) if settings.workers == 1 else None
    _end_well(server)
    if settings.is_renewable and sys.platform != "win32":
        signal.signal(
            signal.SIGHUP, lambda *_: config.renew()
        )  # until the loop or the workers' parent sees to it
    scheme = "http" if settings.tls_cert is None else "https"
    print(f"bucketline: listening on {scheme}://{shown}:{port}", flush=True)
    if not tokens:
        print(
            "bucketline: no tokens are set: bound to loopback only, and open to all on this machine",
            flush=True,
        )
    elif not tokens.known[1]:
        print(
            "bucketline: no operator token is set: workers can work on the runs that are there, but nobody can "
            "put or delete a map or a run. Set BUCKETLINE_OPERATOR_TOKEN or --operator-token-file",
            flush=True,
        )
    if server is not None:
        server.run(sockets=[bound])
        return
    with tempfile.TemporaryDirectory(prefix="bucketline-metrics-") as counts:
        os.environ[MULTIPROCESS] = counts
        Workers(config, [bound], is_renewable=settings.is_renewable).run()


def _end_well(server: uvicorn.Server | None) -> None:
    """uvicorn raises the signal that it ended for once more. What was begun is finished by then: no death of it. One
    that comes before uvicorn listens to signals ends it as well."""

    def end(*_: object) -> None:
        if server is None:
            raise SystemExit(0)
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def _end_with_parent() -> None:
    """Of several processes: a parent that was killed can end none, and they would serve on and hold the port."""
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
            "port", f"{host}:{port} can not be bound: {error.strerror}", "Take another with --port"
        ) from error
    bound.set_inheritable(True)
    return bound
