"""Errors as RFC 9457 problem documents. ``KINDS`` is the one place where an error gets its status and its title."""

from __future__ import annotations

import json
import logging
from typing import Any, NamedTuple

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from bucketline_service import errors, event_kinds
from bucketline_service.errors import BucketlineError
from bucketline_service.http.browser_headers import DATA
from bucketline_service.http.validation_errors import MAX_ERRORS, invalid
from bucketline_service.observability.metrics import Metrics
from bucketline_service.plans.plan_store import RETRY_AFTER_S

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("bucketline")


class Unauthorized(BucketlineError):  # noqa: N818 - the protocol's own word
    code = "unauthorized"


class Forbidden(BucketlineError):  # noqa: N818 - the protocol's own word
    code = "forbidden"


class Misdirected(BucketlineError):  # noqa: N818 - HTTP's own word
    """The request is addressed to another host, or comes from another site's page."""

    code = "misdirected"


class MethodNotAllowed(BucketlineError):  # noqa: N818 - HTTP's own word
    """The path exists, but not for this method. ``allowed``: those that it supports, as ``Allow`` lists them."""

    code = "method_not_allowed"

    def __init__(self, path: str, method: str, allowed: str) -> None:
        super().__init__(f"{path[:200]} does not support {method}, only {allowed}")
        self.allowed = allowed


class Internal(BucketlineError):  # noqa: N818 - the protocol's own word
    """A defect of the coordinator."""

    code = "internal"


class Kind(NamedTuple):
    status: int
    title: str


KINDS: dict[type[BucketlineError], Kind] = {
    errors.Invalid: Kind(422, "The request is invalid"),
    errors.TooLarge: Kind(413, "Over a limit"),
    errors.NotFound: Kind(404, "Not found"),
    errors.Conflict: Kind(409, "Name taken, or in use"),
    errors.Fenced: Kind(409, "A newer lease or generation has taken over"),
    errors.PlanMismatch: Kind(409, "The state belongs to another plan"),
    errors.Damaged: Kind(409, "A record in the store is damaged"),
    errors.Planning: Kind(503, "The plan is being built"),
    errors.StoreUnavailable: Kind(503, "The store is unavailable"),
    Unauthorized: Kind(401, "A token is required"),
    Forbidden: Kind(403, "An operator's token is required"),
    Misdirected: Kind(421, "This coordinator does not answer for that host"),
    MethodNotAllowed: Kind(405, "Method not allowed"),
    Internal: Kind(500, "Internal error of the coordinator"),
}
"""Every error that an answer may have. ``docs/reference/http.md`` and the client's errors are tested against it."""

CODES = {error.code: kind.status for error, kind in KINDS.items()}
"""Every code that an answer may have, with its status."""


class FieldError(BaseModel):
    field: str = Field(description="dotted path of the field")
    detail: str


class Problem(BaseModel):
    """RFC 9457. ``code`` is stable; further members depend on it (``runs`` with ``conflict``, say)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:bucketline:problem:fenced"])
    title: str
    status: int
    detail: str = Field(description="what is wrong and what to do, for people")
    code: str = Field(description="for programs; " + ", ".join(sorted(CODES)), examples=sorted(CODES))
    field: str = Field("", description="with invalid: dotted path of the field, parameter or column")
    errors: list[FieldError] = Field(
        [], description=f"with invalid: the wrong fields, the first {MAX_ERRORS} of them"
    )
    num_more_errors: int = Field(0, description="with invalid: how many more fields are wrong, if any")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's ``responses`` for a route that can fail with these, and with what every route can."""
    return {
        status: {
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            "description": "code: " + ", ".join(code for code, each in CODES.items() if each == status),
            **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
        }
        for status in sorted({*statuses, CODES[Misdirected.code]})
    }


_HEADERS = {
    401: {"WWW-Authenticate": {"description": "the scheme to use", "schema": {"const": "Bearer"}}},
    503: {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 0}}},
}


def members(error: BucketlineError) -> dict[str, Any]:
    """The members of an error's problem document, which may also stand inside another answer."""
    kind = KINDS[type(error)]
    return _members(kind.status, kind.title, error.code, error.detail, error.extra)


