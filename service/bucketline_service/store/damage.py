"""What is read from the store and cannot be what was written there: one run's trouble, and no other's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from bucketline_service.errors import Damaged
from bucketline_service.store.port import MAX_WORLD_SIZE, Generation, RankRecord

_MAX = 2**63


def damaged(run: str, what: str, why: str) -> Damaged:
    return Damaged(
        f"{what} in the store cannot be read ({why[:200]}). Nothing was changed. Put the store back from a backup, or "
        f"delete run {run!r}, put it again and start its job from the checkpoint",
        run=run,
    )


@contextmanager
def reading(run: str, what: str) -> Iterator[None]:
    """Where unpacking fails, ``Damaged``."""
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:
        raise damaged(run, what, str(error)) from error


def sound_generation(value: Generation) -> Generation:
    """The same; ``ValueError`` where a field holds what it never can."""
    _check_whole(value.number, *value.origin, value.offset, value.world_size, value.lockstep or 0)
    if not 1 <= value.world_size <= MAX_WORLD_SIZE:
        raise ValueError(f"a world size of {value.world_size}")
    _check_text(value.birth, value.session or "")
    return value


def sound_rank(value: RankRecord) -> RankRecord:
    """The same; ``ValueError`` where a field holds what it never can."""
    _check_whole(value.rank, value.lease, *value.cursor, *value.lease_cursor)
    if value.rank >= MAX_WORLD_SIZE:
        raise ValueError(f"rank {value.rank}")
    _check_text(value.holder)
    if not (math.isfinite(value.leased_at_s) and math.isfinite(value.last_seen_s)):
        raise ValueError("a time is no number")
    return value


def _check_whole(*numbers: object) -> None:
    for number in numbers:
        if type(number) is not int or not 0 <= number < _MAX:
            raise ValueError(f"{number!r} in place of a whole number")


def _check_text(*texts: object) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{type(text).__name__} in place of text")
