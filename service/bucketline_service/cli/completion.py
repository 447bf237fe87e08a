"""Shell completion of names: asked of the coordinator with a short timeout; without an answer there are none."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import typer

from bucketline import BucketlineError, Operator

LOCAL = "http://127.0.0.1:7700"
TIMEOUT_S = 0.7
LADDERS = ("novelai", "kohya", "geometric", "fitted", "native")
"""Kinds that need no other field. Listed here, because completion does not load the planner."""
PRESETS = ("sd15", "sdxl", "pixart-512", "pixart-1024")
"""Preset ladders; a test compares them with the planner's."""


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    return _beginning(incomplete, ctx, lambda operator: [each["run"] for each in operator.runs()])


def maps(ctx: typer.Context, incomplete: str) -> list[str]:
    return _beginning(incomplete, ctx, lambda operator: [each["map"] for each in operator.maps()])


def ladders(incomplete: str) -> list[str]:
    return [name for name in (*LADDERS, *PRESETS) if name.startswith(incomplete)]


def _beginning(incomplete: str, ctx: typer.Context, ask: Callable[[Operator], list[str]]) -> list[str]:
    logging.getLogger("bucketline").addHandler(logging.NullHandler())
    url = ctx.params.get("url") or os.environ.get("BUCKETLINE_URL") or LOCAL
    try:
        with Operator(url, timeout_s=TIMEOUT_S) as operator:
            return [name for name in ask(operator) if name.startswith(incomplete)]
    except (BucketlineError, OSError):
        return []
