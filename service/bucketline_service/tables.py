"""Answers of the coordinator as tables for a terminal; rich leaves the colours out where it is piped."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

Json = dict[str, Any]
_BAR = 30


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


def maps(console: Console, answer: Json) -> None:
    table = _table("map", "#images", "ids", "digest")
    for each in answer["maps"]:
        table.add_row(each["map"], f"{each['num_images']}", each["id_kind"], each["digest"][:16])
    console.print(table if answer["maps"] else "no maps yet: bucketline map put NAME FILE")


def run_line(console: Console, answer: Json) -> None:
    steps = "" if answer["num_steps"] is None else f", {answer['num_steps']} steps an epoch"
    console.print(f"{answer['run']}: {answer['status']}, {answer['world_size']} ranks{steps}")


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
        table.add_row(each["run"], each["spec"]["map"], each["status"], *map(str, cells))
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
