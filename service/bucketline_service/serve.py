"""The one place where the world is put together: settings in, a running coordinator out."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import sys
import tempfile
from typing import Any

import uvicorn
from fastapi import FastAPI

from bucketline_service import logs
from bucketline_service.api import ApiSettings, Tokens, create_app
from bucketline_service.coordinator import Coordinator
from bucketline_service.coordinator.plans import PlanShelf
from bucketline_service.errors import Invalid, StoreUnavailable
from bucketline_service.maps import MapStore
from bucketline_service.metrics import MULTIPROCESS, Metrics
from bucketline_service.settings import Settings
from bucketline_service.state import open_store
from bucketline_service.version import VERSION

_SETTINGS = "BUCKETLINE_SERVE_SETTINGS"
"""How worker processes get the parent's settings: as JSON, tokens as the environment and files have them."""
GRACEFUL_S = 20


def build_app(settings: Settings) -> FastAPI:
    """The app over real stores and files. Raises ``StoreUnavailable`` where the data directory can not be used."""
    data_dir = settings.data_dir.absolute()
    uploads = data_dir / "uploads"
    try:
        uploads.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=data_dir).close()
    except OSError as error:
        raise StoreUnavailable(
            f"the data directory {data_dir} can not be written: {error.strerror}"
        ) from error
    metrics = Metrics()
    coordinator = Coordinator(
        open_store(settings.store_url, timeout_s=settings.store_timeout_s),
        MapStore(data_dir / "maps"),
        PlanShelf(data_dir / "plans", on_built=metrics.plan_seconds.observe),
        metrics,
    )
    api = ApiSettings(
        uploads=uploads,
        tokens=Tokens(settings.worker_tokens, settings.operator_tokens),
        map_sources=settings.map_sources,
        max_upload_bytes=settings.max_upload_bytes,
    )
    return create_app(coordinator, api, VERSION)


def app_of_worker() -> FastAPI:
    """What a worker process runs; the parent has left its settings in the environment."""
    settings = Settings.model_validate_json(os.environ[_SETTINGS])
    logs.configure(settings.log_level)
    return build_app(settings)


def serve(settings: Settings) -> None:
    """Bind, say where, and serve until a signal. What was begun is finished first."""
    tokens = Tokens(settings.worker_tokens, settings.operator_tokens)
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
        "http": "httptools",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": GRACEFUL_S,
    }
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    # built here with several workers too, so that what is wrong is said once, before anything listens
    app = build_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, **options)) if settings.workers == 1 else None
    _end_well(server)
    print(f"bucketline: listening on http://{shown}:{port}", flush=True)
    if not tokens:
        print(
            "bucketline: no tokens are set: bound to loopback only, and open to all on this machine",
            flush=True,
        )
    elif not tokens.operator:
        print(
            "bucketline: no operator token is set: workers can work on the runs that are there, but nobody can "
            "put or delete a map or a run. Set BUCKETLINE_OPERATOR_TOKEN or --operator-token-file",
            flush=True,
        )
    if server is not None:
        server.run(sockets=[bound])
        return
    os.environ[_SETTINGS] = settings.model_dump_json(exclude_none=True)
    with tempfile.TemporaryDirectory(prefix="bucketline-metrics-") as counts:
        os.environ[MULTIPROCESS] = counts
        uvicorn.run(
            "bucketline_service.serve:app_of_worker",
            factory=True,
            workers=settings.workers,
            fd=bound.fileno(),
            **options,
        )


def _end_well(server: uvicorn.Server | None) -> None:
    """uvicorn raises the signal that it ended for once more. What was begun is finished by then: no death of it. One
    that comes before uvicorn listens to signals ends it as well."""

    def end(*_: object) -> None:
        if server is None:
            raise SystemExit(0)
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


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
