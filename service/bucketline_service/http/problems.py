"""Errors as RFC 9457 problem documents: the one place where the tree of errors meets HTTP."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from bucketline_service import errors, events
from bucketline_service.errors import BucketlineError, Invalid
from bucketline_service.http.browser_headers import DATA
from bucketline_service.observability.metrics import Metrics
from bucketline_service.plans.plan_store import RETRY_AFTER_S

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("bucketline")


class Unauthorized(BucketlineError):  # noqa: N818 - the protocol's own word
    code = "unauthorized"


class Forbidden(BucketlineError):  # noqa: N818 - the protocol's own word
    code = "forbidden"


class Misdirected(BucketlineError):  # noqa: N818 - HTTP's own word
    """The request is meant for another host, or comes from another site's page."""

    code = "misdirected"


STATUS: dict[type[BucketlineError], int] = {
    errors.Invalid: 422,
    errors.TooLarge: 413,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Fenced: 409,
    errors.PlanMismatch: 409,
    errors.Damaged: 409,
    errors.Planning: 503,
    errors.StoreUnavailable: 503,
    Unauthorized: 401,
    Forbidden: 403,
    Misdirected: 421,
}
_TITLES = {
    "invalid": "The request can not be met as it is",
    "too_large": "Over a limit",
    "not_found": "No such thing",
    "conflict": "Taken or in use",
    "fenced": "A newer lease or generation has taken over",
    "plan_mismatch": "Of another plan",
    "damaged": "A record of the store is damaged",
    "planning": "The plan is being built",
    "store_unavailable": "The store is late or gone",
    "unauthorized": "A token is needed",
    "forbidden": "This needs an operator's token",
    "misdirected": "Not a host that this coordinator answers for",
    "method_not_allowed": "Not a method of this path",
    "internal": "A defect of the coordinator",
}


CODES = {
    **{error.code: status for error, status in STATUS.items()},
    "method_not_allowed": 405,
    "internal": 500,
}
"""Every code that an answer may have, with its status."""


MAX_ERRORS, MAX_PATH = 20, 200
"""Errors that an answer tells, and characters of the path of a field: the caller has written them all."""


class FieldError(BaseModel):
    field: str = Field(description="dotted path of the field")
    detail: str


class Problem(BaseModel):
    """RFC 9457. ``code`` is stable; further members depend on it (``runs`` with ``conflict``, say)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:bucketline:problem:fenced"])
    title: str
    status: int
    detail: str = Field(description="what is wrong and what would do, for a person")
    code: str = Field(description="for programs; " + ", ".join(sorted(CODES)), examples=sorted(CODES))
    field: str = Field("", description="with invalid: dotted path of the field, parameter or column")
    errors: list[FieldError] = Field(
        [],
        description=f"with invalid: all fields that are wrong, up to {MAX_ERRORS}; of a long list the first",
    )
    num_more_errors: int = Field(0, description="with invalid: how many fields more are wrong, where any are")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's ``responses`` for a route that can fail with these, and with what every route can."""
    titles: dict[int, list[str]] = {}
    for error, status in STATUS.items():
        titles.setdefault(status, []).append(error.code)
    return {
        status: {
            "content": {MEDIA_TYPE: {"schema": _SCHEMA}},
            "description": "code: " + ", ".join(titles[status]),
            **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
        }
        for status in sorted({*statuses, STATUS[Misdirected]})
    }


_SCHEMA = {"$ref": "#/components/schemas/Problem"}
_HEADERS = {
    401: {"WWW-Authenticate": {"description": "the scheme to use", "schema": {"const": "Bearer"}}},
    503: {
        "Retry-After": {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 0}},
    },
}


def problem(status: int, code: str, detail: str, **extra: Any) -> Response:
    about = _members(status, code, detail, **extra)
    headers = {**DATA}
    if status == 503:
        headers["Retry-After"] = str(extra.get("retry_after", RETRY_AFTER_S))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(_encode(about), status, headers, MEDIA_TYPE)


def members(error: BucketlineError) -> dict[str, Any]:
    """Of the problem document of one of our errors, to stand inside another answer."""
    return _members(STATUS[type(error)], error.code, error.detail, **error.extra)


def _members(status: int, code: str, detail: str, **extra: Any) -> dict[str, Any]:
    return {
        "type": f"urn:bucketline:problem:{code}",
        "title": _TITLES.get(code, code),
        "status": status,
        "detail": detail,
        "code": code,
        **extra,
    }


def _encode(about: dict[str, Any]) -> bytes:
    """What a request said may stand in it, also what is no text: half of a surrogate pair, an integer of any length."""
    try:
        return orjson.dumps(about, default=str)
    except TypeError:
        return json.dumps(about, default=str).encode()


def answer(error: BucketlineError) -> Response:
    """The problem document of one of our errors."""
    return problem(STATUS[type(error)], error.code, error.detail, **error.extra)


