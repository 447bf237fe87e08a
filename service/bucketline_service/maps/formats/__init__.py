"""The formats of maps, in one table: their names, media types, file suffixes and readers.

The API, the command line, its help, the client's upload and the documentation follow this table, or a test names what
is missing from them (``tests/maps/test_formats.py``)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bucketline_service.errors import Invalid
from bucketline_service.maps.column_names import RequestedColumns
from bucketline_service.maps.file_source import FileSource
from bucketline_service.maps.formats.columnar import read_arrow, read_parquet
from bucketline_service.maps.formats.csv import read_csv
from bucketline_service.maps.formats.json import read_jsonl
from bucketline_service.maps.formats.npz import read_npz
from bucketline_service.maps.formats.pickle import read_pickle


@dataclass(frozen=True)
class MapFormat:
    """``media_types``: the first one is what the client sends. ``read`` opens a file, which the stack closes; None is
    an archive of files of other formats. ``is_text``: it may be compressed with gzip, under a name that ends in
    ``.gz``. ``other_names``: formats that the same reader reads."""

    name: str
    media_types: tuple[str, ...]
    suffixes: tuple[str, ...]
    read: Callable[[Path, RequestedColumns, ExitStack], FileSource] | None
    is_text: bool = False
    other_names: tuple[str, ...] = ()


# npz and pickle have no registered media type.
_ALL = (
    MapFormat(
        "csv",
        ("text/csv", "application/csv", "text/tab-separated-values"),
        (".csv", ".tsv"),
        read_csv,
        is_text=True,
        other_names=("tsv",),
    ),
    MapFormat(
        "jsonl",
        ("application/x-ndjson", "application/jsonl", "application/x-jsonlines"),
        (".jsonl", ".ndjson", ".json"),
        read_jsonl,
        is_text=True,
        other_names=("json",),
    ),
    MapFormat(
        "parquet",
        ("application/vnd.apache.parquet", "application/x-parquet"),
        (".parquet", ".pq"),
        read_parquet,
    ),
    MapFormat(
        "arrow",
        ("application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file"),
        (".arrow", ".arrows", ".feather"),
        read_arrow,
    ),
    MapFormat("npz", ("application/x-npz",), (".npz",), read_npz),
    MapFormat("pickle", ("application/x-pickle",), (".pkl", ".pickle"), read_pickle),
    MapFormat("tar", ("application/x-tar",), (".tar",), None),
)

FORMATS: dict[str, MapFormat] = {format.name: format for format in _ALL}
"""By name, in the order for listings."""

PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
"""Second suffixes of compressed files. Only gzip is read; the error for the others names the tool to decompress
them."""

_BY_NAME = {name: format for format in _ALL for name in (format.name, *format.other_names)}
_BY_MEDIA_TYPE = {media_type: format for format in _ALL for media_type in format.media_types}
_BY_SUFFIX = {suffix: format for format in _ALL for suffix in format.suffixes}


def format_named(name: str) -> MapFormat:
    """The format with a name or media type; parameters (``; charset=utf-8``) are ignored."""
    key = name.split(";")[0].strip().lower()
    found = _BY_NAME.get(key) or _BY_MEDIA_TYPE.get(key)
    if found is None:
        known = ", ".join(f"{format.name} ({format.media_types[0]})" for format in _ALL)
        raise Invalid("format", f"must be a known format, got {name[:80]!r}", f"Formats are {known}")
    return found


def format_for_suffix(path: Path) -> MapFormat:
    """The format that a file name ends with, before ``.gz`` and the like."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED_SUFFIXES:
        suffixes.pop()
    found = _BY_SUFFIX.get(suffixes[-1]) if suffixes else None
    if found is None:
        raise Invalid(
            "format",
            f"the file name must end with a known suffix, got {path.name[-80:]!r}",
            f"Suffixes are {', '.join(_BY_SUFFIX)}, and .gz after those of text. Or pass format=NAME, one of "
            f"{', '.join(_BY_NAME)}",
        )
    return found
