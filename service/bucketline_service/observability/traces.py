"""OpenTelemetry traces. Unless they are enabled, nothing of OpenTelemetry is imported and ``span`` does nothing.

FastAPI makes the span of each request, and reads ``traceparent``. This module adds the request's route, run and rank,
and the spans below it: of the store's verbs and of planning.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bucketline_service.errors import Invalid
from bucketline_service.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that probes and scrapers request all the time."""

_ATTRIBUTES = {"run": "bucketline.run", "rank": "bucketline.rank", "map": "bucketline.map"}
"""Span attributes by path parameter."""

_OFF: AbstractContextManager[None] = nullcontext()
_tracer: Tracer | None = None


def span(name: str, **attributes: str | int) -> AbstractContextManager[Any]:
    """A span around some work, below the current one. ``attributes`` get the prefix ``bucketline.``."""
    if _tracer is None:
        return _OFF
    about = {f"bucketline.{key}": value for key, value in attributes.items()}
    return _tracer.start_as_current_span(name, attributes=about)


def store_span(system: str, verb: str) -> AbstractContextManager[Any]:
    """A client's span around a verb of the store, below the request's. Verbs that the coordinator calls on its own
    account have none. ``system``: the database's name in OpenTelemetry's conventions."""
    if _tracer is None:
        return _OFF
    from opentelemetry.trace import SpanKind, get_current_span

    if not get_current_span().is_recording():
        return _OFF
    about = {"db.system.name": system, "db.operation.name": verb}
    return _tracer.start_as_current_span(f"store {verb}", kind=SpanKind.CLIENT, attributes=about)


class Traces:
    """The traces of one process. The standard ``OTEL_*`` variables set the exporter, the service name and the sampler.
    Raises ``Invalid`` if the extra is not installed, or if a variable has an unsupported value."""

    def __init__(self) -> None:
        global _tracer
        try:
            from opentelemetry.sdk.resources import SERVICE_NAME, Resource
            from opentelemetry.sdk.trace import TracerProvider
        except ImportError as error:
            raise _missing(error) from error
        self._exporter = _exporter(os.environ.get("OTEL_TRACES_EXPORTER") or "otlp")
        given = Resource.create()
        named = "OTEL_SERVICE_NAME" in os.environ or "service.name" in os.environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        )
        name = given.attributes[SERVICE_NAME] if named else "bucketline"
        about = Resource({SERVICE_NAME: name, "service.version": VERSION})
        self._provider: TracerProvider = TracerProvider(resource=given.merge(about), shutdown_on_exit=False)
        _tracer = self._provider.get_tracer("bucketline", VERSION)

    @property
    def for_fastapi(self) -> dict[str, Any]:
        """Keyword arguments for the FastAPI app."""
        config = {
            "tracer_provider": self._provider,
            "tracing": True,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": lambda scope: scope.get("path") in UNTRACED,
        }
        return {"telemetry": config}

    def start(self) -> None:
        """Start the thread that exports spans. Call it in the process that serves, not before it forks."""
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if self._exporter is not None:
            self._provider.add_span_processor(BatchSpanProcessor(self._exporter))

    async def stop(self) -> None:
        """Export the remaining spans."""
        await asyncio.to_thread(self._provider.shutdown)


def _missing(error: ImportError) -> Invalid:
    return Invalid(
        "otel",
        f"traces need OpenTelemetry, and {error.name} is not installed",
        "Run pip install 'bucketline[otel]', or disable traces",
    )


def _exporter(kind: str) -> SpanExporter | None:
    if kind == "none":
        return None
    if kind == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if kind != "otlp":
        raise Invalid("otel", f"OTEL_TRACES_EXPORTER must be otlp, console or none, got {kind}")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    if protocol not in (None, "", "http/protobuf"):
        raise Invalid("otel", f"OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf, got {protocol}")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise _missing(error) from error
    return OTLPSpanExporter()


class NameSpans:
    """Middleware that sets the route, run, rank and map on a request's span. It must be the outermost:
    requests of ``next`` pass no other."""

    def __init__(self, app: ASGIApp) -> None:
        from opentelemetry.trace import get_current_span

        self._app = app
        self._current: Callable[[], Span] = get_current_span

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = self._current()

        async def named(message: Message) -> None:
            route = scope.get("route")
            if message["type"] == "http.response.start" and request.is_recording():
                _name(request, scope, getattr(route, "path_format", None), getattr(route, "path_regex", None))
            await send(message)

        await self._app(scope, receive, named)


def _name(request: Span, scope: Scope, route: str | None, regex: re.Pattern[str] | None) -> None:
    if route is None or regex is None:
        return
    request.update_name(f"{scope['method']} {route}")
    request.set_attribute("http.route", route)
    found = regex.fullmatch(scope["path"])
    for parameter, value in (found.groupdict() if found else {}).items():
        if parameter in _ATTRIBUTES:
            request.set_attribute(_ATTRIBUTES[parameter], value)
