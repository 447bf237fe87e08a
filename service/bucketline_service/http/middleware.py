"""Middleware for every request but ``next``: limits the body, counts and times the request, answers HEAD."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bucketline_service.errors import TooLarge
from bucketline_service.http.problems import answer
from bucketline_service.observability.metrics import Metrics

_log = logging.getLogger("bucketline.access")

IS_HEAD = "bucketline.is_head"
"""Key in the scope of a HEAD request that is answered as GET: a route may skip producing a long body."""


class Observe:
    """Counts requests by route template, so that names in paths do not create new series."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        begin_s = time.perf_counter()

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            count(self._metrics, scope, status, begin_s)


def count(metrics: Metrics, scope: Scope, status: int, begin_s: float) -> None:
    """Count an answered request. ``begin_s``: ``time.perf_counter()`` when it arrived."""
    took_s = time.perf_counter() - begin_s
    route = getattr(scope.get("route"), "path", "unmatched")
    metrics.request(scope["method"], route, status, took_s)
    if _log.isEnabledFor(logging.DEBUG):
        about = {"method": scope["method"], "path": scope["path"], "status": status}
        _log.debug("request", extra={**about, "ms": round(took_s * 1e3, 2)})


MAX_REPORTS_BYTES = 1 << 22
"""Of reports: 1,024 images with ids of 1,024 bytes and details of 200 characters, all of them escaped."""

MAX_WORKER_BYTES = 1 << 16
"""The largest body that a worker may send: sessions, leases, acknowledgements."""


def is_json(content_type: str) -> bool:
    """Whether it is JSON itself; JSON lines are ``application/jsonl``."""
    return content_type.partition(";")[0].strip().lower() == "application/json"


class LimitBody:
    """Refuses a body that is over its limit while it streams: ``upload_bytes`` for maps, ``json_bytes`` for specs and
    previews, ``MAX_REPORTS_BYTES`` for reports, ``MAX_WORKER_BYTES`` for all others."""

    def __init__(self, app: ASGIApp, upload_bytes: int, json_bytes: int) -> None:
        self._app = app
        self._upload_bytes = upload_bytes
        self._json_bytes = json_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("PUT", "POST"):
            await self._app(scope, receive, send)  # bodies of other methods are not read
            return
        headers = dict(scope["headers"])
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        is_map = scope["method"] == "PUT" and scope["path"].startswith("/v1/maps/")
        is_upload = is_map and not is_json(content_type)
        is_spec = scope["method"] == "PUT" or scope["path"] == "/v1/previews"
        of_worker = MAX_REPORTS_BYTES if scope["path"].endswith("/reports") else MAX_WORKER_BYTES
        of_json = self._json_bytes if is_spec else min(self._json_bytes, of_worker)
        limit = self._upload_bytes if is_upload else of_json
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            await answer(too_large(limit))(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise too_large(limit)
            return message

        await self._app(scope, limited, send)


class HeadAsGet:
    """Answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        # a copy: the server reads the method from its own
        await self._app({**scope, "method": "GET", IS_HEAD: True}, receive, without_body)


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body must be at most {limit:,} bytes", limit_bytes=limit)
