"""Arguments of the public calls, checked before any request: a call with a wrong one must not take a lease."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, cast

from ._errors import UsageError


def whole(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """``value`` as an int: NumPy's integers are accepted, ``"0"`` (``os.environ["RANK"]``) and True are not."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < least or (most is not None and number > most):
        span = f">= {least}" if most is None else f"from {least} to {most}"
        raise UsageError(f"{name} must be an integer {span}, got {value!r}")
    return number


def seconds(name: str, value: Any, *, may_be_zero: bool = False) -> float:
    """``value`` as a float; infinity is accepted."""
    try:
        number = -1.0 if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not (number > 0 or (may_be_zero and number == 0)):
        raise UsageError(
            f"{name} must be a number of seconds {'>=' if may_be_zero else '>'} 0, got {value!r}"
        )
    return number


INCLUDABLE = ("original_size", "crop")


def includes(value: Sequence[str]) -> tuple[str, ...]:
    """What batches contain in addition, each name once."""
    if isinstance(value, str) or any(name not in INCLUDABLE for name in value):
        names = " and ".join(map(repr, INCLUDABLE))
        raise UsageError(f"include must be a list of {names}, got {value!r}")
    return tuple(name for name in INCLUDABLE if name in value)


REASONS = ("unreadable", "missing", "wrong_size", "rejected", "other")
MAX_DETAIL = 200


def report_reason(value: str) -> str:
    """Why an image could not be used."""
    if value not in REASONS:
        raise UsageError(f"reason must be one of {', '.join(map(repr, REASONS))}, got {value!r}")
    return value


def report_detail(value: object) -> str | None:
    """The first characters of what a reader said. A path in it may have bytes that are not text."""
    try:
        text = None if value is None else str(value)
    except Exception:  # an exception that cannot say what it is
        text = type(value).__name__
    return None if text is None else text[:MAX_DETAIL].encode(errors="replace").decode()


def image_ids(value: Any) -> list[int | str]:
    """One id, or the ids of a list, an array or a tensor, as ints and strings."""
    single = _image_id(value)
    if single is not None:
        return [single]
    try:
        ids = [_image_id(each) for each in value]
    except TypeError:
        ids = [None]
    if not ids or any(each is None for each in ids):
        raise UsageError(f"ids must be the id of an image, or a list of ids, got {value!r:.200}")
    return cast("list[int | str]", ids)


def _image_id(value: Any) -> int | str | None:
    if isinstance(value, (str, bool)):
        return str(value) if isinstance(value, str) else None
    try:
        return operator.index(value)
    except TypeError:
        return None


def check_token(token: str, source: str = "token") -> str:
    """The token unchanged; ``UsageError``, which does not show it, if an HTTP header cannot carry it."""
    if not isinstance(token, str):
        raise UsageError(f"{source} must be a string, got {type(token).__name__}")
    if token != token.strip() or not token.isprintable():
        raise UsageError(
            f"{source} must have no white space around it and no control characters (does it still end with a line "
            "break?)"
        )
    return token
