"""The id column: 64-bit integers or strings, checked chunk by chunk, and unique over the whole map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bucketline_service.maps import lazy_compute as pc
from bucketline_service.maps.file_source import MAX_ID_BYTES, FileSource
from bucketline_service.maps.numeric_columns import first_true, plain, wrong_type

ID_HINT = "Ids are 64-bit integers or strings, all of one kind"
_FLOAT_SUFFIX = ".0"
_FLOAT = r"^[+-]?[0-9]+\.0$"
_UUID_BYTES = 16


def check_ids(source: FileSource, column: str, array: Any, first_row: int) -> Any:
    """A chunk of ids as an int64 or a large_string array; ``Invalid`` for the first row that is not an id."""
    array = plain(array)
    if array.null_count:
        row = first_true(pc.is_null(array))
        raise source.row_error(column, first_row + row, "has no value", None, ID_HINT)
    given = array
    if pa.types.is_integer(array.type):
        return _int_ids(source, column, array, first_row)
    array = _as_text(array)
    if array is None:
        raise wrong_type(source, column, given, first_row, "must be an integer or a string", ID_HINT)
    array = _utf8(source, column, array, first_row)
    if source.is_text:
        _refuse_floats(source, column, array, first_row)
    lengths = pc.binary_length(array)
    for bad, fault, hint in (
        (pc.equal(lengths, 0), "must not be empty, got {}", ID_HINT),
        (
            pc.greater(lengths, MAX_ID_BYTES),
            f"must be at most {MAX_ID_BYTES:,} bytes, got {{}}",
            "Use shorter ids",
        ),
    ):
        if pc.any(bad).as_py():
            row = first_true(bad)
            raise source.row_error(column, first_row + row, fault, array[row].as_py(), hint)
    return array


def _refuse_floats(source: FileSource, column: str, array: Any, first_row: int) -> None:
    """Where one row has no id, pandas writes all others as floats, 7 as 7.0. Such ids are refused in text as they are
    in typed formats."""
    if not pc.any(pc.ends_with(array, _FLOAT_SUFFIX)).as_py():
        return
    is_float = pc.match_substring_regex(array, _FLOAT)
    if pc.any(is_float).as_py():
        row = first_true(is_float)
        hint = "Write integer ids as 7, not 7.0. To use such strings as ids, send the map as Parquet or JSON lines"
        raise source.row_error(
            column,
            first_row + row,
            "must be an integer or a string, got the floating-point number {}",
            array[row].as_py(),
            hint,
        )


def _as_text(array: Any) -> Any | None:
    """Strings as large_string, bytes as large_binary; None for every other type."""
    kind = array.type
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == _UUID_BYTES:
        return _uuids(array)
    try:
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
            return array.cast(pa.large_binary())
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            return array.cast(pa.large_string())
    except pa.ArrowNotImplementedError:  # older releases of Arrow cannot convert views
        return None
    return None


def _uuids(array: Any) -> Any:
    """UUIDs, 16 bytes each, in their string form, with hyphens after the digits 8, 12, 16 and 20."""
    data = np.frombuffer(array.buffers()[1], np.uint8).reshape(-1, _UUID_BYTES)
    data = data[array.offset : array.offset + len(array)]
    hexadecimal = np.frombuffer(data.tobytes().hex().encode(), np.uint8).reshape(-1, 2 * _UUID_BYTES)
    text = np.insert(hexadecimal, [8, 12, 16, 20], ord("-"), axis=1)  # uint8[n, 36]
    ends = pa.py_buffer(np.arange(len(array) + 1, dtype=np.int64) * text.shape[1])
    return pa.LargeStringArray.from_buffers(len(array), ends, pa.py_buffer(np.ascontiguousarray(text)))


def as_int_ids(array: Any) -> Any | None:
    """Text ids as int64, or None where any of them is not the canonical decimal form of an int64: "007" remains a
    string."""
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
            raise source.row_error(
                column,
                first_row + row,
                "must fit in 64 bits with a sign, got {}",
                array[row].as_py(),
                "Store larger ids as strings",
            )
    return array.cast(pa.int64())


def _utf8(source: FileSource, column: str, array: Any, first_row: int) -> Any:
    """No reader validates the strings of Parquet and Arrow files."""
    try:
        array = array.cast(pa.large_string())
        array.validate(full=True)
    except pa.ArrowInvalid:
        values = array.cast(pa.large_binary()).to_pylist()
        row = next(row for row, value in enumerate(values) if value.decode(errors="ignore").encode() != value)
        raise source.row_error(
            column, first_row + row, "must be UTF-8, got {}", values[row], ID_HINT
        ) from None
    return array


def duplicate_row(ids: Any, by_id: NDArray[Any]) -> tuple[int, int] | None:
    """The first row whose id occurs in an earlier row, and that earlier row. ``by_id`` sorts ``ids`` stably."""
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
