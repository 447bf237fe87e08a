"""JSON, UTF-8: objects as ``json_rows`` finds them. The first object's id says what kind all ids are."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as pa_json

from bucketline_service.errors import Invalid
from bucketline_service.maps.column_names import OPTIONAL_NAMES, RequestedColumns, ResolvedColumns, resolve
from bucketline_service.maps.file_source import NOT_UTF8_HINT, FileSource, RowChunk, broken
from bucketline_service.maps.formats.json_rows import OBJECT_HINT, JsonRows, open_rows, shown
from bucketline_service.maps.optional_columns import OPTIONAL

_ARROW_ROW = re.compile(r"in row (\d+)")


def read_jsonl(path: Path, columns: RequestedColumns, stack: ExitStack) -> FileSource:
    rows = open_rows(path)
    names = resolve(columns, list(rows.first))
    id_type = pa.large_string() if isinstance(rows.first[names.id], str) else pa.int64()
    chunks = stack.enter_context(closing(_chunks(rows, id_type, names, columns)))
    return FileSource(names, chunks, line=rows.line)


@dataclass
class _Position:
    """How many rows and lines lie before the block that is being read."""

    has_lines: bool
    num_rows: int = 0
    num_lines: int = 0

    def of(self, row: int, line: int) -> tuple[str, dict[str, int]]:
        """Where that is, both from 1, for a person and for programs."""
        if not self.has_lines:
            return f"row {row}", {"row": row}
        return f"row {row} (line {line})", {"row": row, "line": line}


def _chunks(
    rows: JsonRows, id_type: Any, names: ResolvedColumns, columns: RequestedColumns
) -> Generator[RowChunk, None, None]:
    """An optional key may come later than in the first object, as many leave out what is at its default: it is there
    from the first block that has a value of it."""
    at, keys = _Position(rows.has_lines), list(rows.first)
    for block in rows.blocks():
        schema = _schema(block, id_type, names, columns)
        table = _parse(block, schema, names, at)
        late = [name for name in schema.names if name not in keys and table[name].null_count < len(table)]
        if late:
            keys = [*keys, *late]
            names = resolve(columns, keys)
        for batch in table.to_batches():
            yield RowChunk.of(names, batch.column)
        at.num_rows += table.num_rows
        at.num_lines += block.count(b"\n")


def _schema(block: bytes, id_type: Any, names: ResolvedColumns, columns: RequestedColumns) -> Any:
    """Of the columns that there are, and of those that the block may have besides: arrow takes its time over each."""
    free = [
        name for kind, given in columns.optional.items() if given is None for name in OPTIONAL_NAMES[kind]
    ]
    late = [name for name in free if name not in names.all() and f'"{name}"'.encode() in block]
    return pa.schema([(names.id, id_type), *((name, pa.float64()) for name in [*names.all()[1:], *late])])


def _parse(block: bytes, schema: Any, names: ResolvedColumns, at: _Position) -> Any:
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


def _refusal(block: bytes, schema: Any, names: ResolvedColumns, at: _Position, message: str) -> Invalid:
    """Which line of the block arrow has refused, and why. Row by row, for the one block that is bad."""
    row = at.num_rows
    for number, text in enumerate(block.split(b"\n"), at.num_lines + 1):
        if not text.strip():
            continue
        fault = _fault(text, schema, names)
        if fault is not None:
            field, detail, hint = fault
            where, extra = at.of(row + 1, number)
            return Invalid(field, f"{where}: {detail}", hint, **extra)
        row += 1
    found = _ARROW_ROW.search(message)
    reason = message.splitlines()[0]
    if found:
        row = at.num_rows + int(found[1])
        return Invalid("file", f"row {row + 1}: {reason}", OBJECT_HINT, row=row + 1)
    return broken("jsonl", f"{reason}, after row {at.num_rows}")


def _fault(text: bytes, schema: Any, names: ResolvedColumns) -> tuple[str, str, str] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        is_other = isinstance(exc, UnicodeDecodeError)
        return (
            "file",
            f"not JSON: {exc}",
            NOT_UTF8_HINT if is_other else "The file may be truncated. " + OBJECT_HINT,
        )
    if not isinstance(value, dict):
        return "file", f"{shown(value)} is no object", OBJECT_HINT
    for name in schema.names[1:]:
        if isinstance(value.get(name), (bool, str, list, dict)):
            return name, f"{shown(value[name])} is not a number", _number_hint(name, names)
    return _id_fault(value.get(names.id), schema.field(0).type, names.id)


def _number_hint(name: str, names: ResolvedColumns) -> str:
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
        return name, f"{shown(value)} is no id", hint
    if isinstance(value, str):
        return name, f"{shown(value)} is a string, and the ids before are numbers", hint
    if not pa.types.is_int64(id_type):
        return name, f"{shown(value)} is a number, and the ids before are strings", hint
    if not -(2**63) <= value < 2**63:
        return name, f"{shown(value)} does not fit in 64 bits", "Store larger ids as strings"
    return None
