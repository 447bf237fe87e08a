"""Arguments of the public calls, checked before anything is asked: a wrong one must not have taken a lease."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from ._errors import UsageError


def whole(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """``value`` as an int: NumPy's integers are welcome, ``"0"`` (``os.environ["RANK"]``) and True are not."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < least or (most is not None and number > most):
        span = f"of {least} or more" if most is None else f"from {least} to {most}"
        raise UsageError(f"{name}: a whole number {span} was expected, not {value!r}")
    return number


def seconds(name: str, value: Any, *, may_be_zero: bool = False) -> float:
    """``value`` as a float; infinity is one."""
    try:
        number = -1.0 if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not (number > 0 or (may_be_zero and number == 0)):
        least = "0 or more" if may_be_zero else "more than 0"
        raise UsageError(f"{name}: a number of seconds, {least}, was expected, not {value!r}")
    return number


INCLUDED = ("original_size", "crop")


def includes(value: Sequence[str]) -> tuple[str, ...]:
    """What batches are asked to tell besides, each once."""
    if isinstance(value, str) or any(name not in INCLUDED for name in value):
        raise UsageError(
            f"include: a list of {' and '.join(map(repr, INCLUDED))} was expected, not {value!r}"
        )
    return tuple(name for name in INCLUDED if name in value)
