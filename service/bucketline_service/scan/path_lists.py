"""Reads lists of paths: CSV, JSON, JSON lines and plain text. Paths are absolute, URIs, or relative to the folder of
the list."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple

from bucketline_service.errors import Invalid
from bucketline_service.names import few
from bucketline_service.scan.storage import is_remote

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt")
PATH_NAMES = ("path", "file_name", "filename", "file", "image", "image_path", "filepath", "img_path")


class ListColumns(NamedTuple):
    """Column names of a list; None: the column is found by its name, and the id is optional."""

    path: str | None = None
    id: str | None = None


class ListedFile(NamedTuple):
    path: str
    id: str | None


def read(file: IO[bytes], name: str, columns: ListColumns) -> Iterator[ListedFile]:
    """``Invalid`` names the list, and the row where one has no path."""
    suffix = os.path.splitext(name)[1].lower()
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        if suffix in (".csv", ".tsv"):
            rows = csv.DictReader(text, delimiter="\t" if suffix == ".tsv" else ",")
            yield from _objects(rows, name, columns)
        elif suffix == ".txt":
            yield from (ListedFile(line, None) for line in map(str.strip, text) if line)
        elif suffix == ".json":
            yield from _objects(_json(json.load(text), name), name, columns)
        else:
            yield from _objects((json.loads(line) for line in text if line.strip()), name, columns)
    except UnicodeDecodeError as exc:
        raise Invalid(name, f"must be UTF-8: {exc}") from exc
    except (ValueError, RecursionError, csv.Error) as exc:
        raise Invalid(name, f"cannot be read as a list: {exc}") from exc
    finally:
        text.detach()  # the caller closes the file


def _json(document: Any, name: str) -> Iterable[Any]:
    """An array of paths or objects, or an object whose keys are paths, as kohya's scripts write."""
    if isinstance(document, dict):
        return list(document)
    if isinstance(document, list):
        return document
    raise Invalid(name, "must be an array or an object", "Use an array of paths, or of objects with a path")


def _objects(rows: Iterable[Any], name: str, columns: ListColumns) -> Iterator[ListedFile]:
    path_name = columns.path
    for number, row in enumerate(rows, 1):
        if isinstance(row, str):
            yield ListedFile(row, None)
            continue
        if not isinstance(row, Mapping):
            raise Invalid(f"{name}, row {number}", "must be a path or an object")
        path_name = path_name or _path_name(row, name)
        path = row.get(path_name)
        if not isinstance(path, str) or not path:
            raise Invalid(
                f"{name}, row {number}",
                f"has no path in '{path_name}'",
                "Choose the column with --path-column",
            )
        image_id = row.get(columns.id or "id")
        if image_id is None and columns.id is not None:
            raise Invalid(f"{name}, row {number}", f"has no id in '{columns.id}'")
        yield ListedFile(path, None if image_id is None else str(image_id))


def _path_name(row: Mapping[str, Any], name: str) -> str:
    found = [each for each in PATH_NAMES if each in row]
    if len(found) == 1:
        return found[0]
    known = few([f"'{each}'" for each in row], 20)
    detail = (
        f"several columns could be the path: {', '.join(found)}"
        if found
        else f"no column of paths; columns are {known}"
    )
    raise Invalid(name, detail, "Choose it with --path-column")


def location(path: str, base: str) -> str:
    """The location of a path in a list in the folder ``base``."""
    if is_remote(path) or "://" in path:
        return path
    if is_remote(base):
        return f"{base}/{path.lstrip('/')}"
    return os.path.normpath(os.path.join(base, path))
