"""Columns of numbers, and the sides of images: the values that each may have.

The checks are vectorised. A chunk passes or fails as a whole, and only then is the offending row searched for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bucketline_service.errors import Invalid, TooLarge
from bucketline_service.maps import lazy_compute as pc
from bucketline_service.maps.file_source import FileSource

MAX_SIDE_PX = 1_000_000
"""Largest width or height. No image format used for training goes this far (JPEG and WebP end at 65,535 and 16,383 px;
the largest stitched panoramas are about 600,000 px wide), while swapped columns, file sizes and hashes mostly do."""

NO_SIZE_HINT = "Pass skip_missing_sizes=true to leave out the rows without a size"
MAX_PLAIN_BYTES = 1 << 30
"""Limit of a decoded dictionary column. A chunk of the longest possible ids takes a quarter of it."""

_WHOLE_UNSIGNED = r"^[0-9]+(?:\.0*)?$"
_DECIMAL = r"^-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"


@dataclass(frozen=True)
class NumberRule:
    """The numbers that a column may have: ``low`` (0 or more) to ``high``, both included, integers unless
    ``fractions``. ``default`` replaces null and empty values; where it is None they are refused."""

    low: int
    high: int
    hint: str | None = None
    fractions: bool = False
    default: int | None = None

    @property
    def requirement(self) -> str:
        return f"must be {'a number' if self.fractions else 'an integer'} from {self.low:,} to {self.high:,}"

    def lowered(self, by: int) -> NumberRule:
        """The rule for a column whose values are ``by`` less than what they mean."""
        default = None if self.default is None else self.default - by
        return replace(self, low=max(0, self.low - by), high=self.high - by, default=default)


SIDE = NumberRule(low=1, high=MAX_SIDE_PX)


def check_sides(source: FileSource, column: str, array: Any, first_row: int) -> NDArray[np.uint32]:
    """A chunk of widths or heights in pixels, uint32[n]; ``Invalid`` for the first row that is not a side."""
    return check_numbers(source, column, array, first_row, SIDE).astype(np.uint32)


def check_numbers(
    source: FileSource, column: str, array: Any, first_row: int, rule: NumberRule
) -> NDArray[Any]:
    """A chunk of numbers, [n], of any type that the file has; ``Invalid`` for the first row that breaks the rule."""
    array = plain(array)
    if array.null_count and rule.default is None:
        row = first_true(pc.is_null(array))
        raise source.row_error(column, first_row + row, "has no value", None, NO_SIZE_HINT)
    if array.null_count == len(array):  # a column without values may have any type
        return np.full(len(array), rule.default)
    given = array
    if source.is_text:
        array = _parsed(source, column, array, first_row, rule)
    elif pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        raise wrong_type(source, column, array, first_row, rule.requirement, rule.hint)
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    if values.dtype == np.float16:  # its largest number is below every limit; float64 compares exactly
        values = values.astype(np.float64)
    if rule.default is not None and array.null_count:
        values = np.where(pc.is_null(array).to_numpy(zero_copy_only=False), rule.default, values)
    good = (values >= rule.low) & (values <= rule.high)
    if pa.types.is_floating(array.type) and not rule.fractions:
        good &= np.floor(values) == values
    if not good.all():
        row = int(np.argmin(good))
        is_missing = bool(values[row] != values[row]) and rule.default is None  # NaN
        fault = "has no value ({})" if is_missing else f"{rule.requirement}, got {{}}"
        hint = NO_SIZE_HINT if is_missing else rule.hint
        raise source.row_error(column, first_row + row, fault, given[row].as_py(), hint)
    return values


def _parsed(source: FileSource, column: str, array: Any, first_row: int, rule: NumberRule) -> Any:
    """Strings to numbers: "640", "640.0" and " 640 "; ``Invalid`` for the first row that is neither."""
    array = pc.ascii_trim_whitespace(array)
    if rule.default is not None:
        array = pc.if_else(pc.equal(array, ""), pa.scalar(str(rule.default), array.type), array)
    if pc.all(pc.ascii_is_decimal(array)).as_py():
        if pc.max(pc.binary_length(array)).as_py() <= 18:  # fits in int64
            return array.cast(pa.int64())
        return array.cast(pa.float64())
    readable = pc.match_substring_regex(array, _DECIMAL if rule.fractions else _WHOLE_UNSIGNED)
    if not pc.all(readable).as_py():
        row = first_true(pc.invert(readable))
        value = array[row].as_py()
        if rule.default is None and value.lower() in ("", "nan"):
            fault = "has no value ({})" if value else "has no value"
            raise source.row_error(column, first_row + row, fault, value, NO_SIZE_HINT)
        fault = f"{rule.requirement}, in decimal digits, got {{}}"
        raise source.row_error(column, first_row + row, fault, value, rule.hint)
    return array.cast(pa.float64())


def plain(array: Any) -> Any:
    """A dictionary array decoded, and an extension array as its storage. ``TooLarge`` where a few long values would
    expand to more than ``MAX_PLAIN_BYTES``."""
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if not pa.types.is_dictionary(array.type):
        return array
    if pa.types.is_string_view(array.dictionary.type):  # polars' categories, which Arrow cannot decode
        array = pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(pa.large_string()))
    num_bytes = _longest_bytes(array.dictionary) * len(array)
    if num_bytes > MAX_PLAIN_BYTES:
        raise TooLarge(
            f"a dictionary column of {len(array):,} rows with values of up to {num_bytes // len(array):,} bytes must "
            f"expand to at most {MAX_PLAIN_BYTES:,} bytes. Use shorter values, or a column without a dictionary",
            limit_bytes=MAX_PLAIN_BYTES,
        )
    return array.dictionary_decode()


def _longest_bytes(values: Any) -> int:
    """An upper bound of the longest value of a dictionary, in bytes."""
    kind = values.type
    if (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    ):
        return int(pc.max(pc.binary_length(values)).as_py() or 0)
    return int(values.nbytes) if pa.types.is_binary_view(kind) or pa.types.is_string_view(kind) else 0


def wrong_type(
    source: FileSource, column: str, array: Any, first_row: int, requirement: str, hint: str | None
) -> Invalid:
    """The error for a column of another type, at the first row that has a value."""
    kind = array.type
    row = first_true(pc.is_valid(array)) if array.null_count else 0
    if pa.types.is_boolean(kind) or pa.types.is_floating(kind) or pa.types.is_string(kind):
        value = array[row].as_py()
    else:  # some times and dates have no Python value
        value = " ".join(array.slice(row, 1).to_string().split())
    return source.row_error(column, first_row + row, f"{requirement}, got {{}} of type {kind}", value, hint)


def first_true(mask: Any) -> int:
    """The index of the first true value of an Arrow boolean array that has one."""
    return int(pc.index(mask, pa.scalar(True)).as_py())
