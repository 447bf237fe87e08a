"""JSON as it comes in files: an object a line, an array of objects, or COCO's, whose ``images`` are such an array. All of
it is handed on as lines, in blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import ijson
import orjson

from bucketline_service.errors import Invalid
from bucketline_service.maps.source import NOT_UTF8_HINT, broken

BLOCK_BYTES = 1 << 23
_LINE_BYTES = 1 << 26
_LINE_SEARCH_ROWS = 5_000_000
"""How far an error about a value looks for the line of a row (a second or so)."""
_BOM = b"\xef\xbb\xbf"

OBJECT_HINT = (
    "A map in JSON is one object a line, or an array of objects, or an object with the array images (COCO)"
)


class Rows(Protocol):
    """The objects of a file. ``first``: the first of them. ``blocks``: all, a line each, some 8 MB at a time.
    ``has_lines``: whether these are the file's own."""

    first: dict[str, Any]
    has_lines: bool

    def blocks(self) -> Iterator[bytes]: ...

    def line(self, row: int) -> int | None:
        """The line (from 1) of a row (from 0), where the file has one for each."""


def open_rows(path: Path) -> Rows:
    """``Invalid`` where the first of its rows is none."""
    start = _start(path)
    if start.startswith(b"["):
        return _ArrayRows(path, "item")
    if b'"images"' in start and _is_coco(path):
        return _ArrayRows(path, "images.item")
    try:
        first = json.loads(start)
    except (ValueError, RecursionError) as exc:
        if start.startswith(b"{") and _is_coco(path):  # over several lines
            return _ArrayRows(path, "images.item")
        hint = NOT_UTF8_HINT if isinstance(exc, UnicodeDecodeError) else OBJECT_HINT
        raise Invalid("file", f"row 1: not JSON: {exc}", hint, row=1) from exc
    if not isinstance(first, dict):
        raise Invalid("file", f"row 1: {shown(first)} is no object", OBJECT_HINT, row=1)
    return _LineRows(path, first)


class _LineRows:
    """One object a line."""

    has_lines = True

    def __init__(self, path: Path, first: dict[str, Any]) -> None:
        self.first = first
        self._path = path

    def blocks(self) -> Iterator[bytes]:
        """Cut at line ends, so that a fault is looked for in one block only, and its line is exact."""
        with self._path.open("rb") as file:
            if file.read(len(_BOM)) != _BOM:
                file.seek(0)
            while block := file.read(BLOCK_BYTES):
                if not block.endswith(b"\n"):
                    block += file.readline(_LINE_BYTES)
                yield block

    def line(self, row: int) -> int | None:
        """Blank lines are no rows."""
        if row >= _LINE_SEARCH_ROWS:
            return None
        with self._path.open("rb") as file:
            filled = (number for number, text in enumerate(file, 1) if not text.isspace())
            return next(islice(filled, row, None), None)


class _ArrayRows:
    """The items of an array, which is read as a stream: COCO's annotations may be gigabytes."""

    has_lines = False

    def __init__(self, path: Path, prefix: str) -> None:
        self._path = path
        self._prefix = prefix
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
        with self._path.open("rb") as file:
            if file.read(len(_BOM)) != _BOM:
                file.seek(0)
            try:
                for row, item in enumerate(ijson.items(file, self._prefix, buf_size=1 << 20), 1):
                    if not isinstance(item, dict):
                        raise Invalid("file", f"row {row}: {shown(item)} is no object", OBJECT_HINT, row=row)
                    yield item
            except ijson.JSONError as exc:
                raise broken("json", f"{' '.join(str(exc).split())[:200]}") from exc


def _is_coco(path: Path) -> bool:
    """Whether the file is one object, over any number of lines, whose ``images`` are objects."""
    with path.open("rb") as file:
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
        try:
            events = (event for prefix, event, _ in ijson.parse(file) if prefix == "images.item")
            return next(events, None) == "start_map"
        except ijson.JSONError:  # as where a second object follows
            return False


def _dumped(item: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(item, default=float)
    except (TypeError, OverflowError):  # numbers beyond 64 bits, text that is no Unicode
        return json.dumps(item, default=float).encode()


def _start(path: Path) -> bytes:
    """The first line that is not blank, without the blanks before it."""
    with path.open("rb") as file:
        text = b""
        while not text:  # by blocks: there may be any number of blank lines
            block = file.read(BLOCK_BYTES)
            if not block:
                raise Invalid("file", "has no rows", "A map needs at least one image")
            text = block.removeprefix(_BOM).lstrip()
        line, newline, _ = text.partition(b"\n")
        return line if newline else line + file.readline(_LINE_BYTES)


def shown(value: Any) -> str:
    try:
        text = json.dumps(value, default=float)
    except (ValueError, RecursionError):
        return "a value too large to show"
    return text if len(text) <= 80 else text[:80] + "…"
