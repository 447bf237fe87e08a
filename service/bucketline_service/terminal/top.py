"""The screen of ``bucketline top``: one run with its slowest ranks, or all runs, and the latest events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.text import Text

from bucketline_service.terminal import events, readable, runs
from bucketline_service.terminal.columns import Columns

Json = dict[str, Any]
MAX_EVENTS = 8
BAR_WIDTH = 24
STYLES = {"ready": "green", "planning": "yellow", "failed": "red"}


@dataclass(frozen=True)
class Snapshot:
    """The coordinator's answers at one time. ``at_s``: Unix seconds; ``ranks``: of a single run that is planned;
    ``problem``: why there has been no answer since then."""

    at_s: float
    runs: list[Json]
    ranks: list[Json] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    problem: str | None = None


def screen(snapshot: Snapshot, url: str, run: str | None, now_s: float, height: int | None) -> RenderableType:
    """As many ranks (or runs) and events as fit ``height`` lines; all of them where it is None."""
    head: list[RenderableType] = [_title(snapshot, url, run)]
    if snapshot.problem is not None:
        since = readable.time_of_day(snapshot.at_s)
        head.append(_line(f"no answer since {since}, trying again ({snapshot.problem})", "bold red"))
    if run is not None:
        head += [_bar(snapshot.runs[0], BAR_WIDTH), _line(_about(snapshot.runs[0], snapshot.ranks))]
    rows = snapshot.runs if run is None else runs.slowest_first(snapshot.ranks)[0]
    latest = snapshot.events[-(MAX_EVENTS if height is None else min(MAX_EVENTS, height // 4)) :]
    # besides: an empty line and a heading above the table, a line for what is not shown, one above the events
    num_shown = len(rows) if height is None else max(0, height - len(head) - len(latest) - 4)
    table = _runs_table(rows[:num_shown]) if run is None else runs.ranks_table(rows[:num_shown], now_s)
    body: list[RenderableType] = [Text(), table] if rows else []
    if num_more := len(rows) - len(rows[:num_shown]):
        body.append(
            _line(f"and {readable.counted(num_more, 'more run' if run is None else 'more rank')}", "dim")
        )
    return Group(*head, *body, Text(), *(_line(events.line(each)) for each in latest))


def _title(snapshot: Snapshot, url: str, run: str | None) -> RenderableType:
    about = run if run is not None else readable.counted(len(snapshot.runs), "run")
    title = Text.assemble(("bucketline top", "bold"), "  ", (about, "bold cyan"))
    if run is not None:
        title.append("  ").append(_status(snapshot.runs[0]))
    return _cropped(title.append(f"  {url}  {readable.time_of_day(snapshot.at_s)}", "dim"))


def _status(run: Json) -> Text:
    return Text(runs.status(run), STYLES.get(run["status"], ""))


def _bar(run: Json, width: int) -> ProgressBar:
    """Of the epoch, or of the plan while it is built."""
    progress = run.get("epoch_progress")
    share = run["progress"] if progress is None else progress["share"]
    return ProgressBar(total=1.0, completed=share or 0.0, width=width)


def _about(run: Json, ranks: list[Json]) -> str:
    free = sum(each["holder"] is None for each in ranks)
    session = f", session {run['session']}" if run["session"] else ""
    not_held = f", {free:,} without a worker" if free else ""
    where = runs.epoch_progress(run) or run["detail"] or "waiting for a plan"
    return f"{where}; generation {run['generation']}{session}, {readable.counted(run['world_size'], 'rank')}{not_held}"


def _runs_table(rows: list[Json]) -> RenderableType:
    table = Columns("run", "status", "?", "#ranks?", "progress")
    for run in rows:
        ranks = f"{run['world_size']:,}" if run["world_size"] else ""
        table.add_row(run["run"], _status(run), _bar(run, BAR_WIDTH // 2), ranks, runs.epoch_progress(run))
    return table


def _line(text: str, style: str = "") -> Text:
    return _cropped(Text(text, style))


def _cropped(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
