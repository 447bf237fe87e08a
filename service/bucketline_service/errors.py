"""The errors of the service as one tree. ``http/problems.py`` gives each its HTTP status and title.

BucketlineError
+- Invalid            the request is wrong: names the field or row, and what it must be
+- TooLarge           a body, a count or a file is over its limit
+- NotFound           no such map, run, rank or image
+- Conflict           the name is taken by other content, or the thing is in use
+- Fenced             a newer lease or generation has taken over; nothing was changed
+- PlanMismatch       a state dict of another plan, or a run of another release's
+- Damaged            a record in the store cannot be read; other runs are not affected
+- Planning           the plan is still being built: try again later
+- StoreUnavailable   the store does not answer in time: the outcome is unknown, try again
"""

# N818: these are the protocol's own words (``fenced``, ``not_found``); a suffix would only make them longer.
# ruff: noqa: N818

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class BucketlineError(Exception):
    """Base of every error that a caller may see.

    ``detail`` is a sentence for people; ``extra`` are members for programs, which the problem document has too.
    """

    code = "error"

    def __init__(self, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (type(self), self.args, self.__dict__)


def _remade(kind: type[BucketlineError], args: tuple[Any, ...], state: dict[str, Any]) -> BucketlineError:
    """Rebuild an error that was pickled: ``__init__`` may take other arguments than ``args``."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class Invalid(BucketlineError):
    """``field`` names what is wrong: a dotted path in the body, a parameter, a column or a row. ``hint`` says what to
    do."""

    code = "invalid"

    def __init__(self, field: str, detail: str, hint: str | None = None, **extra: Any) -> None:
        message = f"{field}: {detail}" + (f". {hint}" if hint else "")
        super().__init__(message, field=field, **extra)
        self.field = field


class TooLarge(BucketlineError):
    code = "too_large"


class NotFound(BucketlineError):
    code = "not_found"


class Conflict(BucketlineError):
    code = "conflict"


class Fenced(BucketlineError):
    code = "fenced"


class PlanMismatch(BucketlineError):
    code = "plan_mismatch"


class Damaged(BucketlineError):
    code = "damaged"


class Planning(BucketlineError):
    code = "planning"


class StoreUnavailable(BucketlineError):
    code = "store_unavailable"


def in_words(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors in plain words, to stand after the name of the field."""
    plain = _PLAIN.get(error["type"])
    if plain is None:
        return str(error["msg"])
    bounds = dict(error.get("ctx", {}))
    for name, value in bounds.items():
        bounds[name] = int(value) if isinstance(value, float) and value.is_integer() else value
    return plain.format(**bounds)


_PLAIN = {
    "missing": "is missing, and has no default",
    "extra_forbidden": "there is no such field: is it misspelt?",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "must be an integer"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    "finite_number": "must be a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "string_type": "must be a string",
    "list_type": "must be a list",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length:,} characters",
    "too_short": "must have {min_length} or more items, got {actual_length}",
    "too_long": "must have at most {max_length:,} items",
}
"""By pydantic's error type. Other types keep pydantic's message."""
