"""A shorter way to ``next``, the one call that every rank makes all the time.

FastAPI's routing, dependencies and validation cost several times what ``next`` itself does. A well-formed one with a
good token goes straight to its endpoint; anything else takes the long way, with what has been read of it, and is
answered there. The answers are the same.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bucketline_service.errors import BucketlineError
from bucketline_service.http.auth import Guard
from bucketline_service.http.host_check import Hosts
from bucketline_service.http.middleware import count
from bucketline_service.http.problems import Unauthorized
from bucketline_service.http.schemas.models import NextIn
from bucketline_service.observability.metrics import Metrics
from bucketline_service.store.port import MAX_WORLD_SIZE

_NEXT = re.compile(r"/v1/runs/([^/]+)/ranks/([0-9]{1,9})/next")

MAX_BYTES = 1 << 12
"""Of a body: more than any well-formed one needs."""

Endpoint = Callable[[str, int, NextIn], Awaitable[Response]]
Refuse = Callable[[Request, BucketlineError], Awaitable[Response]]


class Shortcut:
    """Counts what it answers, under ``route``, that of ``endpoint``. ``refuse`` answers our errors. ``max_bytes``: of a
    body that is not too large."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        route: BaseRoute,
        endpoint: Endpoint,
        guard: Guard,
        hosts: Hosts,
        refuse: Refuse,
        metrics: Metrics,
        max_bytes: int,
    ) -> None:
        self._app = app
        self._route = route
        self._endpoint = endpoint
        self._guard = guard
        self._hosts = hosts
        self._refuse = refuse
        self._metrics = metrics
        self._max_bytes = min(max_bytes, MAX_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin_s = time.perf_counter()
        found = _NEXT.fullmatch(scope["path"]) if scope.get("method") == "POST" else None
        rank = int(found[2]) if found else MAX_WORLD_SIZE
        # nothing of the body is read for who may not ask
        if found is None or rank >= MAX_WORLD_SIZE or scope["query_string"] or not await self._may_ask(scope):
            await self._app(scope, receive, send)
            return
        read = await _whole(receive, self._max_bytes)
        asked = _asked(read, self._max_bytes)
        if asked is None:
            await self._app(scope, _again(read, receive), send)
            return
        scope["route"] = self._route
        status = 500
        try:
            response = await self._answered(scope, found[1], rank, asked)
            status = response.status_code
            await response(scope, receive, send)
        finally:
            count(self._metrics, scope, status, begin_s)

    async def _answered(self, scope: Scope, run: str, rank: int, asked: NextIn) -> Response:
        try:
            return await self._endpoint(run, rank, asked)
        except BucketlineError as error:
            return await self._refuse(Request(scope), error)

    async def _may_ask(self, scope: Scope) -> bool:
        """Whether it is meant for this server, comes with a good token, if one is needed, and says that it is JSON."""
        headers = Headers(scope=scope)
        if headers.get("content-type") != "application/json":
            return False
        if self._hosts.fault(scope["headers"]) is not None:
            return False
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme and scheme.lower() != "bearer":
            return False
        credentials = HTTPAuthorizationCredentials(scheme=scheme, credentials=token) if scheme else None
        try:
            await self._guard(credentials)
        except Unauthorized:
            return False
        return True


async def _whole(receive: Receive, max_bytes: int) -> list[Message]:
    """The messages of a body, which come as the network cuts it: to its end, or to where it is longer than
    ``max_bytes``."""
    messages, num_bytes, is_whole = list[Message](), 0, False
    while not is_whole and num_bytes <= max_bytes:
        messages.append(await receive())
        num_bytes += len(messages[-1].get("body", b""))
        is_whole = not messages[-1].get("more_body")
    return messages


def _asked(messages: list[Message], max_bytes: int) -> NextIn | None:
    """What a whole and well-formed body asks. A caller that is gone says that in the place of the rest."""
    body = b"".join(message.get("body", b"") for message in messages)
    last = messages[-1]
    if last["type"] != "http.request" or last.get("more_body") or len(body) > max_bytes:
        return None
    try:
        asked = NextIn.model_validate_json(body)
    except ValidationError:
        return None
    num_fields = len(asked.model_fields_set) + 2 * sum(each is not None for each in (asked.ack, asked.begin))
    return asked if body.count(b":") == num_fields else None  # else one is there twice


def _again(messages: list[Message], receive: Receive) -> Receive:
    """A ``receive`` that begins with messages that were read before."""
    read = iter(messages)

    async def again() -> Message:
        return next(read, None) or await receive()

    return again
