"""The columns that a map may have besides ids and sizes: the values of each, and how it is stored.

Their names in files are ``column_names.OPTIONAL_NAMES``; ``column_writers`` writes those that are stored.

- ``orientation`` is EXIF's. Width and height are swapped on reading where it turns an image by a quarter, and only the
  result is stored.
- ``num_repeats`` is how many times an image occurs in an epoch, as in kohya's scripts: 1 is once, 0 never, and
  fractions are allowed. SimpleTuner's ``repeats`` counts the additional times, so 0 is once.
- ``num_frames`` is the length of a video; a still image has 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bucketline_service.maps.file_source import FileSource
from bucketline_service.maps.numeric_columns import NumberRule, check_numbers

MAX_NUM_REPEATS = 10_000
MAX_REPEAT_VALUES = 256
"""Distinct ``num_repeats`` in a map: an image keeps one byte that says which it has."""
MAX_NUM_FRAMES = 2**31 - 1

_STEP = 1 << 20


@dataclass(frozen=True)
class OptionalColumn:
    """``stored_as``: its Arrow type in the object file, None where it is not stored. ``offsets``: by a column's name in
    the file, what is added to its values; its limits and default are lower by as much."""

    rule: NumberRule
    stored_as: Any = None
    offsets: Mapping[str, int] = field(default_factory=dict)

    def check(self, source: FileSource, column: str, array: Any, first_row: int) -> NDArray[np.float64]:
        """The values of a chunk, float64[n], offset added; ``Invalid`` for the first row that breaks the rule."""
        offset = self.offsets.get(column.strip(), 0)
        values = check_numbers(source, column, array, first_row, self.rule.lowered(offset)).astype(np.float64)
        values += offset  # also turns -0.0 into 0.0
        return values


def _to_ignore(kind: str) -> str:
    return f"To ignore the column, pass {kind}_column with an empty name"


OPTIONAL: dict[str, OptionalColumn] = {
    "orientation": OptionalColumn(
        NumberRule(
            low=0,
            high=8,
            hint=f"EXIF orientations are 1 to 8; 0 and empty mean 1. {_to_ignore('orientation')}",
            default=1,
        )
    ),
    "num_repeats": OptionalColumn(
        NumberRule(
            low=0,
            high=MAX_NUM_REPEATS,
            hint="num_repeats is how many times an image occurs in an epoch, 1 where empty; repeats is how many times "
            f"more. {_to_ignore('num_repeats')}",
            fractions=True,
            default=1,
        ),
        stored_as=pa.dictionary(pa.uint8(), pa.float64()),
        offsets={"repeats": 1},
    ),
    "num_frames": OptionalColumn(
        NumberRule(
            low=1,
            high=MAX_NUM_FRAMES,
            hint=f"A still image has 1 frame, or an empty value. {_to_ignore('num_frames')}",
            default=1,
        ),
        stored_as=pa.uint32(),
    ),
}

STORED: dict[str, Any] = {
    kind: column.stored_as for kind, column in OPTIONAL.items() if column.stored_as is not None
}
"""The Arrow types of the stored columns, in the order of the object file and of the digest."""

Summaries = dict[str, dict[str, float]]
"""By stored column of a map, what ``GET /v1/maps/{map}`` shows: ``min``, ``max``, and ``total`` where a sum means
something."""


def summarise(arrays: Mapping[str, Any]) -> Summaries:
    """Of the stored columns of a map, each an Arrow array of the type in ``STORED``."""
    return {kind: _summary(array) for kind, array in arrays.items()}


def _summary(array: Any) -> dict[str, float]:
    if not pa.types.is_dictionary(array.type):
        values = array.to_numpy()
        return {"min": int(values.min()), "max": int(values.max())}
    distinct, codes = array.dictionary.to_numpy(), array.indices.to_numpy()
    counts = np.zeros(len(distinct), np.int64)
    for start in range(0, len(codes), _STEP):  # in steps: bincount copies to int64
        counts += np.bincount(codes[start : start + _STEP], minlength=len(distinct))
    total = math.fsum(value * count for value, count in zip(distinct.tolist(), counts.tolist(), strict=True))
    return {"min": float(distinct[0]), "max": float(distinct[-1]), "total": total}


def upright(
    widths: NDArray[np.uint32], heights: NDArray[np.uint32], orientations: NDArray[np.float64]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Sizes as displayed, each uint32[n]: orientations 5 to 8 swap width and height."""
    turned = orientations >= 5
    return np.where(turned, heights, widths), np.where(turned, widths, heights)