def answer(error: BucketlineError) -> Response:
    """The problem document of an error."""
    response = _response(members(error))
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = error.allowed
    return response


def refuse(error: BucketlineError, metrics: Metrics) -> Response:
    """The problem document of an error that a route has raised. Counts and logs a store that fails."""
    if isinstance(error, errors.StoreUnavailable):
        metrics.store_errors.inc()
        event_kinds.log("store_unavailable", detail=error.detail)
    return answer(error)


def broken_off() -> Response:
    """For a request whose caller has disconnected: nobody reads it."""
    detail = "the request broke off before its end"
    return _response(_members(400, "The request broke off", "invalid", detail, {}))


def defect(scope: Scope, error: Exception) -> Response:
    """The problem document of an error that nobody expected, which is logged with its traceback."""
    _log.error("request failed", extra={"method": scope["method"], "path": scope["path"]}, exc_info=error)
    return answer(Internal("the coordinator failed; its log says where. Nothing is known to have changed"))


def _members(status: int, title: str, code: str, detail: str, extra: dict[str, Any]) -> dict[str, Any]:
    about = {"type": f"urn:bucketline:problem:{code}", "title": title, "status": status}
    return {**about, "detail": detail, "code": code, **extra}


def _response(about: dict[str, Any]) -> Response:
    headers = {**DATA}
    if about["status"] == 503:
        headers["Retry-After"] = str(about.get("retry_after", RETRY_AFTER_S))
    if about["status"] == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(_encode(about), about["status"], headers, MEDIA_TYPE)


def _encode(about: dict[str, Any]) -> bytes:
    """What a request said may be in it, also what is not text: half of a surrogate pair, an integer of any length."""
    try:
        return orjson.dumps(about, default=str)
    except TypeError:
        return json.dumps(about, default=str).encode()


def install(app: FastAPI, metrics: Metrics) -> None:
    """Every error that a route raises becomes a problem document, which OpenAPI describes."""

    async def handle(request: Request, error: Exception) -> Response:
        match error:
            case BucketlineError():
                return refuse(error, metrics)
            case RequestValidationError():
                return answer(invalid(error.errors(), error.body))
            case HTTPException():
                return _of_framework(app, request, error)
            case ClientDisconnect():
                return broken_off()
            case _:
                return defect(request.scope, error)

    _describe(app)
    for kind in (BucketlineError, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, handle)


def _of_framework(app: FastAPI, request: Request, error: HTTPException) -> Response:
    """What Starlette or FastAPI answers by itself: no such path, no such method, a body that it could not read."""
    if isinstance(error.__cause__, BucketlineError):  # raised while the body was read
        return answer(error.__cause__)
    path, headers = request.url.path[:200], dict(error.headers or {})
    if error.status_code == 404:
        return answer(errors.NotFound(f"there is no path {path}. /docs lists all paths"))
    if error.status_code == 405:
        return answer(
            MethodNotAllowed(path, request.method, _allowed(app, request, headers.get("Allow", "")))
        )
    kind = KINDS[errors.Invalid]
    response = _response(_members(error.status_code, kind.title, "invalid", str(error.detail), {}))
    response.headers.update(headers)
    return response


def _allowed(app: FastAPI, request: Request, found: str) -> str:
    """The methods of all routes of the path; ``found``: those of the first one that the router found."""
    template = getattr(request.scope.get("route"), "path", "")
    methods = {method.upper() for method in app.openapi()["paths"].get(template, {})}
    methods |= {method for method in found.split(", ") if method}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _describe(app: FastAPI) -> None:
    """Add the problem document to OpenAPI: no route returns the model, so FastAPI does not find it by itself."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        document = generated()
        schemas = document["components"]["schemas"]
        if "Problem" not in schemas:
            ours = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(ours.pop("$defs"), Problem=ours)
        for optional in ("field", "errors", "num_more_errors"):  # left out rather than empty
            schemas["Problem"]["properties"][optional].pop("default", None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
