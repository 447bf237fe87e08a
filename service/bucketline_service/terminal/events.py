"""The text of ``bucketline events``: a line for each entry of the event log."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

from bucketline_service.terminal import readable

Json = dict[str, Any]


def listing(console: Console, answer: Json) -> None:
    if answer["num_more"]:
        older = readable.counted(answer["num_more"], "older event")
        console.print(f"and {older}: --most shows more")
    for each in answer["events"]:
        console.print(line(each))
    if not answer["events"]:
        console.print("no events yet")


def line(event: Json) -> str:
    """``2026-11-30T14:03:59Z  lease_given  run first  rank 3  holder=host-3``."""
    where = [f"run {event['run']}"] if event["run"] is not None else []
    where += [f"rank {event['rank']}"] if event["rank"] is not None else []
    fields = [f"{name}={_value(value)}" for name, value in event["fields"].items()]
    times = [f"{event['count']} times"] if event["count"] > 1 else []
    return "  ".join([readable.utc(event["at"]), event["event"], *times, *where, *fields])


def _value(value: object) -> str:
    return value if isinstance(value, str) and value and " " not in value else json.dumps(value)
