"""Answers of the coordinator as tables for a terminal; rich leaves the colours out where it is piped."""

from __future__ import annotations

from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from bucketline_service.previews import comparison

Json = dict[str, Any]
_WIDE = 10_000
_BAR = 30
_NAME = 20
_SHORT_NAME = 12
_BEST = "*"


class Columns:
    """A table: words to the left, numbers (marked by ``#``) to the right. Where a terminal is too narrow, columns
    marked by ``?`` are left out, from the last on."""

    def __init__(self, *columns: str) -> None:
        self._columns = columns
        self._rows: list[tuple[tuple[RenderableType, ...], str]] = []

    def add_row(self, *cells: RenderableType, style: str = "") -> None:
        self._rows.append((cells, style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        kept = list(range(len(self._columns)))
        optional = [index for index in kept if self._columns[index].endswith("?")]
        table = self._table(kept)
        while console.is_terminal and optional and _width(table, console, options) > options.max_width:
            kept.remove(optional.pop())
            table = self._table(kept)
        yield table

    def _table(self, kept: list[int]) -> Table:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for index in kept:
            name = self._columns[index]
            table.add_column(
                name.lstrip("#").rstrip("?"),
                justify="right" if name.startswith("#") else "left",
                no_wrap=True,
            )
        for cells, style in self._rows:
            table.add_row(*(cells[index] for index in kept), style=style)
        return table


def _width(table: Table, console: Console, options: ConsoleOptions) -> int:
    """That it would have if there were room."""
    return Measurement.get(console, options.update(width=_WIDE), table).maximum


def map_line(console: Console, answer: Json) -> None:
    console.print(f"{answer['map']}: {answer['num_images']} images, digest {answer['digest'][:16]}")
    if skipped := answer.get("num_skipped"):
        console.print(f"left out without a size: {skipped} rows")
    if repeats := answer.get("num_repeats"):
        console.print("num_repeats {min:g} to {max:g}: {total:.12g} images an epoch".format(**repeats))
    if frames := answer.get("num_frames"):
        console.print("num_frames {min} to {max}".format(**frames))
    for note in answer.get("notes", ()):
        console.print(note)


def maps(console: Console, answer: Json) -> None:
    table = Columns("map", "#images", "ids?", "digest?")
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
        table.add_row(each["run"], _maps_of(each["spec"] or {}), _status(each), *map(str, cells))
    hint = "no runs yet: bucketline run put NAME --map MAP --world-size N --batch-size N"
    console.print(table if answer["runs"] else hint)


def _maps_of(spec: Json) -> str:
    first, *others = (
        [spec.get("map", "")] if spec.get("maps") is None else [each["map"] for each in spec["maps"]]
    )
    return f"{first}" + (f" and {len(others)} more" if others else "")


def buckets(console: Console, stats: Json) -> None:
    """The bucket table: what each holds, and what becomes of its tail in an epoch. Fits 80 columns."""
    table = Columns(
        "#", "#size", "#aspect?", "#images", "?", "#batches", "#spilled?", "#out?", "#again?", "#crop"
    )
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


def map_detail(console: Console, answer: Json) -> None:
    map_line(console, answer)
    histogram = answer["histogram"]["aspect"]
    most = max(histogram["num_images"], default=0) or 1
    table = Columns("#aspect", "#images", "")
    for low, high, num_images in zip(
        histogram["edges"], histogram["edges"][1:], histogram["num_images"], strict=False
    ):
        if num_images:
            table.add_row(f"{low:.2f} - {high:.2f}", str(num_images), "█" * round(_BAR * num_images / most))
    console.print(table)


def previews(console: Console, answer: Json, names: list[str]) -> None:
    """A column for each spec; where they do not fit beside each other, the rest in a table below."""
    rows = comparison.rows(answer, separator="")
    labels = ["  " * row.level + row.label for row in rows]
    first = max(map(len, labels))
    cells = [[_marked(row, column) for row in rows] for column in range(len(names))]
    longest = max(
        _least_name(console.width - first, len(names)), *(len(cell) for each in cells for cell in each)
    )
    heads = comparison.short_names(names, longest)
    columns = [[head, *each] for head, each in zip(heads, cells, strict=True)]
    while columns:
        fits, width = 0, first
        while fits < len(columns) and (not fits or width + 2 + max(map(len, columns[fits])) <= console.width):
            width += 2 + max(map(len, columns[fits]))
            fits += 1
        here, columns = columns[:fits], columns[fits:]
        table = Columns("", *(f"#{column[0]}" for column in here))
        for at, label in enumerate(labels, start=1):
            table.add_row(label, *(_coloured(column[at]) for column in here))
        console.print(table)
        if columns:
            console.print()
    if any(any(row.best) for row in rows):
        console.print(f"{_BEST} best of its row")
    for name, each in zip(names, answer["previews"], strict=True):
        if "problem" in each:
            console.print(f"{name}: {each['problem']['detail']}")


def _marked(row: comparison.Row, column: int) -> str:
    """The mark has a column of its own in a row that has one, so that numbers stay below each other."""
    mark = _BEST if row.best[column] else " "
    return (row.cells[column] or "-") + (mark if len(row.cells) > 1 else "")


def _coloured(cell: str) -> Text:
    return Text(cell, style="bold green" if cell.endswith(_BEST) else "")


def _least_name(width: int, num: int) -> int:
    """Long enough to tell names apart; as long as lets all columns stand beside each other, where that is more."""
    return min(_NAME, max(_SHORT_NAME, width // num - 2))
