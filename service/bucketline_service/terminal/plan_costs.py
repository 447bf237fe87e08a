"""What plans cost as text: the table of buckets or of packs, and plans compared side by side."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from bucketline_service.previews import comparison
from bucketline_service.terminal import readable
from bucketline_service.terminal.columns import Columns

Json = dict[str, Any]
_NAME_WIDTH = 20
_SHORT_NAME_WIDTH = 12
_BEST = "*"


def plan(console: Console, stats: Json) -> None:
    """What the plan consists of, and what an epoch of it has. Fits 80 columns."""
    # an older coordinator has no packs
    if packs := stats.get("packs"):
        _packs(console, packs)
    else:
        _buckets(console, stats)
    pruned = ", ".join(f"{num} by {reason}" for reason, num in stats["pruned"].items() if num) or "none"
    batches = "packs" if packs else "batches"
    console.print(
        f"{stats['num_assigned']} of {stats['num_images']} images assigned (pruned: {pruned}); an epoch: "
        f"{stats['num_batches']} {batches}, {stats['num_steps']} steps on {stats['world_size']} ranks, "
        f"{stats['dropped']} images left out, {stats['repeated']} repeated, {stats['mixed_steps']} mixed steps; "
        f"crop loss {stats['crop_loss_served']:.2%} as served"
    )


def _packs(console: Console, packs: Json) -> None:
    """A row for each length: how many images have it, and how many slots of it an epoch's packs have."""
    table = Columns("#length", "#images", "?", "#slots", "#served")
    most = max((each["num_images"] for each in packs["lengths"]), default=0) or 1
    for each in packs["lengths"]:
        table.add_row(
            str(each["length"]),
            str(each["num_images"]),
            "█" * round(8 * each["num_images"] / most),
            str(each["num_slots"]),
            f"{each['num_served']:.0f}",
        )
    console.print(table)
    console.print(
        f"{readable.counted(packs['num_kinds'], 'kind')} of pack, of at most {packs['max_tokens']} tokens: "
        f"{packs['full']:.2%} full, {packs['padding']:.2%} padding, {packs['unused']:.2%} unused"
    )


def _buckets(console: Console, stats: Json) -> None:
    """A row for each bucket: what it holds, and what happens to its remainder in an epoch."""
    table = Columns(
        "#", "#size", "#aspect?", "#images", "?", "#batches", "#spilled?", "#out?", "#again?", "#crop"
    )
    most = max((bucket["num_images"] for bucket in stats["buckets"]), default=0) or 1
    for each in stats["buckets"]:
        remainder, loss = each["tail"], each["crop_loss_served"]
        if not each["num_images"] and not each["num_batches"]:
            continue
        table.add_row(
            str(each["bucket"]),
            f"{each['width']}x{each['height']}",
            f"{each['aspect']:.2f}",
            str(each["num_images"]),
            "█" * round(8 * each["num_images"] / most),
            str(each["num_batches"]),
            str(sum(spill["num_images"] for spill in remainder["spilled"])),
            str(remainder["left_out"]),
            str(remainder["repeated"]),
            "" if loss is None else f"{loss:.1%}",
        )
    console.print(table)
    empty = sum(1 for each in stats["buckets"] if not each["num_images"] and not each["num_batches"])
    if empty:
        console.print(f"and {empty} empty buckets")


def comparison_table(console: Console, answer: Json, names: list[str]) -> None:
    """A column for each plan; those that do not fit side by side follow in a table below."""
    rows = comparison.rows(answer, separator="")
    labels = ["  " * row.level + row.label for row in rows]
    first = max(map(len, labels))
    cells = [[_marked(row, column) for row in rows] for column in range(len(names))]
    longest = max(
        _min_name_width(console.width - first, len(names)), *(len(cell) for each in cells for cell in each)
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
        warnings(console, each.get("warnings", []), f"{name}: " if len(names) > 1 else "")
    for name, each in zip(names, answer["previews"], strict=True):
        if "problem" in each:
            console.print(f"{name}: {each['problem']['detail']}")


def warnings(console: Console, found: list[Json], prefix: str = "") -> None:
    """What of a plan would surprise, each with its remedy in the line below."""
    for each in found:
        console.print(Text.assemble(prefix, (f"warning ({each['code']})", "yellow"), f": {each['message']}"))
        console.print(f"  {each['remedy']}")


def _marked(row: comparison.Row, column: int) -> str:
    """Rows of several cells keep a column for the mark, so that their numbers stay aligned."""
    mark = _BEST if row.best[column] else " "
    return (row.cells[column] or "-") + (mark if len(row.cells) > 1 else "")


def _coloured(cell: str) -> Text:
    return Text(cell, style="bold green" if cell.endswith(_BEST) else "")


def _min_name_width(width: int, num: int) -> int:
    """Wide enough to distinguish names, and wider if all columns still fit side by side."""
    return min(_NAME_WIDTH, max(_SHORT_NAME_WIDTH, width // num - 2))
