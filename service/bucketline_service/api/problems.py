"""Errors as RFC 9457 problem documents: the one place where the tree of errors meets HTTP."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from bucketline_service import errors
from bucketline_service.coordinator.plans import RETRY_AFTER_S
from bucketline_service.errors import BucketlineError, Invalid
from bucketline_service.metrics import Metrics

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("bucketline")


class Unauthorized(BucketlineError):
    code = "unauthorized"


class Forbidden(BucketlineError):
    code = "forbidden"


STATUS: dict[type[BucketlineError], int] = {
    errors.Invalid: 422,
    errors.TooLarge: 413,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Fenced: 409,
    errors.PlanMismatch: 409,
    errors.Planning: 503,
    errors.StoreUnavailable: 503,
    Unauthorized: 401,
    Forbidden: 403,
}
_TITLES = {
    "invalid": "The request can not be met as it is",
    "too_large": "Over a limit",
    "not_found": "No such thing",
    "conflict": "Taken or in use",
    "fenced": "A newer lease or generation has taken over",
    "plan_mismatch": "A state of another plan",
    "planning": "The plan is being built",
    "store_unavailable": "The store is late or gone",
    "unauthorized": "A token is needed",
    "forbidden": "This needs an operator's token",
    "method_not_allowed": "Not a method of this path",
    "internal": "A defect of the coordinator",
}


class Problem(BaseModel):
    """RFC 9457. ``code`` is stable; further members depend on it (``field`` with ``invalid``, say)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:bucketline:problem:fenced"])
    title: str
    status: int
    detail: str
    code: str = Field(examples=sorted(_TITLES))


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's ``responses`` for a route that can fail with these."""
    titles: dict[int, list[str]] = {}
    for error, status in STATUS.items():
        titles.setdefault(status, []).append(error.code)
    return {
        status: {
            "content": {MEDIA_TYPE: {"schema": _SCHEMA}},
            "description": "code: " + ", ".join(titles[status]),
        }
        for status in sorted({*statuses, 401, 403})
    }


_SCHEMA = {"$ref": "#/components/schemas/Problem"}


def problem(status: int, code: str, detail: str, **extra: Any) -> Response:
    about = {
        "type": f"urn:bucketline:problem:{code}",
        "title": _TITLES.get(code, code),
        "status": status,
        "detail": detail,
        "code": code,
        **extra,
    }
    headers = {}
    if status == 503:
        headers["Retry-After"] = str(extra.get("retry_after", RETRY_AFTER_S))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(about, default=str), status, headers, MEDIA_TYPE)


def answer(error: BucketlineError) -> Response:
    """The problem document of one of our errors."""
    return problem(STATUS[type(error)], error.code, error.detail, **error.extra)


def install(app: FastAPI, metrics: Metrics) -> None:
    """Every error that a route lets through becomes a problem document."""

    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, BucketlineError)
        if isinstance(error, errors.StoreUnavailable):
            metrics.store_errors.inc()
            metrics.log_event("store_unavailable", detail=error.detail)
        return answer(error)

    async def validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(_from_validation(error))

    async def framework(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid")
        response = problem(error.status_code, code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    async def defect(request: Request, error: Exception) -> Response:
        _log.exception("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem(
            500, "internal", "the coordinator failed; its log says where. Nothing is known to have changed"
        )

    app.add_exception_handler(BucketlineError, ours)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(Exception, defect)


def _from_validation(error: RequestValidationError) -> Invalid:
    """The first thing that is wrong, by its dotted path; all of them in ``errors``."""
    found = [{"field": _field(each["loc"]), "detail": each["msg"]} for each in error.errors()]
    first = error.errors()[0]
    given = first.get("input")
    shown = (
        ""
        if first["type"] == "missing" or isinstance(given, (dict, bytes))
        else f" (given: {str(given)[:80]!r})"
    )
    return Invalid(found[0]["field"], f"{first['msg']}{shown}", errors=found[:20])


def _field(loc: tuple[Any, ...]) -> str:
    parts = [str(part) for part in loc if part not in ("body", "query", "path", "header")]
    return ".".join(parts) or "body"
