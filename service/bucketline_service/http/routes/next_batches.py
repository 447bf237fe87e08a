"""The route of ``next``, the one call that every rank makes all the time: a raw one, and in front of all others.

FastAPI's routing, dependencies, validation and responses cost several times what ``next`` itself does. So this route
does all of it: host, method, token, body, validation, errors and metrics. To FastAPI it is a route with a signature
like any other, which is how it gets into OpenAPI.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from email.message import Message as MimeHeaders
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from bucketline_service.coordinator import Coordinator
from bucketline_service.errors import BucketlineError
from bucketline_service.http import problems
from bucketline_service.http.auth import Guards, Tokens, bearer_token, check_query, check_token
from bucketline_service.http.body_limits import read_json
from bucketline_service.http.browser_headers import DATA
from bucketline_service.http.host_check import Hosts
from bucketline_service.http.middleware import MAX_WORKER_BYTES, HeadAsGet, count, too_large
from bucketline_service.http.problems import MethodNotAllowed
from bucketline_service.http.schemas.delivery import NextIn, NextOut
from bucketline_service.http.schemas.shared import RankPath, RunPath
from bucketline_service.http.validation_errors import invalid, located
from bucketline_service.runs.delivery import NextRequest

_RANK: TypeAdapter[int] = TypeAdapter(RankPath)
_HEADERS = [
    *((name.lower().encode(), value.encode()) for name, value in DATA.items()),
    (b"content-type", b"application/json"),
]


class NextRoute(APIRoute):
    """FastAPI documents it by the signature of ``next_batches``, and never calls that: ``handle`` does."""

    def __init__(
        self, coordinator: Coordinator, guards: Guards, tokens: Tokens, hosts: Hosts, max_json_bytes: int
    ) -> None:
        self._delivery = coordinator.delivery
        self._metrics = coordinator.metrics
        self._tokens = tokens
        self._hosts = hosts
        self._max_bytes = min(max_json_bytes, MAX_WORKER_BYTES)
        super().__init__(
            "/v1/runs/{run}/ranks/{rank}/next",
            self.next_batches,
            methods=["POST"],
            tags=["delivery"],
            summary="Acknowledge, and read on",
            response_model=NextOut,
            **guards.readers(404, 409, 413),
        )

    async def next_batches(self, run: RunPath, rank: RankPath, body: NextIn) -> Response:
        """Stores ``ack``, then returns the batches from ``from`` or from the cursor on. Reading moves nothing, so a
        lost response can be requested again."""
        raise NotImplementedError

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers every request to the path, whatever its method."""
        begin_s, status = time.perf_counter(), 500
        scope["route"] = self
        try:
            answer = await self._answer(scope, receive)
            if isinstance(answer, bytes):
                status = 200
                headers = [*_HEADERS, (b"content-length", b"%d" % len(answer))]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": answer})
            else:
                status = answer.status_code
                await answer(scope, receive, send)
        finally:
            count(self._metrics, scope, status, begin_s)

    async def _answer(self, scope: Scope, receive: Receive) -> bytes | Response:
        """The batches as JSON, or the response that refuses them."""
        try:
            run, ask = await self._read(scope, receive)
            found = await self._delivery.next(run, ask)
            batches = orjson.Fragment(b"[" + b",".join(found.batches) + b"]")
            cursor = {"epoch": found.cursor.epoch, "step": found.cursor.step}
            return orjson.dumps({**vars(found), "batches": batches, "cursor": cursor})
        except BucketlineError as error:
            return problems.refuse(error, self._metrics)
        except ClientDisconnect:
            return problems.broken_off()
        except Exception as error:
            return problems.defect(scope, error)

    async def _read(self, scope: Scope, receive: Receive) -> tuple[str, NextRequest]:
        """The run and what is asked of it. A caller without a token does not get its body read."""
        self._hosts.check(scope["headers"])
        if scope["method"] != "POST":
            raise MethodNotAllowed(scope["path"], scope["method"], "POST")
        headers = dict(reversed(scope["headers"]))  # of several with one name the first counts
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise too_large(self._max_bytes)
        check_token(self._tokens, bearer_token(headers.get(b"authorization")), operator=False)
        if scope["query_string"]:
            check_query(Request(scope), frozenset())
        body = await _body(receive, self._max_bytes)
        path = scope["path_params"]
        return path["run"], _asked(path["rank"], headers.get(b"content-type", b""), body)


class InFront:
    """ASGI that gives a raw route the requests to its path, and an app all others."""

    def __init__(self, app: ASGIApp, route: APIRoute) -> None:
        self._app = app
        self._route = route
        self._head = HeadAsGet(route.handle)
        self._find = route.path_regex.fullmatch

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        found = self._find(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            return self._app(scope, receive, send)
        scope["path_params"] = found.groupdict()
        handle = self._head if scope["method"] == "HEAD" else self._route.handle
        return handle(scope, receive, send)


async def _body(receive: Receive, max_bytes: int) -> bytes:
    """The whole body, whose messages end wherever the network has cut it."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
        if len(body) > max_bytes:
            break
    if len(body) > max_bytes:
        raise too_large(max_bytes)
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return body


def _asked(rank: str, content_type: bytes, body: bytes) -> NextRequest:
    if content_type == b"application/json":
        try:
            asked = NextIn.model_validate_json(body)
            num_fields = len(asked.model_fields_set) + 2 * (
                (asked.ack is not None) + (asked.begin is not None)
            )
            if body.count(b":") == num_fields:  # else a field is given twice
                return asked.to_request(_RANK.validate_python(rank))
        except ValidationError:
            pass
    return _asked_otherwise(rank, content_type, body)


def _asked_otherwise(rank: str, content_type: bytes, body: bytes) -> NextRequest:
    """The same for what is not well-formed or not plain. Raises ``Invalid`` with all that is wrong."""
    document: Any = (read_json(body) if _is_json(content_type) else body) if body else None
    errors = []
    try:
        number = _RANK.validate_python(rank)
    except ValidationError as error:
        errors += located(error, "path", "rank")
    try:
        asked = NextIn.model_validate(document)
    except ValidationError as error:
        errors += located(error, "body")
    if document is None:
        errors[-1] = {"type": "missing", "loc": ("body",), "input": None}
    if errors:
        raise invalid(errors, document)
    return asked.to_request(number)


def _is_json(content_type: bytes) -> bool:
    """As FastAPI decides it: also ``application/problem+json``, and with any parameters."""
    about = MimeHeaders()
    about["content-type"] = content_type.decode("latin-1")
    is_json = about.get_content_subtype() == "json" or about.get_content_subtype().endswith("+json")
    return about.get_content_maintype() == "application" and is_json
