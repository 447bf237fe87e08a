"""What ids and sides must be, chunk by chunk; and that no id comes twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bucketline_service.maps import lazy_compute as pc
from bucketline_service.maps.file_source import MAX_ID_BYTES, FileSource
from bucketline_service.maps.numeric_columns import (
    NumberRule,
    check_numbers,
    first_true,
    plain,
    wrong_type,
)

MAX_SIDE_PX = 1_000_000
"""Largest side taken. No image format in use for training goes this far (JPEG and WebP end at 65,535 and
16,383 px; the largest stitched panoramas are some 600,000 px wide), while swapped columns, file sizes and
hashes mostly do."""

_SIDE = NumberRule(
    "a number of pixels",
    low=1,
    high=MAX_SIDE_PX,
    hint=f"A side is a whole number of pixels from 1 to {MAX_SIDE_PX:,}",
    unit=" pixels",
)
_ID_HINT = "Ids are 64-bit whole numbers or strings, one kind in a map"
_FLOAT_SUFFIX = ".0"
_FLOAT = r"^[+-]?[0-9]+\.0$"
_UUID_BYTES = 16


def check_sides(source: FileSource, column: str, array: Any, first_row: int) -> NDArray[np.uint32]:
    """A chunk of widths or heights, uint32[n]; ``Invalid`` for the first row that is no side length."""
    return check_numbers(source, column, array, first_row, _SIDE).astype(np.uint32)


def check_ids(source: FileSource, column: str, array: Any, first_row: int) -> Any:
    """A chunk of ids as an int64 or a large_string array; ``Invalid`` for the first row that is no id."""
    array = plain(array)
    if array.null_count:
        raise source.refuse(column, first_row + first_true(pc.is_null(array)), "no id", None, _ID_HINT)
    given = array
    if pa.types.is_integer(array.type):
        return _int_ids(source, column, array, first_row)
    array = _as_text(array)
    if array is None:
        raise wrong_type(source, column, given, first_row, "an id", _ID_HINT)
    array = _utf8(source, column, array, first_row)
    if source.is_text:
        _refuse_floats(source, column, array, first_row)
    lengths = pc.binary_length(array)
    for bad, fault, hint in (
        (pc.equal(lengths, 0), "an empty string is no id", _ID_HINT),
        (
            pc.greater(lengths, MAX_ID_BYTES),
            f"{{}} is longer than {MAX_ID_BYTES:,} bytes",
            "Use a shorter id",
        ),
    ):
        if pc.any(bad).as_py():
            row = first_true(bad)
            raise source.refuse(column, first_row + row, fault, array[row].as_py(), hint)
    return array


def _refuse_floats(source: FileSource, column: str, array: Any, first_row: int) -> None:
    """A table in which a row has no id has all others as floats, and writes 7 as 7.0. Formats with types are refused
    for it, and so is text."""
    if not pc.any(pc.ends_with(array, _FLOAT_SUFFIX)).as_py():
        return
    is_float = pc.match_substring_regex(array, _FLOAT)
    if pc.any(is_float).as_py():
        row = first_true(is_float)
        hint = (
            "Write ids as whole numbers: 7, not 7.0. Strings that look like this need Parquet or JSON lines"
        )
        raise source.refuse(
            column, first_row + row, "{} is a floating-point number, not an id", array[row].as_py(), hint
        )


def _as_text(array: Any) -> Any | None:
    """Strings, or bytes that may be: large_string or large_binary. None where the type is another one."""
    kind = array.type
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == _UUID_BYTES:
        return _uuids(array)
    try:
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
            return array.cast(pa.large_binary())
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            return array.cast(pa.large_string())
    except pa.ArrowNotImplementedError:  # older releases of arrow can not convert views
        return None
    return None


def _uuids(array: Any) -> Any:
    """Sixteen bytes are a UUID, whose string has hyphens after the digits 8, 12, 16 and 20."""
    data = np.frombuffer(array.buffers()[1], np.uint8).reshape(-1, _UUID_BYTES)
    data = data[array.offset : array.offset + len(array)]
    hexadecimal = np.frombuffer(data.tobytes().hex().encode(), np.uint8).reshape(-1, 2 * _UUID_BYTES)
    text = np.insert(hexadecimal, [8, 12, 16, 20], ord("-"), axis=1)  # uint8[n, 36]
    ends = pa.py_buffer(np.arange(len(array) + 1, dtype=np.int64) * text.shape[1])
    return pa.LargeStringArray.from_buffers(len(array), ends, pa.py_buffer(np.ascontiguousarray(text)))


def as_int_ids(array: Any) -> Any | None:
    """Text ids as int64, or None where any of them is not the canonical decimal form of one: "007" stays a
    string, as does what does not fit in 64 bits."""
    try:
        numbers = array.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    return numbers if pc.all(pc.equal(numbers.cast(pa.large_string()), array)).as_py() else None


def _int_ids(source: FileSource, column: str, array: Any, first_row: int) -> Any:
    if pa.types.is_uint64(array.type):
        bad = pc.greater(array, pa.scalar(2**63 - 1, pa.uint64()))
        if pc.any(bad).as_py():
            row = first_true(bad)
            hint = "Ids are signed 64-bit whole numbers: store larger ones as strings"
            raise source.refuse(
                column, first_row + row, "{} does not fit in 64 bits", array[row].as_py(), hint
            )
    return array.cast(pa.int64())


def _utf8(source: FileSource, column: str, array: Any, first_row: int) -> Any:
    """Parquet and arrow strings are checked by nobody else."""
    try:
        array = array.cast(pa.large_string())
        array.validate(full=True)
    except pa.ArrowInvalid:
        values = array.cast(pa.large_binary()).to_pylist()
        row = next(row for row, value in enumerate(values) if value.decode(errors="ignore").encode() != value)
        raise source.refuse(column, first_row + row, "{} is not UTF-8", values[row], _ID_HINT) from None
    return array


def duplicate_row(ids: Any, by_id: NDArray[Any]) -> tuple[int, int] | None:
    """The first row whose id stands in an earlier row too, and that earlier row. ``by_id`` sorts ``ids``
    stably."""
    found: tuple[int, int] | None = None
    step = 1 << 20
    for start in range(0, len(by_id) - 1, step):
        rows = by_id[start : start + step + 1]
        keys = ids.take(pa.array(rows, pa.uint64()))
        equal = pc.equal(keys.slice(1), keys.slice(0, len(rows) - 1)).to_numpy(zero_copy_only=False)
        if equal.any():
            again = rows[1:][equal]
            row = int(again.min())
            if found is None or row < found[0]:
                found = row, int(rows[:-1][equal][np.argmin(again)])
    return found
