"""``bucketline events``: the newest entries of the event log, and with ``--follow`` those to come."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from bucketline import CoordinatorUnavailable, Operator
from bucketline_service.cli import completion
from bucketline_service.cli.connection import connect
from bucketline_service.cli.errors import errors
from bucketline_service.cli.options import LOCAL, Url
from bucketline_service.cli.output import print_answer
from bucketline_service.terminal import events as text
from bucketline_service.terminal.escapes import printable

FOLLOW_S = 1.0
MAX_EVENTS = 1000
OptionalRun = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", help="Name of the run [all of them].", autocompletion=completion.runs),
]


def events(
    run: OptionalRun = None,
    most: Annotated[
        int, typer.Option("--most", help="How many of the newest events to show.", min=1, max=MAX_EVENTS)
    ] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Also show new events, until Ctrl-C.")
    ] = False,
    url: Url = LOCAL,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, for scripts; with --follow a line for each event.")
    ] = False,
) -> None:
    """Show what has happened, the newest last: sessions, leases, fences, faults of the store."""
    with errors(), connect(url) as operator:
        if not follow:
            found = operator.events(run, limit=MAX_EVENTS)[::-1]
            newest = {"events": found[-most:], "num_more": max(0, len(found) - most)}
            print_answer(newest, as_json, text.listing)
            return
        for each in _following(operator, run, most):
            print(json.dumps(each) if as_json else text.line(printable(each)), flush=True)


def _following(operator: Operator, run: str | None, most: int) -> Iterator[dict[str, Any]]:
    """The newest ``most`` events, then new ones, also after a while without an answer."""
    found, newest = operator.events(run, limit=most), None
    while True:
        yield from reversed(found)
        newest = found[0]["id"] if found else newest
        time.sleep(FOLLOW_S)
        try:
            found = operator.events(run, limit=most if newest is None else MAX_EVENTS, after=newest)
        except CoordinatorUnavailable:
            found = []
