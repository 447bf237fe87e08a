"""The rows of JSON files: one object a line, an array of objects, or the array ``images`` of a COCO file. They are
passed on as lines, in blocks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import ijson
import orjson

from bucketline_service.errors import Invalid
from bucketline_service.maps.file_source import NOT_UTF8_HINT, broken

BLOCK_BYTES = 1 << 23
_LINE_BYTES = 1 << 26
_LINE_SEARCH_ROWS = 5_000_000
"""How far the line of a row is searched for an error, about a second."""
_BOM = b"\xef\xbb\xbf"
_COCO_KEY = "images"

OBJECT_HINT = (
    "A map in JSON is one object a line, an array of objects, or an object with an array called images (COCO)"
)
TURNED_HINT = (
    f"{OBJECT_HINT}. If the keys are ids: jq -c 'to_entries[] | {{id: .key}} + .value' FILE > MAP.jsonl. If each "
    "column is an object or array, as pandas writes by default: to_json(orient='records')"
)


class JsonRows(Protocol):
    """The objects of a file. ``first``: the first object. ``blocks``: all objects, one a line, about 8 MB at a time.
    ``has_lines``: whether these are lines of the file itself."""

    first: dict[str, Any]
    has_lines: bool

    def blocks(self) -> Iterator[bytes]: ...

    def line(self, row: int) -> int | None:
        """The line, from 1, of a row, from 0; None where it is not known."""


def open_rows(path: Path) -> JsonRows:
    """``Invalid`` where the file does not begin with a row."""
    start = _start(path)
    if start.startswith(b"["):
        return _ArrayRows(path, None)
    if b'"images"' in start and _is_coco(path):
        return _ArrayRows(path, _COCO_KEY)
    try:
        first = json.loads(start)
    except (ValueError, RecursionError) as exc:
        if start.startswith(b"{") and _is_coco(path):  # over several lines
            return _ArrayRows(path, _COCO_KEY)
        hint = NOT_UTF8_HINT if isinstance(exc, UnicodeDecodeError) else OBJECT_HINT
        raise Invalid("file", f"row 1: must be JSON: {exc}", hint, row=1) from exc
    if not isinstance(first, dict):
        raise Invalid("file", f"row 1: must be an object, got {as_text(first)}", OBJECT_HINT, row=1)
    if first and all(isinstance(value, (dict, list)) for value in first.values()):
        names = ", ".join(f"'{name[:40]}'" for name in list(first)[:3]) + (", …" if len(first) > 3 else "")
        raise Invalid(
            "file", f"row 1: {names} must be an id and a size, got objects or arrays", TURNED_HINT, row=1
        )
    return _LineRows(path, first)


class _LineRows:
    """One object a line."""

    has_lines = True

    def __init__(self, path: Path, first: dict[str, Any]) -> None:
        self.first = first
        self._path = path

    def blocks(self) -> Iterator[bytes]:
        """Blocks end with a line, so that an error is searched in one block, and its line is exact."""
        with self._path.open("rb") as file:
            if file.read(len(_BOM)) != _BOM:
                file.seek(0)
            while block := file.read(BLOCK_BYTES):
                if not block.endswith(b"\n"):
                    block += file.readline(_LINE_BYTES)
                yield block

    def line(self, row: int) -> int | None:
        """Blank lines are not rows."""
        if row >= _LINE_SEARCH_ROWS:
            return None
        with self._path.open("rb") as file:
            filled = (number for number, text in enumerate(file, 1) if not text.isspace())
            return next(islice(filled, row, None), None)


class _ArrayRows:
    """The items of an array, read as a stream, since the annotations of a COCO file may take gigabytes."""

    has_lines = False

    def __init__(self, path: Path, key: str | None) -> None:
        self._path = path
        self._key = key
        self.first = next(self._items(), {})
        if not self.first:
            raise Invalid("file", "has no rows", "A map needs at least one image")

    def blocks(self) -> Iterator[bytes]:
        block: list[bytes] = []
        num_bytes = 0
        for item in self._items():
            block.append(_dumped(item))
            num_bytes += len(block[-1])
            if num_bytes > BLOCK_BYTES:
                yield b"\n".join([*block, b""])
                block, num_bytes = [], 0
        yield b"\n".join([*block, b""])

    def line(self, row: int) -> int | None:
        return None

    def _items(self) -> Iterator[dict[str, Any]]:
        return _objects(self._path, self._key)


def _is_coco(path: Path) -> bool:
    """Whether the file is an object, on any number of lines, whose ``images`` is an array of objects."""
    try:
        return next(_objects(path, _COCO_KEY), None) is not None
    except Invalid:  # as where a second object follows
        return False


def _objects(path: Path, key: str | None) -> Iterator[dict[str, Any]]:
    """The objects of the array that the file is, or that the file has under ``key``. Nested arrays and objects, which
    may have any depth, are read but not kept."""
    at = 1 if key is None else 2  # the depth of the array
    row: dict[str, Any] = {}
    depth, num_rows, name, is_inside = 0, 0, "", key is None
    for event, value in _events(path):
        if event == "map_key":
            name = value
            is_inside = value == key if depth == 1 and key is not None else is_inside
        elif event in ("end_map", "end_array"):
            if is_inside and depth == at + 1:
                num_rows += 1
                yield row
            depth -= 1
        else:
            is_nested = event in ("start_map", "start_array")
            depth += is_nested
            if not is_inside or depth - is_nested < at or depth > at + 2:
                continue
            if depth - is_nested == at + 1:
                if name in row:
                    raise Invalid(
                        "file",
                        f"row {num_rows + 1}: must have each key once, got {name!r:.80} twice",
                        row=num_rows + 1,
                    )
                row[name] = [] if is_nested else value
            elif event == "start_map" and depth == at + 1:
                row = {}
            elif depth <= at + 1:
                what = "an array" if is_nested else as_text(value)
                raise Invalid(
                    "file",
                    f"row {num_rows + 1}: must be an object, got {what}",
                    OBJECT_HINT,
                    row=num_rows + 1,
                )


def _events(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
        try:
            yield from ijson.basic_parse(file, buf_size=1 << 20)
        except ijson.JSONError as exc:
            raise _refused(exc) from exc


def _refused(error: ijson.JSONError) -> Invalid:
    """The error for the parser's message, of which only the first line is for people."""
    said = error.args[0] if error.args else ""
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    if "UTF8" in text:
        return Invalid("file", "must be UTF-8", NOT_UTF8_HINT)
    refused = (text.splitlines() or ["it ends early"])[0]
    if "lexical error" in text:
        return Invalid(
            "file", f"cannot be read as json: {refused}", "JSON has no NaN and no Infinity: write null"
        )
    return broken("json", refused)


def _dumped(item: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(item, default=_finite)
    except (TypeError, OverflowError):  # numbers beyond 64 bits, lone surrogates
        return json.dumps(item, default=_finite).encode()


def _finite(number: Decimal) -> float:
    """The nearest finite float: JSON numbers may exceed every float, and JSON has no infinity."""
    return max(-sys.float_info.max, min(float(number), sys.float_info.max))


def _start(path: Path) -> bytes:
    """The first line that is not blank, without leading whitespace."""
    with path.open("rb") as file:
        text = b""
        while not text:  # there may be any number of blank lines
            block = file.read(BLOCK_BYTES)
            if not block:
                raise Invalid("file", "has no rows", "A map needs at least one image")
            text = block.removeprefix(_BOM).lstrip()
        line, newline, _ = text.partition(b"\n")
        return line if newline else line + file.readline(_LINE_BYTES)


def as_text(value: Any) -> str:
    """A value for a message, as short JSON."""
    try:
        text = json.dumps(value, default=_finite)
    except (ValueError, RecursionError):
        return "a value too large to show"
    return text if len(text) <= 80 else text[:80] + "…"
