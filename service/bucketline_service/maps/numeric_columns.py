"""Columns of numbers: which values they take. Vectorised: a chunk passes or fails as a whole, and only then is
the row looked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bucketline_service.errors import Invalid, TooLarge
from bucketline_service.maps import lazy_compute as pc
from bucketline_service.maps.file_source import FileSource

NO_SIZE_HINT = "To leave out the rows without a size: skip_missing_sizes=true"
MAX_PLAIN_BYTES = 1 << 30
"""A chunk of ids of the greatest length comes to a quarter of it."""

_WHOLE_UNSIGNED = r"^[0-9]+(?:\.0*)?$"
_DECIMAL = r"^-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"


@dataclass(frozen=True)
class NumberRule:
    """The numbers that a column takes: ``low`` to ``high``, both included, whole ones unless ``fractions``.

    ``what`` and ``unit`` are for messages. ``low`` is 0 or more. ``default``: what null and empty stand for; None:
    they are refused."""

    what: str
    low: int
    high: int
    hint: str
    unit: str = ""
    fractions: bool = False
    default: int | None = None

    def lowered(self, by: int) -> NumberRule:
        """The rule for numbers that are ``by`` less than what is meant."""
        default = None if self.default is None else self.default - by
        return replace(self, low=max(0, self.low - by), high=self.high - by, default=default)


def check_numbers(
    source: FileSource, column: str, array: Any, first_row: int, rule: NumberRule
) -> NDArray[Any]:
    """A chunk of numbers, of whatever type the file has them in, [n]; ``Invalid`` for the first row that breaks the
    rule."""
    array = plain(array)
    if array.null_count and rule.default is None:
        row = first_true(pc.is_null(array))
        raise source.refuse(column, first_row + row, "no value", None, NO_SIZE_HINT)
    if array.null_count == len(array):  # of whatever type
        return np.full(len(array), rule.default)
    given = array
    if source.is_text:
        array = _parsed(source, column, array, first_row, rule)
    elif pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        raise wrong_type(source, column, array, first_row, rule.what, rule.hint)
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    if values.dtype == np.float16:  # it holds no number that is too large
        values = values.astype(np.float64)
    if rule.default is not None and array.null_count:
        values = np.where(pc.is_null(array).to_numpy(zero_copy_only=False), rule.default, values)
    good = (values >= rule.low) & (values <= rule.high)
    if pa.types.is_floating(array.type) and not rule.fractions:
        good &= np.floor(values) == values
    if not good.all():
        row = int(np.argmin(good))
        value = values[row].item()
        hint = _hint(value != value, rule)
        raise source.refuse(column, first_row + row, _fault(value, rule), given[row].as_py(), hint)
    return values


def _parsed(source: FileSource, column: str, array: Any, first_row: int, rule: NumberRule) -> Any:
    """Strings to numbers: "640", "640.0" and " 640 "; the first one that is none of these is refused."""
    array = pc.ascii_trim_whitespace(array)
    if rule.default is not None:
        array = pc.if_else(pc.equal(array, ""), pa.scalar(str(rule.default), array.type), array)
    if pc.all(pc.ascii_is_decimal(array)).as_py():
        if pc.max(pc.binary_length(array)).as_py() <= 18:
            return array.cast(pa.int64())
        return array.cast(pa.float64())
    readable = pc.match_substring_regex(array, _DECIMAL if rule.fractions else _WHOLE_UNSIGNED)
    if not pc.all(readable).as_py():
        row = first_true(pc.invert(readable))
        value = array[row].as_py()
        if value == "":
            raise source.refuse(column, first_row + row, "no value", value, NO_SIZE_HINT)
        hint = _hint(value.lower() == "nan", rule)
        raise source.refuse(column, first_row + row, _text_fault(value, rule), value, hint)
    return array.cast(pa.float64())


def _hint(is_missing: bool, rule: NumberRule) -> str:
    return NO_SIZE_HINT if is_missing and rule.default is None else rule.hint


def _text_fault(value: str, rule: NumberRule) -> str:
    try:
        number = float(value)
    except ValueError:
        return "{} is not a number"
    if rule.low <= number <= rule.high and (rule.fractions or number.is_integer()):
        return f"{{}} is not written as a {'decimal' if rule.fractions else 'whole'} number"
    return _fault(number, rule)


def _fault(value: float, rule: NumberRule) -> str:
    if value != value:
        return "no value ({})"
    if value == 0 < rule.low:
        return "{} is zero"
    if value < 0:
        return "{} is negative"
    if value > rule.high:
        return f"{{}} is more than {rule.high:,}{rule.unit}"
    return "{} is not a whole number"


def plain(array: Any) -> Any:
    """What a dictionary stands for, written out, and what an extension type is kept as. Raises ``TooLarge`` where few
    long values stand for very much."""
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if not pa.types.is_dictionary(array.type):
        return array
    if pa.types.is_string_view(array.dictionary.type):  # polars' categories; arrow cannot write these out
        array = pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(pa.large_string()))
    num_bytes = _longest(array.dictionary) * len(array)
    if num_bytes > MAX_PLAIN_BYTES:
        raise TooLarge(
            f"a dictionary stands for {len(array):,} rows of up to {num_bytes // len(array):,} bytes, more than "
            f"{MAX_PLAIN_BYTES:,} bytes written out",
            limit_bytes=MAX_PLAIN_BYTES,
        )
    return array.dictionary_decode()


def _longest(values: Any) -> int:
    """Bytes of the longest value, or more."""
    kind = values.type
    if (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    ):
        return int(pc.max(pc.binary_length(values)).as_py() or 0)
    return int(values.nbytes) if pa.types.is_binary_view(kind) or pa.types.is_string_view(kind) else 0


def wrong_type(source: FileSource, column: str, array: Any, first_row: int, what: str, hint: str) -> Invalid:
    """For the first row that has a value."""
    kind = array.type
    row = first_true(pc.is_valid(array)) if array.null_count else 0
    if pa.types.is_boolean(kind) or pa.types.is_floating(kind) or pa.types.is_string(kind):
        value = array[row].as_py()
    else:  # there are times and dates that Python can not hold
        value = " ".join(array.slice(row, 1).to_string().split())
    return source.refuse(column, first_row + row, f"{{}} is of type {array.type}, not {what}", value, hint)


def first_true(mask: Any) -> int:
    """The first True of an arrow boolean array that has one."""
    return int(pc.index(mask, pa.scalar(True)).as_py())
