"""The text of ``bucketline run put``, ``run list``, ``run show``, ``run stats`` and ``run ranks``."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

from bucketline_service.terminal import plan_costs, readable
from bucketline_service.terminal.columns import Columns

Json = dict[str, Any]
MAX_RANKS = 32
"""How many of its ranks are shown with a run: the slowest."""


def put(console: Console, run: Json) -> None:
    steps = "" if run["num_steps"] is None else f", {run['num_steps']} steps an epoch"
    console.print(f"{run['run']}: {status(run)}, {run['world_size']} ranks{steps}")


def deleted(console: Console, answer: Json) -> None:
    kind, name = next((kind, answer[kind]) for kind in ("run", "map") if kind in answer)
    console.print(f"{kind} {name} is deleted")


def listing(console: Console, answer: Json) -> None:
    table = Columns("run", "map?", "status", "#ranks?", "#generation?", "#epoch", "#step", "#steps")
    for each in answer["runs"]:
        state = each["state"] or {"epoch": "", "step": ""}
        cells = (
            each["world_size"] or "",
            each["generation"] or "",
            state["epoch"],
            state["step"],
            each["num_steps"] or "",
        )
        table.add_row(each["run"], _maps_of(each["spec"] or {}), status(each), *map(str, cells))
    hint = "no runs yet: bucketline run put NAME --map MAP --world-size N --batch-size N"
    console.print(table if answer["runs"] else hint)


def show(console: Console, answer: Json) -> None:
    run = answer["run"]
    listing(console, {"runs": [run]})
    if run["detail"]:
        console.print(run["detail"])
    if progress := epoch_progress(run):
        console.print(progress)
    if "stats" not in answer:
        return
    plan_costs.warnings(console, run.get("warnings") or [])
    console.print()
    plan_costs.plan(console, answer["stats"])
    console.print()
    slowest, num_more = slowest_first(answer["ranks"], MAX_RANKS)
    console.print(ranks_table(slowest, time.time()))
    if num_more:
        console.print(f"and {readable.counted(num_more, 'more rank')}: bucketline run ranks {run['run']}")


def stats(console: Console, answer: Json) -> None:
    plan_costs.plan(console, answer)
    console.print()
    plan_costs.comparison_table(console, {"previews": [{"spec": {}, "stats": answer}]}, [answer["run"]])


def ranks(console: Console, answer: Json) -> None:
    console.print(ranks_table(answer["ranks"], time.time()))
    if answer["num_more"]:
        console.print(f"and {readable.counted(answer['num_more'], 'more rank')}, no further behind")


def ranks_table(ranks: list[Json], now_s: float) -> Columns:
    """``now_s``: Unix seconds, to show how long ago each rank was last seen."""
    table = Columns("#rank", "#epoch?", "#step", "#behind", "#batches/s?", "#last seen?", "holder?")
    for each in ranks:
        rate, last_seen = each["batches_per_s"], each["last_seen"]
        cells = [*map(str, (each["rank"], each["epoch"], each["step"], each["steps_behind"]))]
        cells.append("" if rate is None else readable.rate(rate))
        cells.append("never" if last_seen is None else f"{readable.duration(now_s - last_seen)} ago")
        table.add_row(*cells, each["holder"] or "", style="yellow" if each["steps_behind"] else "")
    return table


def slowest_first(ranks: list[Json], most: int | None = None) -> tuple[list[Json], int]:
    """At most ``most`` ranks (all unless given), and how many more there are."""
    ordered = sorted(ranks, key=lambda each: (-each["steps_behind"], each["rank"]))
    shown = ordered[:most]
    return shown, len(ordered) - len(shown)


def status(run: Json) -> str:
    """``ready``, or ``planning 43%``."""
    share = run["progress"]
    return str(run["status"]) if share is None else f"{run['status']} {share:.0%}"


def epoch_progress(run: Json) -> str:
    """``epoch 0 step 40/100 (40%), 0.5 steps/s, 2 min left``; empty while there is no plan."""
    progress = run.get("epoch_progress")
    if progress is None:
        return ""
    epoch, step = run["state"]["epoch"], run["state"]["step"]
    if progress["activity"] == "finished":
        return f"done, {readable.counted(epoch, 'epoch')}"
    parts = [f"epoch {epoch} step {step:,}/{run['num_steps']:,} ({progress['share']:.0%})"]
    if progress["steps_per_s"]:
        parts.append(f"{readable.rate(progress['steps_per_s'])} steps/s")
    if progress["left_s"] is not None:
        parts.append(f"{readable.duration(progress['left_s'])} left")
    return ", ".join(parts)


def _maps_of(spec: Json) -> str:
    first, *others = (
        [spec.get("map", "")] if spec.get("maps") is None else [each["map"] for each in spec["maps"]]
    )
    return f"{first}" + (f" and {len(others)} more" if others else "")
