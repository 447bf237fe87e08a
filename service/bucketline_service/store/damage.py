"""Damaged records: values in the store that cannot have been written there. They affect one run and no other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from bucketline_service.errors import Damaged
from bucketline_service.store.port import MAX_WORLD_SIZE, Generation, ImageReport, RankRecord

_MAX = 2**63


def damaged(run: str, what: str, why: str) -> Damaged:
    return Damaged(
        f"{what} in the store cannot be read ({why[:200]}). Nothing was changed. Restore the store from a backup, or "
        f"delete run {run!r}, put it again and start its job from the checkpoint",
        run=run,
    )


@contextmanager
def reading(run: str, what: str) -> Iterator[None]:
    """Raise ``Damaged`` if unpacking fails inside."""
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:
        raise damaged(run, what, str(error)) from error


def sound_generation(value: Generation) -> Generation:
    """``value``; raises ``ValueError`` if a field has an impossible value."""
    _check_whole(value.number, *value.origin, value.offset, value.world_size, value.lockstep or 0)
    if not 1 <= value.world_size <= MAX_WORLD_SIZE:
        raise ValueError(f"a world size of {value.world_size}")
    _check_text(value.birth, value.session or "")
    return value


def sound_rank(value: RankRecord) -> RankRecord:
    """``value``; raises ``ValueError`` if a field has an impossible value."""
    _check_whole(value.rank, value.lease, *value.cursor, *value.lease_cursor)
    if value.rank >= MAX_WORLD_SIZE:
        raise ValueError(f"rank {value.rank}")
    _check_text(value.holder)
    if not (math.isfinite(value.leased_at_s) and math.isfinite(value.last_seen_s)):
        raise ValueError("a time is not a finite number")
    return value


def sound_report(value: ImageReport) -> ImageReport:
    """``value``; raises ``ValueError`` if a field has an impossible value."""
    _check_whole(value.number, value.count, *value.first, *value.last)
    _check_text(value.image, value.reason, value.detail or "")
    if not (math.isfinite(value.first_at_s) and math.isfinite(value.last_at_s)):
        raise ValueError("a time is not a finite number")
    return value


def _check_whole(*numbers: object) -> None:
    for number in numbers:
        if type(number) is not int or not 0 <= number < _MAX:
            raise ValueError(f"must be an integer >= 0, got {number!r}")


def _check_text(*texts: object) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"must be text, got {type(text).__name__}")
