"""Optional columns on their way in: chunk by chunk to the staging directory, and at the end an array over it. A
column that is all ones was never there: ones are the default."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.maps import lazy_compute as pc
from bucketline_service.maps.optional_columns import MAX_REPEAT_VALUES, STORED
from bucketline_service.maps.spool import Spool

_STEP = 1 << 20

Refuse = Callable[[int, str, str], Invalid]
"""The error for a row of the chunk: its number in it, what is wrong (the value as ``{}``), and what would do."""


class WrittenColumn(NamedTuple):
    """``array``: of the type in ``STORED``. ``summary``: what a look at the map shows of it."""

    array: Any
    summary: dict[str, float]


class ColumnWriter(Protocol):
    """One column. ``add``: the values of the next rows, float64[n]. ``finish``: None where all are ones."""

    def add(self, values: NDArray[np.float64], refuse: Refuse) -> None: ...

    def finish(self) -> WrittenColumn | None: ...


class NumFramesWriter:
    """Kept as they are: uint32, 4 bytes an image."""

    def __init__(self, staging: Spool) -> None:
        self._staging = staging
        self._min, self._max = math.inf, 0

    def add(self, values: NDArray[np.float64], refuse: Refuse) -> None:
        self._staging.write("num_frames", values.astype(np.uint32))
        self._min, self._max = min(self._min, int(values.min())), max(self._max, int(values.max()))

    def finish(self) -> WrittenColumn | None:
        if self._max <= 1:
            return None
        array = self._staging.column("num_frames", STORED["num_frames"])
        return WrittenColumn(array, {"min": int(self._min), "max": self._max})


class NumRepeatsWriter:
    """Kept as which of the distinct values: a byte an image. Codes are given as values come, and put in the order of
    the values at the end."""

    def __init__(self, staging: Spool) -> None:
        self._staging = staging
        self._codes: dict[float, int] = {}
        self._counts = np.zeros(MAX_REPEAT_VALUES, np.int64)

    def add(self, values: NDArray[np.float64], refuse: Refuse) -> None:
        found = pa.array(values).dictionary_encode()
        for place, value in enumerate(found.dictionary.to_pylist()):
            if value not in self._codes:
                if len(self._codes) == MAX_REPEAT_VALUES:
                    row = pc.index(found.indices, pa.scalar(place, pa.int32())).as_py()
                    raise refuse(
                        row,
                        f"{{}} is the {MAX_REPEAT_VALUES + 1}th distinct value of num_repeats",
                        f"A map has at most {MAX_REPEAT_VALUES}: round them",
                    )
                self._codes[value] = len(self._codes)
        table = np.array([self._codes[value] for value in found.dictionary.to_pylist()], np.uint8)
        codes = table[found.indices.to_numpy()]
        self._counts += np.bincount(codes, minlength=MAX_REPEAT_VALUES)
        self._staging.write("repeat_codes", codes)

    def finish(self) -> WrittenColumn | None:
        given = list(self._codes)
        values = np.array(sorted(given))
        if values.tolist() == [1.0]:
            return None
        total = math.fsum(value * count for value, count in zip(given, self._counts.tolist(), strict=False))
        codes = self._in_order(np.searchsorted(values, given).astype(np.uint8))
        array = pa.DictionaryArray.from_arrays(codes, pa.array(values))
        return WrittenColumn(array, {"min": float(values[0]), "max": float(values[-1]), "total": total})

    def _in_order(self, ranks: NDArray[np.uint8]) -> Any:
        """The codes as uint8 array, each replaced by ``ranks`` of it."""
        codes = self._staging.column("repeat_codes", pa.uint8())
        if (ranks == np.arange(len(ranks))).all():
            return codes
        for start in range(0, len(codes), _STEP):
            self._staging.write("num_repeats", ranks[codes.slice(start, _STEP).to_numpy()])
        return self._staging.column("num_repeats", pa.uint8())


_KINDS: dict[str, Callable[[Spool], ColumnWriter]] = {
    "num_repeats": NumRepeatsWriter,
    "num_frames": NumFramesWriter,
}


def _refuse_default(row: int, detail: str, hint: str) -> Invalid:
    return Invalid("file", detail.replace("{}", "1, which rows without a value have,"), hint)


class OptionalColumnWriters:
    """All that a map turns out to have. Rows for which a column was not given have the default: JSON lines may begin
    without it, and one of several files may lack it."""

    def __init__(self, staging: Spool) -> None:
        self._staging = staging
        self._columns: dict[str, ColumnWriter] = {}
        self._num_rows: dict[str, int] = {}

    def add(self, kind: str, values: NDArray[np.float64], first_row: int, refuse: Refuse) -> None:
        """The rows from ``first_row`` on."""
        if kind not in self._columns:
            self._columns[kind] = _KINDS[kind](self._staging)
        self._fill(kind, first_row)
        self._columns[kind].add(values, refuse)
        self._num_rows[kind] = first_row + len(values)

    def _fill(self, kind: str, num_rows: int) -> None:
        for start in range(self._num_rows.get(kind, 0), num_rows, _STEP):
            self._columns[kind].add(np.ones(min(_STEP, num_rows - start)), _refuse_default)

    def finish(self, num_rows: int) -> dict[str, WrittenColumn]:
        """``num_rows``: of the whole map."""
        for kind in self._columns:
            self._fill(kind, num_rows)
        finished = {kind: column.finish() for kind, column in self._columns.items()}
        return {kind: each for kind in STORED if (each := finished.get(kind)) is not None}
