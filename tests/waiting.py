"""Waiting for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

DEADLINE_S, EVERY_S = 60.0, 0.02


def until(what: str, condition: Callable[[], T], passing: type[Exception] | tuple[()] = ()) -> T:
    """What the condition gives, as soon as it is true. ``passing``: an error that means that it is not yet."""
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        with suppress(passing):
            if found := condition():
                return found
        time.sleep(EVERY_S)
    raise AssertionError(f"after {DEADLINE_S:g} s it does not hold that {what}")
