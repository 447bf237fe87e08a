"""``bucketline top``: a screen that follows runs while they are trained."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import replace
from types import FrameType
from typing import Annotated

import typer
from rich.console import RenderableType

from bucketline import CoordinatorUnavailable, Operator
from bucketline_service.cli.connection import connect
from bucketline_service.cli.errors import errors
from bucketline_service.cli.events import OptionalRun
from bucketline_service.cli.options import LOCAL, Url
from bucketline_service.cli.output import console
from bucketline_service.terminal import top as text
from bucketline_service.terminal.escapes import printable

TIMEOUT_S = 3.0
"""How long a refresh may take before the screen says that there is no answer."""


def top(
    run: OptionalRun = None,
    interval_s: Annotated[
        float, typer.Option("--interval-s", help="Seconds between two refreshes.", min=0.1)
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print the screen once.")] = False,
    url: Url = LOCAL,
) -> None:
    """Follow a run while it is trained, or all runs: progress, slowest ranks, latest events. Ctrl-C ends it.

    Without a terminal the screen is printed once. For scripts: run show --json, run list --json, events --follow.
    """
    with errors():
        with connect(url) as operator:
            snapshot = look(operator, run)
        if once or not sys.stdout.isatty():
            console().print(_screen(snapshot, url, run, None))
            if run is not None and snapshot.runs[0]["status"] == "failed":
                raise typer.Exit(1)
            return
        with connect(url, max(interval_s, TIMEOUT_S)) as operator:
            _follow(operator, snapshot, url, run, interval_s)


def look(operator: Operator, run: str | None) -> text.Snapshot:
    """Raises as the operator's calls do."""
    runs = operator.runs() if run is None else [operator.run(run)]
    ranks = operator.ranks(run) if run is not None and runs[0]["status"] == "ready" else []
    events = operator.events(run, limit=text.MAX_EVENTS)[::-1]
    return text.Snapshot(time.time(), runs, ranks, events)


def _follow(
    operator: Operator, snapshot: text.Snapshot, url: str, run: str | None, interval_s: float
) -> None:
    """Refresh the terminal's alternate screen until Ctrl-C or SIGTERM; the last screen stays on the normal one. While
    the coordinator does not answer, the last snapshot is shown."""
    from rich.live import Live

    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Live(console=console(), screen=True, auto_refresh=False) as live:
            while True:
                live.update(_screen(snapshot, url, run, live.console.height), refresh=True)
                time.sleep(interval_s)
                try:
                    snapshot = look(operator, run)
                except CoordinatorUnavailable as error:
                    snapshot = replace(snapshot, problem=" ".join(str(error.__cause__ or error).split()))
    except KeyboardInterrupt:
        console().print(_screen(snapshot, url, run, None))
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _screen(snapshot: text.Snapshot, url: str, run: str | None, height: int | None) -> RenderableType:
    return text.screen(text.Snapshot(**printable(vars(snapshot))), url, run, time.time(), height)
