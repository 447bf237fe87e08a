"""Optional columns while a map is read: values are appended to the spool chunk by chunk, and end as one array.

A column in which every value is 1 is dropped at the end, since 1 is the default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.maps import lazy_compute as pc
from bucketline_service.maps.optional_columns import MAX_REPEAT_VALUES, STORED
from bucketline_service.maps.spool import Spool

_STEP = 1 << 20

RowError = Callable[[int, str, str], Invalid]
"""Makes the error for a row of the chunk, from its index, what is wrong (with ``{}`` for the value) and a hint."""


class ColumnWriter(Protocol):
    """Writes one column. ``finish`` returns an array of the type in ``STORED``, or None where all values are 1."""

    def add(self, values: NDArray[np.float64], row_error: RowError) -> None:
        """Append the values of the next rows, float64[n]."""

    def finish(self) -> Any | None: ...


class NumFramesWriter:
    """uint32, 4 bytes an image."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._max = 0

    def add(self, values: NDArray[np.float64], row_error: RowError) -> None:
        self._spool.write("num_frames", values.astype(np.uint32))
        self._max = max(self._max, int(values.max()))

    def finish(self) -> Any | None:
        return None if self._max <= 1 else self._spool.column("num_frames", STORED["num_frames"])


class NumRepeatsWriter:
    """A one-byte code an image, an index into the distinct values. Codes are assigned in the order in which values
    appear, and renumbered at the end so that they follow the order of the values."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._codes: dict[float, int] = {}

    def add(self, values: NDArray[np.float64], row_error: RowError) -> None:
        found = pa.array(values).dictionary_encode()
        for place, value in enumerate(found.dictionary.to_pylist()):
            if value not in self._codes:
                if len(self._codes) == MAX_REPEAT_VALUES:
                    row = pc.index(found.indices, pa.scalar(place, pa.int32())).as_py()
                    raise row_error(
                        row,
                        f"num_repeats must have at most {MAX_REPEAT_VALUES} distinct values in a map, and {{}} is one "
                        "more",
                        "Round the values",
                    )
                self._codes[value] = len(self._codes)
        code_of = np.array([self._codes[value] for value in found.dictionary.to_pylist()], np.uint8)
        self._spool.write("repeat_codes", code_of[found.indices.to_numpy()])

    def finish(self) -> Any | None:
        given = list(self._codes)
        values = np.array(sorted(given))
        if values.tolist() == [1.0]:
            return None
        codes = self._renumbered(np.searchsorted(values, given).astype(np.uint8))
        return pa.DictionaryArray.from_arrays(codes, pa.array(values))

    def _renumbered(self, new_codes: NDArray[np.uint8]) -> Any:
        """The codes of all images as a uint8 array, code ``c`` replaced by ``new_codes[c]``."""
        codes = self._spool.column("repeat_codes", pa.uint8())
        if (new_codes == np.arange(len(new_codes))).all():
            return codes
        for start in range(0, len(codes), _STEP):
            self._spool.write("num_repeats", new_codes[codes.slice(start, _STEP).to_numpy()])
        return self._spool.column("num_repeats", pa.uint8())


_WRITERS: dict[str, Callable[[Spool], ColumnWriter]] = {
    "num_repeats": NumRepeatsWriter,
    "num_frames": NumFramesWriter,
}


def _default_error(row: int, detail: str, hint: str) -> Invalid:
    return Invalid("file", detail.replace("{}", "1, the default of rows without a value,"), hint)


class OptionalColumnWriters:
    """The optional columns of a map. Rows for which a column was not given have the default: JSON lines may omit a key
    at first, and one of several files may not have the column."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._writers: dict[str, ColumnWriter] = {}
        self._num_rows: dict[str, int] = {}

    def add(self, kind: str, values: NDArray[np.float64], first_row: int, row_error: RowError) -> None:
        """Append the values of the rows from ``first_row`` on, float64[n]."""
        if kind not in self._writers:
            self._writers[kind] = _WRITERS[kind](self._spool)
        self._fill(kind, first_row)
        self._writers[kind].add(values, row_error)
        self._num_rows[kind] = first_row + len(values)

    def _fill(self, kind: str, num_rows: int) -> None:
        for start in range(self._num_rows.get(kind, 0), num_rows, _STEP):
            self._writers[kind].add(np.ones(min(_STEP, num_rows - start)), _default_error)

    def finish(self, num_rows: int) -> dict[str, Any]:
        """The array of each column that differs from its default, for a map of ``num_rows`` rows."""
        for kind in self._writers:
            self._fill(kind, num_rows)
        arrays = {kind: writer.finish() for kind, writer in self._writers.items()}
        return {kind: array for kind in STORED if (array := arrays.get(kind)) is not None}
