"""What every row must be. Vectorised: a chunk passes or fails as a whole, and only then is the row looked
for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.maps.source import Source

MAX_SIDE_PX = 1_000_000
"""Largest side taken. No image format in use for training goes this far (JPEG and WebP end at 65,535 and
16,383 px; the largest stitched panoramas are some 600,000 px wide), while swapped columns, file sizes and
hashes mostly do."""

MAX_ID_BYTES = 1024
"""Longest string id, in UTF-8 bytes: ids stand in URLs and in every batch; S3's object keys end here as
well."""

_SIDE_HINT = f"A side is a whole number of pixels from 1 to {MAX_SIDE_PX:,}"
_ID_HINT = "Ids are 64-bit whole numbers or strings, one kind in a map"
_WHOLE_UNSIGNED = r"^[0-9]+(?:\.0*)?$"


def check_sides(source: Source, column: str, array: Any, first_row: int) -> NDArray[np.uint32]:
    """A chunk of widths or heights, uint32[n]; ``Invalid`` for the first row that is no side length."""
    array = _plain(array)
    if array.null_count:
        raise source.refuse(
            column, first_row + first_true(pc.is_null(array)), "no value", None, source.null_hint
        )
    given = array
    if source.is_text:
        array = _numbers(source, column, array, first_row)
    elif pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        raise _wrong_type(source, column, array, first_row, "a number of pixels", _SIDE_HINT)
    values = array.to_numpy(zero_copy_only=False)
    good = (values >= 1) & (values <= MAX_SIDE_PX)
    if pa.types.is_floating(array.type):
        good &= np.floor(values) == values
    if not good.all():
        row = int(np.argmin(good))
        raise source.refuse(
            column, first_row + row, _side_fault(values[row].item()), given[row].as_py(), _SIDE_HINT
        )
    sides: NDArray[np.uint32] = values.astype(np.uint32)
    return sides


def _numbers(source: Source, column: str, array: Any, first_row: int) -> Any:
    """Strings to numbers: "640", "640.0" and " 640 "; the first one that is none of these is refused."""
    array = pc.ascii_trim_whitespace(array)
    if pc.all(pc.ascii_is_decimal(array)).as_py():
        if pc.max(pc.binary_length(array)).as_py() <= 18:
            return array.cast(pa.int64())
        return array.cast(pa.float64())
    whole = pc.match_substring_regex(array, _WHOLE_UNSIGNED)
    if not pc.all(whole).as_py():
        row = first_true(pc.invert(whole))
        value = array[row].as_py()
        fault = "no value" if value == "" else _text_fault(value)
        raise source.refuse(
            column, first_row + row, fault, value, source.null_hint if value == "" else _SIDE_HINT
        )
    return array.cast(pa.float64())


def _text_fault(value: str) -> str:
    try:
        number = float(value)
    except ValueError:
        return "{} is not a number"
    if 1 <= number <= MAX_SIDE_PX and number.is_integer():
        return "{} is not written as a whole number"
    return _side_fault(number)


def _side_fault(value: float) -> str:
    if value != value:
        return "no value ({})"
    if value == 0:
        return "{} is zero"
    if value < 0:
        return "{} is negative"
    if value > MAX_SIDE_PX:
        return f"{{}} is more than {MAX_SIDE_PX:,} pixels"
    return "{} is not a whole number"


def check_ids(source: Source, column: str, array: Any, first_row: int) -> Any:
    """A chunk of ids as an int64 or a large_string array; ``Invalid`` for the first row that is no id."""
    array = _plain(array)
    if array.null_count:
        raise source.refuse(column, first_row + first_true(pc.is_null(array)), "no id", None, _ID_HINT)
    given = array
    if pa.types.is_integer(array.type):
        return _int_ids(source, column, array, first_row)
    array = _as_text(array)
    if array is None:
        raise _wrong_type(source, column, given, first_row, "an id", _ID_HINT)
    array = _utf8(source, column, array, first_row)
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


def _as_text(array: Any) -> Any | None:
    """Strings, or bytes that may be: large_string or large_binary. None where the type is another one."""
    kind = array.type
    try:
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
            return array.cast(pa.large_binary())
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            return array.cast(pa.large_string())
    except pa.ArrowNotImplementedError:  # older releases of arrow can not convert views
        return None
    return None


def as_int_ids(array: Any) -> Any | None:
    """Text ids as int64, or None where any of them is not the canonical decimal form of one: "007" stays a
    string, as does what does not fit in 64 bits."""
    try:
        numbers = array.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    return numbers if pc.all(pc.equal(numbers.cast(pa.large_string()), array)).as_py() else None


def _int_ids(source: Source, column: str, array: Any, first_row: int) -> Any:
    if pa.types.is_uint64(array.type):
        bad = pc.greater(array, pa.scalar(2**63 - 1, pa.uint64()))
        if pc.any(bad).as_py():
            row = first_true(bad)
            hint = "Ids are signed 64-bit whole numbers: store larger ones as strings"
            raise source.refuse(
                column, first_row + row, "{} does not fit in 64 bits", array[row].as_py(), hint
            )
    return array.cast(pa.int64())


def _utf8(source: Source, column: str, array: Any, first_row: int) -> Any:
    """Parquet and arrow strings are checked by nobody else."""
    try:
        array = array.cast(pa.large_string())
        array.validate(full=True)
    except pa.ArrowInvalid:
        values = array.cast(pa.large_binary()).to_pylist()
        row = next(row for row, value in enumerate(values) if value.decode(errors="ignore").encode() != value)
        raise source.refuse(column, first_row + row, "{} is not UTF-8", values[row], _ID_HINT) from None
    return array


def _plain(array: Any) -> Any:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _wrong_type(source: Source, column: str, array: Any, first_row: int, what: str, hint: str) -> Invalid:
    kind = array.type
    if pa.types.is_boolean(kind) or pa.types.is_floating(kind) or pa.types.is_string(kind):
        value = array[0].as_py()
    else:  # there are times and dates that Python can not hold
        value = " ".join(array.slice(0, 1).to_string().split())
    return source.refuse(column, first_row, f"{{}} is of type {array.type}, not {what}", value, hint)


def first_true(mask: Any) -> int:
    """The first True of an arrow boolean array that has one."""
    return int(pc.index(mask, pa.scalar(True)).as_py())


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


def refuse_duplicate(source: Source, ids: Any, row: int, earlier: int) -> Invalid:
    value = ids[row].as_py()
    return source.refuse(
        source.names.id,
        row,
        f"{{}} is there before, in row {earlier + 1}",
        value,
        "Every image has an id of its own",
    )
