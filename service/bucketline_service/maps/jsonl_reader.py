"""JSON lines: one object a line, UTF-8. The first object's id says what kind all ids are.

Cut into blocks at line ends here, so that a fault is looked for in one block only, and its line is exact.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as pa_json

from bucketline_service.errors import Invalid
from bucketline_service.maps.columns import OPTIONAL_NAMES, Columns, Names, resolve
from bucketline_service.maps.optional import OPTIONAL
from bucketline_service.maps.source import Chunk, Source, broken

_BLOCK_BYTES = 1 << 23
_LINE_BYTES = 1 << 26
_LINE_SEARCH_ROWS = 5_000_000
"""How far an error about a value looks for the line of a row (a second or so)."""
_ARROW_ROW = re.compile(r"in row (\d+)")
_OBJECT_HINT = "JSON lines are one object a line, with no array around them"


def read_jsonl(path: Path, columns: Columns, stack: ExitStack) -> Source:
    first = _first_object(path)
    names = resolve(columns, list(first))
    id_type = pa.large_string() if isinstance(first[names.id], str) else pa.int64()
    chunks = stack.enter_context(closing(_chunks(path, id_type, names, columns, list(first))))
    return Source(names, chunks, line=lambda row: _line(path, row))


@dataclass
class _Position:
    """How many rows and lines lie before the block that is being read."""

    num_rows: int = 0
    num_lines: int = 0


def _chunks(
    path: Path, id_type: Any, names: Names, columns: Columns, keys: list[str]
) -> Generator[Chunk, None, None]:
    """``keys``: the first object's. An optional one may come later, as many leave out what is at its default: it is
    there from the first block that has a value of it."""
    at = _Position()
    for block in _blocks(path):
        schema = _schema(block, id_type, names, columns)
        table = _parse(block, schema, names, at)
        late = [name for name in schema.names if name not in keys and table[name].null_count < len(table)]
        if late:
            keys = [*keys, *late]
            names = resolve(columns, keys)
        for batch in table.to_batches():
            yield Chunk.of(names, batch.column)
        at.num_rows += table.num_rows
        at.num_lines += block.count(b"\n")


def _schema(block: bytes, id_type: Any, names: Names, columns: Columns) -> Any:
    """Of the columns that there are, and of those that the block may have besides: arrow takes its time over each."""
    free = [
        name for kind, given in columns.optional.items() if given is None for name in OPTIONAL_NAMES[kind]
    ]
    late = [name for name in free if name not in names.all() and f'"{name}"'.encode() in block]
    return pa.schema([(names.id, id_type), *((name, pa.float64()) for name in [*names.all()[1:], *late])])


def _blocks(path: Path) -> Iterator[bytes]:
    """Whole lines, some 8 MB at a time; blank blocks are left out only at the end."""
    with path.open("rb") as file:
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        while block := file.read(_BLOCK_BYTES):
            if not block.endswith(b"\n"):
                block += file.readline(_LINE_BYTES)
            yield block


def _parse(block: bytes, schema: Any, names: Names, at: _Position) -> Any:
    if not block.strip():
        return schema.empty_table()
    try:
        table = pa_json.read_json(
            io.BytesIO(block),
            read_options=pa_json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            parse_options=pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid as exc:
        raise _refusal(block, schema, names, at, str(exc)) from exc
    return table.select(schema.names)


def _refusal(block: bytes, schema: Any, names: Names, at: _Position, message: str) -> Invalid:
    """Which line of the block arrow has refused, and why. Row by row, for the one block that is bad."""
    row = at.num_rows
    for number, text in enumerate(block.split(b"\n"), at.num_lines + 1):
        if not text.strip():
            continue
        fault = _fault(text, schema, names)
        if fault is not None:
            field, detail, hint = fault
            return Invalid(field, f"row {row + 1} (line {number}): {detail}", hint, row=row + 1, line=number)
        row += 1
    found = _ARROW_ROW.search(message)
    reason = message.splitlines()[0]
    if found:
        row = at.num_rows + int(found[1])
        return Invalid("file", f"row {row + 1}: {reason}", _OBJECT_HINT, row=row + 1)
    return broken("jsonl", f"{reason}, after row {at.num_rows}")


def _fault(text: bytes, schema: Any, names: Names) -> tuple[str, str, str] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        return "file", f"not JSON: {exc}", "The file may be truncated. " + _OBJECT_HINT
    if not isinstance(value, dict):
        return "file", f"{_shown(value)} is no object", _OBJECT_HINT
    for name in schema.names[1:]:
        if isinstance(value.get(name), (bool, str, list, dict)):
            return name, f"{_shown(value[name])} is not a number", _number_hint(name, names)
    return _id_fault(value.get(names.id), schema.field(0).type, names.id)


def _number_hint(name: str, names: Names) -> str:
    if name in (names.width, names.height):
        return "Sides are whole numbers of pixels"
    known = {name: kind for kind, called in OPTIONAL_NAMES.items() for name in called}
    found = {name: kind for kind, name in names.optional.items()}
    return OPTIONAL[{**known, **found}[name]].rule.hint


def _id_fault(value: Any, id_type: Any, name: str) -> tuple[str, str, str] | None:
    hint = "Ids are 64-bit whole numbers or strings, one kind in a map"
    if value is None or (isinstance(value, str) and not pa.types.is_int64(id_type)):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return name, f"{_shown(value)} is no id", hint
    if isinstance(value, str):
        return name, f"{_shown(value)} is a string, and the ids before are numbers", hint
    if not pa.types.is_int64(id_type):
        return name, f"{_shown(value)} is a number, and the ids before are strings", hint
    if not -(2**63) <= value < 2**63:
        return name, f"{_shown(value)} does not fit in 64 bits", "Store larger ids as strings"
    return None


def _line(path: Path, row: int) -> int | None:
    """The line (from 1) of a row (from 0): blank lines are no rows."""
    if row >= _LINE_SEARCH_ROWS:
        return None
    with path.open("rb") as file:
        filled = (number for number, text in enumerate(file, 1) if not text.isspace())
        return next(islice(filled, row, None), None)


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):
        return "a value too large to show"
    return text if len(text) <= 80 else text[:80] + "…"


def _first_object(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        text = b""
        while not text:  # by blocks: there may be any number of blank lines
            block = file.read(_BLOCK_BYTES)
            if not block:
                raise Invalid("file", "has no rows", "A map needs at least one image")
            text = block.removeprefix(b"\xef\xbb\xbf").lstrip()
        line, newline, _ = text.partition(b"\n")
        text = line if newline else line + file.readline(_LINE_BYTES)
    try:
        value = json.loads(text.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as exc:
        raise Invalid("file", f"row 1: not JSON: {exc}", _OBJECT_HINT, row=1) from exc
    if not isinstance(value, dict):
        raise Invalid("file", f"row 1: {_shown(value)} is no object", _OBJECT_HINT, row=1)
    return value
