"""CSV with a header line: commas, double quotes, UTF-8 with or without a byte order mark, any line ends.

Every column is read as text, since a reader that guesses types turns the id "007" into 7.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Generator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv

from bucketline_service.errors import Invalid
from bucketline_service.maps.columns import Columns, Names, resolve
from bucketline_service.maps.source import Chunk, Source, broken

_BLOCK_BYTES = 1 << 23
_HEADER_CHARS = 1 << 20
_LINE_SEARCH_ROWS = 1_000_000
"""How far an error looks for the line of a row (a second or so); further down it names only the row."""

_RAGGED = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", re.DOTALL)
_OTHER = re.compile(r"Row #(\d+): (.*)", re.DOTALL)


def read_csv(path: Path, columns: Columns, stack: ExitStack) -> Source:
    header = _header(path)
    _check_separator(header)
    names = resolve(columns, header)
    chunks = stack.enter_context(closing(_chunks(path, names)))
    return Source(names, chunks, is_text=True, line=lambda row: _line(path, row))


def _chunks(path: Path, names: Names) -> Generator[Chunk, None, None]:
    try:
        with pa_csv.open_csv(
            str(path),
            # One thread: only then does arrow know the number of a row that it refuses.
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                include_columns=names.all(), column_types=dict.fromkeys(names.all(), pa.large_string())
            ),
        ) as reader:
            for batch in reader:
                yield Chunk.of(names, batch.column)
    except pa.ArrowInvalid as exc:
        raise _refusal(path, str(exc)) from exc


def _refusal(path: Path, message: str) -> Invalid:
    """Where and why, from arrow's words, which count the header as row 1. (Its handler for ragged rows would say it in
    fields, but only for rows that are UTF-8.)"""
    ragged = _RAGGED.search(message)
    if ragged:
        number, expected, actual, text = ragged.groups()
        fault = f"{actual} fields where the header has {expected}: {text[:80]!r}"
        return _bad_row(path, int(number) - 2, fault, value=text[:80])
    other = _OTHER.search(message)
    if other:
        return _bad_row(path, int(other[1]) - 2, other[2])
    return broken("csv", message.splitlines()[0])


def _bad_row(path: Path, row: int, fault: str, **extra: Any) -> Invalid:
    line = _line(path, row)
    at = f"row {row + 1}" + (f" (line {line})" if line is not None else "")
    if line is not None:
        extra["line"] = line
    hint = "The file may be truncated, or a field that has commas or quotes in it lacks its quotes"
    return Invalid("file", f"{at}: {fault}", hint, row=row + 1, **extra)


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        text = file.read(_HEADER_CHARS)
    rows = (row for row in csv.reader(text.splitlines(keepends=True)) if row)
    try:
        header = next(rows, [])
    except csv.Error as exc:
        raise broken("csv", f"the header: {exc}") from exc
    try:
        "".join(header).encode()
    except UnicodeEncodeError as exc:
        raise broken("csv", "the header is not UTF-8") from exc
    return header


def _check_separator(header: list[str]) -> None:
    """One column is never enough; most likely it is three."""
    if len(header) != 1:
        return
    for separator, shown in ((";", "';'"), ("\t", "tabs"), ("|", "'|'")):
        if separator in header[0]:
            raise Invalid(
                "file",
                f"one column only: {header[0][:80]!r}",
                f"Separated by {shown}? Use commas",
                available=header,
            )


def _line(path: Path, row: int) -> int | None:
    """The line (from 1) on which a row (from 0) ends; blank lines are no rows, and a quoted field may span
    lines."""
    if row >= _LINE_SEARCH_ROWS:
        return None
    try:
        with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
            reader = csv.reader(file)
            filled = (reader.line_num for fields in reader if fields)
            return next(islice(filled, row + 1, None), None)
    except csv.Error:
        return None
