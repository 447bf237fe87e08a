"""From pydantic's validation errors to ``Invalid``: which field of the request is wrong, and what it must be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from bucketline_service.errors import Invalid, in_words

Error = Mapping[str, Any]
"""One of pydantic's errors; its ``loc`` begins with ``body``, ``path`` or ``query``."""

MAX_ERRORS, MAX_PATH = 20, 200
"""Errors in one answer, and characters of a field's path: both are as long as the caller makes them."""

_OBJECT_HINT = "Send one JSON object, with Content-Type: application/json"
_PAIR_HINT = "Give [width, height]"
_NOT_AN_OBJECT = ("model_attributes_type", "model_type", "dict_type")


def located(error: ValidationError, *where: str | int) -> list[Error]:
    """The errors of a value that stands at ``where`` in the request."""
    return [{**each, "loc": (*where, *each["loc"])} for each in error.errors()]


def invalid_body(error: ValidationError, body: Any) -> Invalid:
    return invalid(located(error, "body"), body)


def invalid(errors: Sequence[Error], body: Any) -> Invalid:
    """Describes the first wrong field. Where its errors are those of a union's members, describes the member that comes
    nearest to what was given. ``errors`` of the answer lists the first ``MAX_ERRORS``."""
    found = [{"field": _field(each, body), "detail": _words(each)} for each in errors[:MAX_ERRORS]]
    top = found[0]["field"].partition(".")[0]
    same = [i for i, each in enumerate(found) if each["field"].partition(".")[0] == top]
    nearest = max(same, key=lambda i: (found[i]["field"].count("."), len(errors[i]["loc"])))
    error, field, detail = errors[nearest], found[nearest]["field"], found[nearest]["detail"]
    given = error.get("input")
    if error["type"] not in ("missing", "extra_forbidden") and not isinstance(given, (dict, list, bytes)):
        detail += f", got {_as_json(given)}"
    hint, more = _hint(error, field), {}
    if len(errors) > MAX_ERRORS:
        more["num_more_errors"] = len(errors) - MAX_ERRORS
        hint = f"{hint or 'See errors'}. {more['num_more_errors']:,} more fields are wrong"
    return Invalid(field, detail, hint, errors=found, **more)


def _field(error: Error, body: Any) -> str:
    """The dotted path of what is wrong, such as ``ladder.buckets.3``; ``body`` for the body as a whole."""
    where, *parts = error["loc"] or ("body",)
    if where != "body":
        path = [str(part) for part in parts] or [str(where)]
    else:
        # of a pair with one number the pair is wrong, not the number that is missing
        keys: Sequence[str | int] = parts[:-1] if _is_short_pair(error) else parts
        path = list(_keys_in_body(keys, body, error["type"])) or ["body"]
    return ".".join(path)[:MAX_PATH]


def _keys_in_body(keys: Sequence[str | int], body: Any, error_type: str) -> Iterator[str]:
    """Those of pydantic's ``keys`` that the caller wrote: it also names members of unions, which no body has."""
    inside = body
    for i, key in enumerate(keys):
        may_be_absent = i == len(keys) - 1 and error_type in ("missing", "extra_forbidden")
        match inside, key:
            case dict(), str() if key in inside or may_be_absent:
                yield key
                inside = inside.get(key)
            case list(), int():
                yield str(key)
                inside = inside[key] if key < len(inside) else None


def _words(error: Error) -> str:
    """pydantic's message, unless it speaks of pydantic's or Python's own types."""
    if error["type"] in _NOT_AN_OBJECT:
        return "must be an object"
    if error["type"] == "tuple_type" or _is_pair(error):
        return "must be a pair of integers"
    if error["type"] == "too_long":
        about = error["ctx"]
        return f"must have at most {about['max_length']:,} items, got {about['actual_length'] or 'more'}"
    return in_words(error)


def _hint(error: Error, field: str) -> str | None:
    if field == "body":
        return _OBJECT_HINT
    return _PAIR_HINT if error["type"] == "tuple_type" or _is_pair(error) else None


def _is_pair(error: Error) -> bool:
    """Whether a size has too few numbers or too many: every tuple of the API is a (width, height)."""
    return _is_short_pair(error) or (error["type"] == "too_long" and error["ctx"]["field_type"] == "Tuple")


def _is_short_pair(error: Error) -> bool:
    return error["type"] == "missing" and isinstance(error["loc"][-1], int)


def _as_json(value: Any) -> str:
    """A value that came as JSON, as it came."""
    try:
        return json.dumps(value, ensure_ascii=False)[:80]
    except (TypeError, ValueError):
        return repr(str(value)[:80])
