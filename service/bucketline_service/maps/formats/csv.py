"""Reads CSV and TSV with a header line: double quotes, UTF-8 with or without a byte order mark, any line ends, and the
separator of the header: comma, semicolon, tab or bar.

Every column is read as text, since a reader that infers types turns the id "007" into 7."""

from __future__ import annotations

import csv
import re
from collections.abc import Generator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv

from bucketline_service.errors import Invalid
from bucketline_service.maps.column_names import RequestedColumns, ResolvedColumns, resolve
from bucketline_service.maps.file_source import NOT_UTF8_HINT, FileSource, RowChunk, broken, is_utf8

_BLOCK_BYTES = 1 << 23
_HEADER_CHARS = 1 << 20
_LINE_SEARCH_ROWS = 1_000_000
"""How far the line of a row is searched for an error, about a second. Beyond, only the row is named."""

_RAGGED = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", re.DOTALL)
_RAGGED_HINT = "The file may be truncated, or a field that contains separators or quotes is not quoted"
_EXCEL = re.compile(r'"?sep=.?"?\s*')
_SEPARATORS = (",", ";", "\t", "|")
_OTHER = re.compile(r"Row #(\d+): (.*)", re.DOTALL)


def read_csv(path: Path, columns: RequestedColumns, stack: ExitStack) -> FileSource:
    file = _dialect(path, columns)
    names = resolve(columns, file.header)
    chunks = stack.enter_context(closing(_chunks(file, names)))
    return FileSource(names, chunks, is_text=True, line=file.line)


class _File(NamedTuple):
    """``header``: the column names, split by ``separator``."""

    path: Path
    separator: str
    header: list[str]

    def line(self, row: int) -> int | None:
        """The line, from 1, on which a row, from 0, ends. Blank lines are not rows, and a quoted field may span
        lines."""
        if row >= _LINE_SEARCH_ROWS:
            return None
        try:
            with self.path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
                reader = csv.reader(file, delimiter=self.separator)
                filled = (reader.line_num for fields in reader if fields)
                return next(islice(filled, row + 1, None), None)
        except csv.Error:
            return None


def _chunks(file: _File, names: ResolvedColumns) -> Generator[RowChunk, None, None]:
    try:
        with pa_csv.open_csv(
            str(file.path),
            # Only with a single thread does Arrow know the number of the row that it rejects.
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=pa_csv.ParseOptions(delimiter=file.separator, newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                include_columns=names.all(), column_types=dict.fromkeys(names.all(), pa.large_string())
            ),
        ) as reader:
            for batch in reader:
                yield RowChunk.of(names, batch.column)
    except pa.ArrowInvalid as exc:
        raise _refusal(file, str(exc)) from exc


def _refusal(file: _File, message: str) -> Invalid:
    """The error for Arrow's message, in which the header is row 1. (Arrow's handler for rows of the wrong length has
    the same values as fields, but only for rows that are UTF-8.)"""
    ragged = _RAGGED.search(message)
    if ragged:
        number, expected, actual, text = ragged.groups()
        fault = f"must have {expected} fields like the header, got {actual}: {text[:80]!r}"
        return _bad_row(file, int(number) - 2, fault, _RAGGED_HINT, value=text[:80])
    other = _OTHER.search(message)
    if other:
        is_other = "invalid UTF8" in other[2]
        fault, hint = ("must be UTF-8", NOT_UTF8_HINT) if is_other else (other[2], _RAGGED_HINT)
        return _bad_row(file, int(other[1]) - 2, fault, hint)
    return broken("csv", message.splitlines()[0])


def _bad_row(file: _File, row: int, fault: str, hint: str, **extra: Any) -> Invalid:
    line = file.line(row)
    at = f"row {row + 1}" + (f" (line {line})" if line is not None else "")
    if line is not None:
        extra["line"] = line
    return Invalid("file", f"{at}: {fault}", hint, row=row + 1, **extra)


def _dialect(path: Path, columns: RequestedColumns) -> _File:
    """The file with the first separator that splits the header into the columns of a map; where no separator does, with
    the one that splits it into the most columns."""
    text = _head(path)
    lines = text.splitlines(keepends=True)
    if lines and _EXCEL.fullmatch(lines[0]):
        raise Invalid(
            "file",
            f"its first line must have the names of the columns, got {lines[0].strip()!r}, which is for Excel",
            "Remove that line: tail -n +2 FILE",
        )
    files = [_File(path, separator, _fields(lines, separator)) for separator in _SEPARATORS]
    known = (file for file in files if _is_known(columns, file.header))
    return next(known, None) or max(files, key=lambda file: len(file.header))


def _is_known(columns: RequestedColumns, header: list[str]) -> bool:
    try:
        resolve(columns, header)
    except Invalid:
        return False
    return True


def _fields(lines: list[str], separator: str) -> list[str]:
    try:
        return next((row for row in csv.reader(lines, delimiter=separator) if row), [])
    except csv.Error as exc:
        raise broken("csv", f"the header: {exc}") from exc


def _head(path: Path) -> str:
    """The beginning of the file, with the header."""
    with path.open("rb") as file:
        start = file.read(2)
    if start in (b"\xff\xfe", b"\xfe\xff"):
        raise Invalid("file", "must be UTF-8, got UTF-16", "Convert it: iconv -f UTF-16 -t UTF-8 FILE")
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as text:
        head = text.read(_HEADER_CHARS)
    if not is_utf8(head.partition("\n")[0]):
        raise Invalid("file", "its header must be UTF-8", NOT_UTF8_HINT)
    return head
