"""Answers of the coordinator as tables for a terminal; rich leaves the colours out where it is piped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

Json = dict[str, Any]
PRUNED = (
    "max_ar_error",
    "max_crop_loss",
    "min_size",
    "bucket_no_upscale",
    "num_frames",
    "num_repeats",
    "valid_ids",
)
"""Reasons of the planner, which is not loaded for a table."""
_BAR = 30
_NAME = 20


def _table(*columns: str) -> Table:
    """Words to the left, numbers (marked by ``#``) to the right."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(
            column.lstrip("#"), justify="right" if column.startswith("#") else "left", no_wrap=True
        )
    return table


def map_line(console: Console, answer: Json) -> None:
    console.print(f"{answer['map']}: {answer['num_images']} images, digest {answer['digest'][:16]}")
    if repeats := answer.get("num_repeats"):
        console.print("num_repeats {min:g} to {max:g}: {total:.12g} images an epoch".format(**repeats))
    if frames := answer.get("num_frames"):
        console.print("num_frames {min} to {max}".format(**frames))


def maps(console: Console, answer: Json) -> None:
    table = _table("map", "#images", "ids", "digest")
    for each in answer["maps"]:
        table.add_row(each["map"], f"{each['num_images']}", each["id_kind"], each["digest"][:16])
    console.print(table if answer["maps"] else "no maps yet: bucketline map put NAME FILE")


def run_line(console: Console, answer: Json) -> None:
    steps = "" if answer["num_steps"] is None else f", {answer['num_steps']} steps an epoch"
    console.print(f"{answer['run']}: {_status(answer)}, {answer['world_size']} ranks{steps}")


def deleted(console: Console, answer: Json) -> None:
    kind, name = next((kind, answer[kind]) for kind in ("run", "map") if kind in answer)
    console.print(f"{kind} {name} is deleted")


def _status(run: Json) -> str:
    done = run["progress"]
    return str(run["status"]) if done is None else f"{run['status']} {done:.0%}"


def runs(console: Console, answer: Json) -> None:
    table = _table("run", "map", "status", "#ranks", "#generation", "#epoch", "#step", "#steps")
    for each in answer["runs"]:
        state = each["state"] or {"epoch": "", "step": ""}
        cells = (
            each["world_size"],
            each["generation"],
            state["epoch"],
            state["step"],
            each["num_steps"] or "",
        )
        table.add_row(each["run"], each["spec"]["map"], _status(each), *map(str, cells))
    console.print(table if answer["runs"] else "no runs yet: bucketline run put NAME SPEC.json")


def buckets(console: Console, stats: Json) -> None:
    """The bucket table: what each holds, and what becomes of its tail in an epoch. Fits 80 columns."""
    table = _table("#", "#size", "#aspect", "#images", "", "#batches", "#spilled", "#out", "#again", "#crop")
    most = max((bucket["num_images"] for bucket in stats["buckets"]), default=0) or 1
    for each in stats["buckets"]:
        tail, loss = each["tail"], each["crop_loss_served"]
        if not each["num_images"] and not each["num_batches"]:
            continue
        table.add_row(
            str(each["bucket"]),
            f"{each['width']}x{each['height']}",
            f"{each['aspect']:.2f}",
            str(each["num_images"]),
            "█" * round(8 * each["num_images"] / most),
            str(each["num_batches"]),
            str(sum(spill["num_images"] for spill in tail["spilled"])),
            str(tail["left_out"]),
            str(tail["repeated"]),
            "" if loss is None else f"{loss:.1%}",
        )
    console.print(table)
    empty = sum(1 for each in stats["buckets"] if not each["num_images"] and not each["num_batches"])
    if empty:
        console.print(f"and {empty} empty buckets")
    pruned = ", ".join(f"{num} by {reason}" for reason, num in stats["pruned"].items() if num) or "none"
    console.print(
        f"{stats['num_assigned']} of {stats['num_images']} images assigned (pruned: {pruned}); an epoch: "
        f"{stats['num_batches']} batches, {stats['num_steps']} steps on {stats['world_size']} ranks, "
        f"{stats['dropped']} images left out, {stats['repeated']} repeated, {stats['mixed_steps']} mixed steps; "
        f"crop loss {stats['crop_loss_served']:.2%} as served"
    )


