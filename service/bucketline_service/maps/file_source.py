"""An opened map file: its columns in chunks of rows, and errors that name the row, the line and the value."""

from __future__ import annotations

import errno
import reprlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bucketline_service.errors import BucketlineError, Invalid, StoreUnavailable, TooLarge
from bucketline_service.maps.column_names import ResolvedColumns

CHUNK_ROWS = 1 << 18
"""Rows that are read and checked at once: about 10 MB, whatever the size of the file."""

MAX_ID_BYTES = 1024
"""Longest string id, in UTF-8 bytes. Ids are part of URLs and of every batch; S3 limits object keys to the same
length."""

NOT_UTF8_HINT = "If it is Latin-1 or Windows-1252, convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE"

_VALUE_CHARS = 80

# What parsers raise for a damaged file. The errors of pyarrow derive from these or from ArrowException.
_BROKEN = (
    pa.ArrowException,
    OSError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    SystemError,  # ijson raises it for a number of thousands of digits
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
_UNREADABLE = (
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOENT, errno.EMFILE, errno.ENFILE),
    *(errno.ENOSPC, errno.EDQUOT),
)


class RowChunk(NamedTuple):
    """Consecutive rows as Arrow arrays of equal length, in whatever types the file has. ``optional`` maps each optional
    column to its name in the file and its array."""

    ids: Any
    widths: Any
    heights: Any
    optional: Mapping[str, tuple[str, Any]] = {}

    @classmethod
    def of(cls, names: ResolvedColumns, column: Callable[[str], Any]) -> RowChunk:
        """``column`` returns the array of a column by its name in the file."""
        optional = {kind: (name, column(name)) for kind, name in names.optional.items()}
        return cls(column(names.id), column(names.width), column(names.height), optional)

    def of_rows(self, is_chosen: NDArray[np.bool_]) -> RowChunk:
        """Only the rows where ``is_chosen``, bool[n], is true."""
        mask = pa.array(is_chosen)
        optional = {kind: (name, array.filter(mask)) for kind, (name, array) in self.optional.items()}
        return RowChunk(self.ids.filter(mask), self.widths.filter(mask), self.heights.filter(mask), optional)


@dataclass(frozen=True)
class FileSource:
    """An opened file. Rows are counted from 0 here, and from 1 in messages.

    ``is_text``: the format has no types, and every column is read as strings. ``line`` returns the line of a row where
    it is known exactly. ``part``: the name of this file where a map consists of several. ``row_of`` converts a row of
    the map to a row of this file; they differ where rows were skipped or other files come before."""

    names: ResolvedColumns
    chunks: Iterator[RowChunk]
    is_text: bool = False
    line: Callable[[int], int | None] = lambda row: None
    part: str | None = None
    row_of: Callable[[int], int] = lambda row: row

    def row_error(self, column: str, row: int, detail: str, value: Any, hint: str | None = None) -> Invalid:
        """The error for a value: it names the column, the row, the line where known, and the value, which replaces
        ``{}`` in ``detail``."""
        row, shown = self.row_of(row), show(value)
        line = self.line(row)
        at = f"row {row + 1}" + (f" (line {line})" if line is not None else "")
        extra: dict[str, Any] = {"row": row + 1, "value": shown}
        if line is not None:
            extra["line"] = line
        if self.part is not None:
            at, extra["part"] = f"{self.part}: {at}", self.part
        return Invalid(column, f"{at}: {detail.replace('{}', shown)}", hint, **extra)


def show(value: Any) -> str:
    """A value as text for a message, always short."""
    if isinstance(value, (str, bytes)):
        value = value[: _VALUE_CHARS + 1]
        text = repr(value)
    else:
        text = _SHORTLY.repr(value)
    return text if len(text) <= _VALUE_CHARS else text[:_VALUE_CHARS] + "…"


class _Shortly(reprlib.Repr):
    """``repr`` limited in depth and length: nested values that share parts can print without end."""

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= 256 else f"an integer of {x.bit_length()} bits"


_SHORTLY = _Shortly()
_SHORTLY.maxlevel = 3
_SHORTLY.maxstring = _SHORTLY.maxother = _VALUE_CHARS


def is_utf8(text: str) -> bool:
    """False for strings with lone surrogates, which JSON and pickle can produce."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def reading(path: Path, format_name: str) -> Iterator[None]:
    """Convert what a parser raises for a damaged file to ``Invalid``."""
    try:
        yield
    except BucketlineError:
        raise
    except MemoryError as exc:
        raise TooLarge(
            f"the {format_name} file needs more memory than is available: {_first_line(exc)}"
        ) from exc
    except _BROKEN as exc:
        if isinstance(exc, OSError) and exc.errno in _UNREADABLE:
            raise StoreUnavailable(f"cannot read {path}: {exc.strerror}") from exc
        raise broken(format_name, _first_line(exc)) from exc


def broken(format_name: str, reason: str) -> Invalid:
    return Invalid(
        "file",
        f"cannot be read as {format_name}: {reason.rstrip('.')}",
        "It may be truncated, damaged, or in another format",
    )


def _first_line(exc: BaseException) -> str:
    text = str(exc.args[0]) if isinstance(exc, KeyError) and exc.args else str(exc)
    return (text.strip().splitlines() or [type(exc).__name__])[0][:300]