def install(app: FastAPI, metrics: Metrics) -> None:
    """Every error that a route lets through becomes a problem document."""

    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, BucketlineError)
        if isinstance(error, errors.StoreUnavailable):
            metrics.store_errors.inc()
            events.log("store_unavailable", detail=error.detail)
        return answer(error)

    async def validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(_invalid(error.errors(), error.body))

    async def framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, BucketlineError):  # what was said while the body was read
            return answer(error.__cause__)
        code, detail, path = "invalid", str(error.detail), request.url.path[:200]
        if error.status_code == 404:
            code, detail = "not_found", f"there is no path {path}. /docs lists those that there are"
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = _allowed(app, request, headers.get("Allow", ""))
            code, detail = (
                "method_not_allowed",
                f"{path} does not take {request.method} but {headers['Allow']}",
            )
        response = problem(error.status_code, code, detail)
        response.headers.update(headers)
        return response

    async def gone(_: Request, error: Exception) -> Response:
        return problem(400, "invalid", "the request broke off before its end")  # nobody reads it

    async def defect(request: Request, error: Exception) -> Response:
        asked = {"method": request.method, "path": request.url.path}
        _log.error("request failed", extra=asked, exc_info=error)
        return problem(
            500, "internal", "the coordinator failed; its log says where. Nothing is known to have changed"
        )

    _describe(app)
    app.add_exception_handler(BucketlineError, ours)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, defect)


def _allowed(app: FastAPI, request: Request, found: str) -> str:
    """The methods of all routes of the path; ``found``: of the one that the router came upon first."""
    template = getattr(request.scope.get("route"), "path", "")
    methods = {method.upper() for method in app.openapi()["paths"].get(template, {})}
    methods |= {method for method in found.split(", ") if method}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _describe(app: FastAPI) -> None:
    """Tell OpenAPI of the problem document: no route returns the model, so FastAPI does not find it by itself."""
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


def from_pydantic(error: ValidationError, body: Any) -> Invalid:
    """The same answer for a model that a route reads by itself."""
    return _invalid([{**each, "loc": ("body", *each["loc"])} for each in error.errors()], body)


def _invalid(errors: Sequence[Any], body: Any) -> Invalid:
    """The first field that is wrong, by its dotted path, and what would do; the first ``MAX_ERRORS`` of them in
    ``errors``. Of the members of a union the one is told that what was given comes nearest to."""
    found = [{"field": _field(each, body), "detail": _words(each)} for each in errors[:MAX_ERRORS]]
    top = found[0]["field"].partition(".")[0]
    same = [i for i, each in enumerate(found) if each["field"].partition(".")[0] == top]
    told = max(same, key=lambda i: (found[i]["field"].count("."), len(errors[i]["loc"])))
    error, field, detail = errors[told], found[told]["field"], found[told]["detail"]
    given = error.get("input")
    if error["type"] not in ("missing", "extra_forbidden") and not isinstance(given, (dict, list, bytes)):
        detail += f", got {_given(given)}"
    hint, more = _hint(error, field), {}
    if len(errors) > MAX_ERRORS:
        more["num_more_errors"] = len(errors) - MAX_ERRORS
        hint = f"{hint or 'Look at errors'}. {more['num_more_errors']:,} more fields are wrong than are told"
    return Invalid(field, detail, hint, errors=found, **more)


_PAIR_HINT = "Give [width, height]"
_HINTS = {
    "tuple_type": _PAIR_HINT,
}
_NOT_AN_OBJECT = ("model_attributes_type", "model_type", "dict_type")


def _hint(error: Any, field: str) -> str | None:
    if field == "body":
        return "Send one JSON object, with Content-Type: application/json"
    return _PAIR_HINT if _is_of_pair(error) else _HINTS.get(error["type"])


def _words(error: Any) -> str:
    """pydantic's, but where they speak of its own types or of Python's."""
    if error["type"] in _NOT_AN_OBJECT:
        return "must be an object"
    if error["type"] == "too_long" and not _is_of_pair(error):
        about = error["ctx"]
        return f"must have at most {about['max_length']:,} in it, and has {about['actual_length'] or 'more'}"
    if error["type"] == "tuple_type" or _is_of_pair(error):
        return "must be a pair of whole numbers"
    return errors.in_words(error)


def _given(value: Any) -> str:
    """As JSON has it, if it is from there."""
    try:
        return json.dumps(value, ensure_ascii=False)[:80]
    except (TypeError, ValueError):
        return repr(str(value)[:80])


def _is_of_pair(error: Any) -> bool:
    """Whether a size has too few numbers or too many: every tuple of the contract is one of (width, height)."""
    is_short = error["type"] == "missing" and isinstance(error["loc"][-1], int)
    return is_short or (error["type"] == "too_long" and error["ctx"]["field_type"] == "Tuple")


def _field(error: Any, body: Any) -> str:
    """The dotted path of what is wrong as the caller wrote it: what names a member of a union is left out."""
    where, *parts = error["loc"] or ("body",)
    if where != "body":
        return (".".join(map(str, parts)) or str(where))[:MAX_PATH]
    if _is_of_pair(error) and error["type"] == "missing":
        parts.pop()  # the pair is wrong, not its second number
    path, inside = [], body
    for i, part in enumerate(parts):
        is_last = i == len(parts) - 1
        if isinstance(inside, dict) and isinstance(part, str):
            if part in inside or (is_last and error["type"] in ("missing", "extra_forbidden")):
                path.append(part)
                inside = inside.get(part)
        elif isinstance(inside, list) and isinstance(part, int):
            path.append(str(part))
            inside = inside[part] if part < len(inside) else None
    return ".".join(path)[:MAX_PATH] or "body"
