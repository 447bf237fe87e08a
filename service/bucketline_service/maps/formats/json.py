"""Reads JSON lines and JSON: the objects that ``json_rows`` finds. The first object decides the kind of all ids."""

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
from bucketline_service.maps.formats.json_rows import OBJECT_HINT, JsonRows, as_text, open_rows
from bucketline_service.maps.id_column import ID_HINT
from bucketline_service.maps.numeric_columns import SIDE, NumberRule
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
    """How many rows and lines precede the current block."""

    has_lines: bool
    num_rows: int = 0
    num_lines: int = 0

    def of(self, row: int, line: int) -> tuple[str, dict[str, int]]:
        """A row and its line, both from 1, as text and as fields of an error."""
        if not self.has_lines:
            return f"row {row}", {"row": row}
        return f"row {row} (line {line})", {"row": row, "line": line}


def _chunks(
    rows: JsonRows, id_type: Any, names: ResolvedColumns, columns: RequestedColumns
) -> Generator[RowChunk, None, None]:
    """Many writers omit keys at their default, so an optional key may be missing from the first object. It is read from
    the first block that has a value for it."""
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
    """The columns known so far, and the optional ones whose name occurs in the block. Only these, since each column
    costs Arrow time."""
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
    """The error for the row that Arrow has rejected: the block is parsed again row by row."""
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


def _fault(text: bytes, schema: Any, names: ResolvedColumns) -> tuple[str, str, str | None] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        is_encoding = isinstance(exc, UnicodeDecodeError)
        hint = NOT_UTF8_HINT if is_encoding else f"The file may be truncated. {OBJECT_HINT}"
        return "file", f"must be JSON: {exc}", hint
    if not isinstance(value, dict):
        return "file", f"must be an object, got {as_text(value)}", OBJECT_HINT
    for name in schema.names[1:]:
        if isinstance(value.get(name), (bool, str, list, dict)):
            rule = _rule(name, names)
            return name, f"{rule.requirement}, got {as_text(value[name])}", rule.hint
    return _id_fault(value.get(names.id), schema.field(0).type, names.id)


def _rule(name: str, names: ResolvedColumns) -> NumberRule:
    if name in (names.width, names.height):
        return SIDE
    known = {name: kind for kind, called in OPTIONAL_NAMES.items() for name in called}
    found = {name: kind for kind, name in names.optional.items()}
    return OPTIONAL[{**known, **found}[name]].rule


def _id_fault(value: Any, id_type: Any, name: str) -> tuple[str, str, str] | None:
    is_int = pa.types.is_int64(id_type)
    if value is None or (isinstance(value, str) and not is_int):
        return None
    text = as_text(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return name, f"must be an integer or a string, got {text}", ID_HINT
    if isinstance(value, str) == is_int:
        return (
            name,
            f"must be {'an integer' if is_int else 'a string'} like the ids before it, got {text}",
            ID_HINT,
        )
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return name, f"must fit in 64 bits with a sign, got {text}", "Store larger ids as strings"
    return None
