"""Durations, times, rates and counts as a person reads them."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 99.5:
        return f"{max(seconds, 0.0):.0f} s"
    for index, (unit_s, unit) in enumerate(_UNITS):
        if seconds >= unit_s:
            whole, rest = divmod(seconds, unit_s)
            below = int(rest // _UNITS[index + 1][0]) if index < 2 else 0
            return f"{whole:.0f} {unit}" + (f" {below} {_UNITS[index + 1][1]}" if below else "")
    raise AssertionError(seconds)


def time_of_day(at_s: float) -> str:
    """In the local time zone: ``14:03:59``."""
    return f"{datetime.fromtimestamp(at_s):%H:%M:%S}"


def utc(at_s: float) -> str:
    """``2026-11-30T14:03:59Z``."""
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def counted(num: int, what: str) -> str:
    """``1 rank``, ``2 ranks``."""
    return f"{num:,} {what}{'' if num == 1 else 's'}"


def rate(per_s: float) -> str:
    """``12``, ``1.0``, ``0.033``: a step may take a minute."""
    return f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.1f}" if per_s >= 0.1 else f"{per_s:.2g}"