def run_detail(console: Console, answer: Json) -> None:
    runs(console, {"runs": [answer["run"]]})
    if answer["run"]["detail"]:
        console.print(answer["run"]["detail"])
    if "stats" not in answer:
        return
    console.print()
    buckets(console, answer["stats"])
    console.print()
    table = _table("#rank", "#epoch", "#step", "#behind", "#batches/s", "holder")
    for each in answer["ranks"]:
        rate = each["batches_per_s"]
        cells = (each["rank"], each["epoch"], each["step"], each["steps_behind"])
        table.add_row(*map(str, cells), "" if rate is None else f"{rate:.1f}", each["holder"] or "")
    console.print(table)


def map_detail(console: Console, answer: Json) -> None:
    map_line(console, answer)
    histogram = answer["histogram"]["aspect"]
    most = max(histogram["num_images"], default=0) or 1
    table = _table("#aspect", "#images", "")
    for low, high, num_images in zip(
        histogram["edges"], histogram["edges"][1:], histogram["num_images"], strict=False
    ):
        if num_images:
            table.add_row(f"{low:.2f} - {high:.2f}", str(num_images), "█" * round(_BAR * num_images / most))
    console.print(table)


def _pruned_by(reason: str, stats: Json) -> object:
    return stats["pruned"].get(reason, 0)


_COSTS: list[tuple[str, Callable[[Json], object]]] = [
    ("images", lambda stats: stats["num_images"]),
    ("  assigned", lambda stats: stats["num_assigned"]),
    ("  pruned", lambda stats: sum(stats["pruned"].values())),
    *((f"    {reason}", partial(_pruned_by, reason)) for reason in PRUNED),
    ("crop loss, mean", lambda stats: f"{stats['crop_loss']['mean']:.2%}"),
    ("  median", lambda stats: f"{stats['crop_loss']['median']:.2%}"),
    ("  p95", lambda stats: f"{stats['crop_loss']['p95']:.2%}"),
    ("  max", lambda stats: f"{stats['crop_loss']['max']:.2%}"),
    ("  as served", lambda stats: f"{stats['crop_loss_served']:.2%}"),
    ("aspect error, mean", lambda stats: f"{stats['aspect_error']['mean']:.4f}"),
    ("  median", lambda stats: f"{stats['aspect_error']['median']:.4f}"),
    ("  p95", lambda stats: f"{stats['aspect_error']['p95']:.4f}"),
    ("  max", lambda stats: f"{stats['aspect_error']['max']:.4f}"),
    ("batches an epoch", lambda stats: stats["num_batches"]),
    ("steps", lambda stats: stats["num_steps"]),
    ("  of mixed shapes", lambda stats: stats["mixed_steps"]),
    ("  imbalance", lambda stats: f"{stats['step_imbalance']:.3f}"),
    ("left out", lambda stats: stats["dropped"]),
    ("  in every epoch", lambda stats: stats["never_served"]),
    ("repeated", lambda stats: stats["repeated"]),
    ("spilled", lambda stats: stats["spilled"]),
    ("shapes", lambda stats: stats["num_shapes"]),
    ("  largest", lambda stats: "{width}x{height}".format(**stats["largest_shape"])),
]


def previews(console: Console, answer: Json, names: list[str]) -> None:
    """A column for each spec; where they do not fit beside each other, the rest in a table below. A reason that prunes
    no image of any has no row."""
    prunes = {reason for each in answer["previews"] for reason, num in _all_pruned(each).items() if num}
    costs = [
        (label, cell) for label, cell in _COSTS if label.strip() in prunes or label.strip() not in PRUNED
    ]
    columns = []
    for name, each in zip(names, answer["previews"], strict=True):
        cells = [str(cell(each["stats"])) if "stats" in each else "-" for _, cell in costs]
        columns.append([_shortened(name), *cells])
    first = max(len(label) for label, _ in costs)
    while columns:
        fits, width = 0, first
        while fits < len(columns) and (not fits or width + 2 + max(map(len, columns[fits])) <= console.width):
            width += 2 + max(map(len, columns[fits]))
            fits += 1
        here, columns = columns[:fits], columns[fits:]
        table = _table("", *(f"#{column[0]}" for column in here))
        for row, (label, _) in enumerate(costs, start=1):
            table.add_row(label, *(column[row] for column in here))
        console.print(table)
        if columns:
            console.print()
    for name, each in zip(names, answer["previews"], strict=True):
        if "problem" in each:
            console.print(f"{name}: {each['problem']['detail']}")


def _all_pruned(preview: Json) -> dict[str, int]:
    found: dict[str, int] = preview["stats"]["pruned"] if "stats" in preview else {}
    return found


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"
