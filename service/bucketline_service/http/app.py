"""Builds the app. Importing this module does nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from bucketline_service.coordinator import Coordinator
from bucketline_service.http import api_docs, problems
from bucketline_service.http.auth import Guards, Tokens
from bucketline_service.http.host_check import CheckHost, Hosts
from bucketline_service.http.middleware import HeadAsGet, LimitBody, Observe
from bucketline_service.http.routes import (
    charts,
    events,
    exports,
    maps,
    previews,
    probes,
    reports,
    runs,
    sessions,
)
from bucketline_service.http.routes.next_batches import InFront, NextRoute
from bucketline_service.observability.traces import NameSpans, Traces

_DESCRIPTION = """Plans aspect-ratio buckets and hands out batches of one resolution to every rank of a training job.

Axis order is (width, height). Errors are RFC 9457 problem documents with a stable `code`.
"""


# otherwise FastAPI looks for three OpenTelemetry providers at each request
_NO_TELEMETRY: dict[str, Any] = {"telemetry": {"tracing": False, "metrics": False, "logs": False}}


@dataclass(frozen=True)
class ApiSettings:
    """``uploads``: the folder for uploads while they stream; ``map_sources``: folders whose files a ``uri`` may name.

    ``max_json_bytes`` limits run specs, which may contain ``valid_ids``; other bodies are small. ``allowed_hosts``:
    host names besides those of loopback that clients may use while there are no tokens.
    """

    uploads: Path
    tokens: Tokens = field(default_factory=Tokens)
    map_sources: tuple[Path, ...] = ()
    max_upload_bytes: int = 16 << 30
    max_json_bytes: int = 64 << 20
    allowed_hosts: tuple[str, ...] = ()


class App(FastAPI):
    """FastAPI with ``next`` in front of all its middleware."""

    next_route: NextRoute
    traces: Traces | None

    def build_middleware_stack(self) -> ASGIApp:
        stack = InFront(super().build_middleware_stack(), self.next_route)
        return stack if self.traces is None else NameSpans(stack)


def create_app(
    coordinator: Coordinator, settings: ApiSettings, version: str, traces: Traces | None = None
) -> FastAPI:
    """The HTTP service of a coordinator, which is closed on shutdown."""
    app = App(
        title="bucketline",
        version=version,
        description=_DESCRIPTION,
        lifespan=partial(_lifespan, coordinator, traces, version),
        openapi_url=None,  # which also turns off FastAPI's own pages
        redirect_slashes=False,
        separate_input_output_schemas=False,  # a spec has the same type in requests and responses
        **(traces.for_fastapi if traces else _NO_TELEMETRY),
    )
    app.traces = traces
    problems.install(app, coordinator.metrics)
    guards, hosts = Guards.of(settings.tokens), Hosts(settings.tokens, settings.allowed_hosts)
    app.next_route = NextRoute(coordinator, guards, settings.tokens, hosts, settings.max_json_bytes)
    _add_routes(app, coordinator, settings, guards, version)
    _add_middleware(app, coordinator, settings, hosts)
    return app


@asynccontextmanager
async def _lifespan(
    coordinator: Coordinator, traces: Traces | None, version: str, _: FastAPI
) -> AsyncIterator[None]:
    if traces is not None:
        traces.start()
    coordinator.started(version)
    yield
    await coordinator.close()
    if traces is not None:
        await traces.stop()


def _add_routes(
    app: App, coordinator: Coordinator, settings: ApiSettings, guards: Guards, version: str
) -> None:
    app.include_router(maps.routes(coordinator, guards, settings.uploads, settings.map_sources))
    app.include_router(runs.routes(coordinator, guards))
    app.include_router(exports.routes(coordinator, guards))
    app.include_router(charts.routes(coordinator, guards))
    app.include_router(sessions.routes(coordinator, guards))
    app.router.routes.append(app.next_route)
    app.include_router(reports.routes(coordinator, guards))
    app.include_router(previews.routes(coordinator, guards))
    app.include_router(events.routes(coordinator, guards))
    app.include_router(probes.routes(coordinator, version))
    api_docs.add(app)


def _add_middleware(app: App, coordinator: Coordinator, settings: ApiSettings, hosts: Hosts) -> None:
    """From the innermost to the outermost."""
    app.add_middleware(LimitBody, upload_bytes=settings.max_upload_bytes, json_bytes=settings.max_json_bytes)
    app.add_middleware(CheckHost, hosts=hosts)
    app.add_middleware(Observe, metrics=coordinator.metrics)
    app.add_middleware(HeadAsGet)
