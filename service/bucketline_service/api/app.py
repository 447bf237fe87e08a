"""The app: one constructor that takes what it needs. Importing this does nothing."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi_offline import FastAPIOffline
from starlette.responses import HTMLResponse

from bucketline_service.api import (
    delivery,
    events,
    figures,
    ledger,
    maps,
    operations,
    previews,
    problems,
    runs,
)
from bucketline_service.api.auth import Guards, Tokens
from bucketline_service.api.middleware import HeadAsGet, LimitBody, Observe
from bucketline_service.api.shortcut import Refuse, Shortcut
from bucketline_service.coordinator import Coordinator
from bucketline_service.errors import BucketlineError
from bucketline_service.telemetry import NameSpans, Traces

_DESCRIPTION = """Plans aspect-ratio buckets and hands out batches of one resolution to every rank of a training job.

Axis order is (width, height). Errors are RFC 9457 problem documents with a stable `code`.
"""


# Newer releases of FastAPI look at each request for three OpenTelemetry providers that nobody has set up.
_NO_TELEMETRY: dict[str, Any] = (
    {"telemetry": {"tracing": False, "metrics": False, "logs": False}}
    if "telemetry" in inspect.signature(FastAPI).parameters
    else {}
)


_DOCS_ASSETS = "docs-assets"


@dataclass(frozen=True)
class ApiSettings:
    """``uploads``: where bodies are kept while they stream; ``map_sources``: folders whose files a ``uri`` may name.

    ``max_json_bytes`` bounds run specs, which may hold ``valid_ids``; every other body is small.
    """

    uploads: Path
    tokens: Tokens = field(default_factory=Tokens)
    map_sources: tuple[Path, ...] = ()
    max_upload_bytes: int = 16 << 30
    max_json_bytes: int = 64 << 20


def create_app(
    coordinator: Coordinator, settings: ApiSettings, version: str, traces: Traces | None = None
) -> FastAPI:
    """The service over a coordinator, which it closes when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if traces is not None:
            traces.start()
        coordinator.started(version)
        yield
        await coordinator.close()
        if traces is not None:
            await traces.stop()

    app: FastAPI = FastAPIOffline(
        title="bucketline",
        version=version,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        static_url=f"/{_DOCS_ASSETS}",
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,  # a spec that goes in comes out as the same type
        **(traces.for_fastapi if traces else _NO_TELEMETRY),
    )
    guards = Guards.of(settings.tokens)
    problems.install(app, coordinator.metrics)
    app.include_router(maps.routes(coordinator, guards, settings.uploads, settings.map_sources))
    app.include_router(runs.routes(coordinator, guards))
    app.include_router(ledger.routes(coordinator, guards))
    app.include_router(figures.routes(coordinator, guards))
    deliver = delivery.routes(coordinator, guards)
    app.include_router(deliver)
    app.include_router(previews.routes(coordinator, guards))
    app.include_router(events.routes(coordinator, guards))
    app.include_router(operations.routes(coordinator, version))
    _add_docs(app)
    app.add_middleware(LimitBody, upload_bytes=settings.max_upload_bytes, json_bytes=settings.max_json_bytes)
    app.add_middleware(Observe, metrics=coordinator.metrics)
    app.add_middleware(HeadAsGet)
    next_route = delivery.next_route(deliver)
    app.add_middleware(
        Shortcut,
        route=next_route,
        endpoint=next_route.endpoint,
        guard=guards.any,
        metrics=coordinator.metrics,
        max_bytes=settings.max_json_bytes,
        refuse=cast(Refuse, app.exception_handlers[BucketlineError]),
    )
    if traces is not None:
        app.add_middleware(NameSpans)
    return app


def _add_docs(app: FastAPI) -> None:
    """FastAPIOffline's own page names its files from the root: below another path of a proxy they are not there."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title} API",
            oauth2_redirect_url=None,
            swagger_js_url=f"{_DOCS_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{_DOCS_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{_DOCS_ASSETS}/favicon.png",
        )
