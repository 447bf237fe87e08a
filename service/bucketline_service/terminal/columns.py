"""A table that fits the terminal: less important columns are left out where it is too narrow."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table

_UNLIMITED = 10_000


class Columns:
    """Text is aligned left, and numbers (columns marked by ``#``) right. Where a terminal is too narrow, columns marked
    by ``?`` are left out, beginning with the last. A pipe gets all of them."""

    def __init__(self, *columns: str) -> None:
        self._columns = columns
        self._rows: list[tuple[tuple[RenderableType, ...], str]] = []

    def add_row(self, *cells: RenderableType, style: str = "") -> None:
        self._rows.append((cells, style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        kept = list(range(len(self._columns)))
        optional = [index for index in kept if self._columns[index].endswith("?")]
        table = self._table(kept)
        while console.is_terminal and optional and _full_width(table, console, options) > options.max_width:
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


def _full_width(table: Table, console: Console, options: ConsoleOptions) -> int:
    return Measurement.get(console, options.update(width=_UNLIMITED), table).maximum
