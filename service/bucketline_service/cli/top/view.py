"""A look at runs, drawn for a screen, or as lines."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bucketline_service import tables
from bucketline_service.cli import formatting, phrases
from bucketline_service.cli.top.model import Json, Look

MOST_EVENTS = 8
BAR_WIDTH = 24
STYLES = {"ready": "green", "planning": "yellow", "failed": "red"}


def lines(look: Look) -> Iterator[str]:
    """One for each run."""
    if look.problem is not None:
        yield f"{phrases.moment(look.at_s)} {_problem(look)}"
        return
    for run in look.runs:
        parts = [f"{run['run']}: {_status(run)}", *filter(None, (_place(run), _pace(look, run)))]
        if look.ranks:
            slowest = look.ranks[0]
            behind = slowest["steps_behind"]
            parts.append(
                f"rank {slowest['rank']} is {phrases.counted(behind, 'step')} behind"
                if behind
                else "all level"
            )
        yield f"{phrases.moment(look.at_s)} " + ", ".join(parts)
    if not look.runs:
        yield f"{phrases.moment(look.at_s)} no runs"


def screen(look: Look, url: str, run: str | None, now_s: float, height: int | None) -> RenderableType:
    """As many ranks (or runs) and events as fit ``height`` lines; all ranks and the newest events where it is None."""
    head: list[RenderableType] = [_title(look, url, run)]
    if look.problem is not None:
        head.append(_line(_problem(look), "bold red"))
    if run is None:
        head.append(Text())
        table, num_rows, more = _runs_table, len(look.runs), "run"
    else:
        head += [_progress(look, look.runs[0]), _line(_about(look.runs[0], look.ranks)), Text()]
        table, num_rows, more = _ranks_table, len(look.ranks), "rank"
    num_events = min(len(look.events), MOST_EVENTS if height is None else min(MOST_EVENTS, height // 4))
    # the table's head, the line that says what is not format, an empty line above the events
    rest = 2 + (num_events + 1 if num_events else 0)
    most = num_rows if height is None else max(0, min(num_rows, height - len(head) - rest))
    body: list[RenderableType] = [table(look, most, now_s)] if num_rows else []
    if most < num_rows:
        body.append(_line(f"and {phrases.counted(num_rows - most, more)} more", "dim"))
    if num_events:
        body += [Text(), *(_line(formatting.event_line(each)) for each in look.events[-num_events:])]
    return Group(*head, *body)


def _title(look: Look, url: str, run: str | None) -> RenderableType:
    title = Text.assemble(
        ("bucketline top", "bold"),
        "  ",
        (run if run is not None else phrases.counted(len(look.runs), "run"), "bold cyan"),
    )
    if run is not None:
        title.append("  ").append(_status(look.runs[0]), STYLES.get(look.runs[0]["status"], ""))
    return _cropped(title.append(f"  {url}  {phrases.clock(look.at_s)}", "dim"))


def _progress(look: Look, run: Json) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    for _ in range(2):
        grid.add_column(no_wrap=True)
    text = ", ".join(filter(None, (_place(run), _pace(look, run)))) or run["detail"] or "waiting for a plan"
    grid.add_row(_bar(run), Text(text, overflow="ellipsis"))
    return grid


def _bar(run: Json) -> RenderableType:
    return ProgressBar(total=1.0, completed=_share(run), width=BAR_WIDTH)


def _share(run: Json) -> float:
    """Of the epoch that is done; of the plan, while there is none."""
    if run["status"] == "planning":
        return float(run["progress"] or 0.0)
    if not run["state"]:
        return 0.0
    if not run["num_steps"]:
        return 1.0
    # of its batches: begun on other ranks, an epoch has steps of more than one size
    done = run["state"]["offset"]
    left = (run["num_steps"] - run["state"]["step"]) * run["world_size"]
    return float(done / (done + left)) if left else 1.0


def _status(run: Json) -> str:
    return f"planning {run['progress'] or 0.0:.0%}" if run["status"] == "planning" else str(run["status"])


def _place(run: Json) -> str:
    if not run["state"]:
        return ""
    epoch, step = run["state"]["epoch"], run["state"]["step"]
    if not run["num_steps"]:
        return f"done, {phrases.counted(epoch, 'epoch')}"
    return f"epoch {epoch} step {step:,}/{run['num_steps']:,} ({_share(run):.0%})"


def _pace(look: Look, run: Json) -> str:
    rate, left_s = look.rates.get(run["run"]), look.left_s(run)
    if not rate:
        return ""
    return f"{phrases.rate(rate)} steps/s" + (
        f", {phrases.lasting(left_s)} left" if left_s is not None else ""
    )


def _about(run: Json, ranks: list[Json]) -> str:
    free = sum(each["holder"] is None for each in ranks)
    session = f", session {run['session']}" if run["session"] else ""
    held = f", {free:,} without a holder" if free else ""
    return f"generation {run['generation']}{session}, {phrases.counted(run['world_size'], 'rank')}{held}"


def _ranks_table(look: Look, most: int, now_s: float) -> RenderableType:
    return formatting.ranks_table(look.ranks[:most], now_s)


def _runs_table(look: Look, most: int, now_s: float) -> RenderableType:
    table = tables.Columns("run", "status", "?", "epoch and step", "#ranks?", "#steps/s?", "#left?")
    for run in look.runs[:most]:
        rate, left_s = look.rates.get(run["run"]), look.left_s(run)
        table.add_row(
            run["run"],
            Text(_status(run), STYLES.get(run["status"], "")),
            ProgressBar(total=1.0, completed=_share(run), width=BAR_WIDTH // 2),
            _place(run),
            f"{run['world_size']:,}" if run["world_size"] else "",
            phrases.rate(rate) if rate else "",
            phrases.lasting(left_s) if left_s is not None else "",
        )
    return table


def _problem(look: Look) -> str:
    return f"no answer since {phrases.clock(look.at_s)}, trying ({look.problem})"


def _line(text: str, style: str = "") -> Text:
    return _cropped(Text(text, style))


def _cropped(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
