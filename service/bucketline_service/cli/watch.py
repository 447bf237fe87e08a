"""``bucketline top``, ``events`` and ``status``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from bucketline import CoordinatorUnavailable, Operator
from bucketline_service.cli import completion, formatting, phrases
from bucketline_service.cli.common import (
    LOCAL,
    AsJson,
    Url,
    call,
    connect,
    errors,
    tell,
)

FOLLOW_S = 1.0
MAX_EVENTS = 1000
LOOK_S = 3.0
"""How long a look may take before it is told that there is no answer."""
Seldom = Annotated[float, typer.Option("--interval-s", help="Seconds from one look to the next.", min=0.1)]
OneRun = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", help="Name of the run [all of them].", autocompletion=completion.runs),
]


def top(
    run: OneRun = None,
    interval_s: Seldom = 2.0,
    once: Annotated[bool, typer.Option("--once", help="One look, and no more.")] = False,
    url: Url = LOCAL,
    as_json: Annotated[
        bool, typer.Option("--json", help="Each look as a line of JSON, for scripts.")
    ] = False,
) -> None:
    """A run as it is trained, until Ctrl-C: how far its epoch is, its slowest ranks, what has happened.

    Where the output is no terminal: a line for each run and look.
    """
    from bucketline_service.cli.top import loop

    with errors():
        watch = loop.Watch(url, run)
        with connect(url) as operator:
            look = watch.first(operator)
        if once:
            tell(look.document(), as_json, lambda console, _: console.print(watch.frame(None)))
            if run is not None and look.runs[0]["status"] == "failed":
                raise typer.Exit(1)
            return
        with connect(url, max(interval_s, LOOK_S)) as operator:
            loop.follow(watch, operator, interval_s, as_json)


def events(
    run: OneRun = None,
    most: Annotated[int, typer.Option("--most", help="How many, the newest.", min=1, max=MAX_EVENTS)] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on, until Ctrl-C.")] = False,
    url: Url = LOCAL,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, for scripts; with --follow a line for each event.")
    ] = False,
) -> None:
    """What has happened: sessions, leases, fences, faults of the store. The newest come last."""
    with errors(), connect(url) as operator:
        if not follow:
            found = operator.events(run, limit=MAX_EVENTS)[::-1]
            newest = {"events": found[-most:], "num_more": max(0, len(found) - most)}
            tell(newest, as_json, formatting.events)
            return
        for each in _following(operator, run, most):
            line = json.dumps(each) if as_json else formatting.event_line(phrases.harmless(each))
            print(line, flush=True)


def status(url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Whether the coordinator can serve: its store, its maps, its version."""
    call(url, lambda operator: {**operator.status(), "url": operator.url}, as_json, formatting.status)


def _following(operator: Operator, run: str | None, most: int) -> Iterator[dict[str, Any]]:
    """The newest ``most``, and then what is new, also after a while without an answer."""
    found, newest = operator.events(run, limit=most), None
    while True:
        yield from reversed(found)
        newest = found[0]["id"] if found else newest
        time.sleep(FOLLOW_S)
        try:
            found = operator.events(run, limit=most if newest is None else MAX_EVENTS, after=newest)
        except CoordinatorUnavailable:
            found = []
