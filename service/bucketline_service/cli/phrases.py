"""Times, shares and what others have written, as a person reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeVar

_T = TypeVar("_T")

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def lasting(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 99.5:
        return f"{max(seconds, 0.0):.0f} s"
    for index, (unit_s, unit) in enumerate(_UNITS):
        if seconds >= unit_s:
            whole, rest = divmod(seconds, unit_s)
            below = int(rest // _UNITS[index + 1][0]) if index < 2 else 0
            return f"{whole:.0f} {unit}" + (f" {below} {_UNITS[index + 1][1]}" if below else "")
    raise AssertionError(seconds)


def clock(at_s: float) -> str:
    """Time of day, here."""
    return f"{datetime.fromtimestamp(at_s):%H:%M:%S}"


def moment(at_s: float) -> str:
    """Of any day, the same everywhere."""
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def counted(num: int, what: str) -> str:
    """``1 rank``, ``2 ranks``."""
    return f"{num:,} {what}{'' if num == 1 else 's'}"


def rate(per_s: float) -> str:
    """``12``, ``1.0``, ``0.033``: a step may take a minute."""
    return f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.1f}" if per_s >= 0.1 else f"{per_s:.2g}"


def harmless(told: _T) -> _T:
    """The same, with escapes for all in its texts that is not to be seen: a terminal takes some characters for orders,
    and others turn the order of what stands beside them."""
    if isinstance(told, str):
        return "".join(each if each.isprintable() else _escape(each) for each in told)  # type: ignore[return-value]
    if isinstance(told, dict):
        return {harmless(name): harmless(each) for name, each in told.items()}  # type: ignore[return-value]
    if isinstance(told, list):
        return [harmless(each) for each in told]  # type: ignore[return-value]
    return told


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
