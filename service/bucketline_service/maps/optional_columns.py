"""The columns that a map may have beside ids and sizes: what each takes, and how it is kept. (What they are called
in files is ``columns.OPTIONAL_NAMES``.)

``orientation`` is EXIF's. The images it turns by a quarter have their width and height swapped as they are read,
and that is what is kept.

``num_repeats`` is how many times an image comes in an epoch, as kohya means it: 1 is once, 0 never, and fractions are
allowed. SimpleTuner's ``repeats`` are the further times: 0 is once.

``num_frames`` is the length of a video; a still image has 1."""

from __future__ import annotations

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
"""Distinct ``num_repeats`` in a map: each image then keeps one byte that says which."""
MAX_NUM_FRAMES = 2**31 - 1


@dataclass(frozen=True)
class OptionalColumn:
    """``stored_as``: its arrow type in the object file, None where it is not kept. ``offsets``: what is added to the
    values of a column of that name, whose bounds and default are lower by as much."""

    rule: NumberRule
    stored_as: Any = None
    offsets: Mapping[str, int] = field(default_factory=dict)

    def check(self, source: FileSource, column: str, array: Any, first_row: int) -> NDArray[np.float64]:
        """A chunk's values, float64[n], offset added; ``Invalid`` for the first row that breaks the rule."""
        offset = self.offsets.get(column.strip(), 0)
        values = check_numbers(source, column, array, first_row, self.rule.lowered(offset)).astype(np.float64)
        values += offset  # where that is 0 it makes zero of -0.0
        return values


def _leave_out(kind: str) -> str:
    return f"If the column means something else, leave it out: {kind}_column with an empty name"


OPTIONAL: dict[str, OptionalColumn] = {
    "orientation": OptionalColumn(
        NumberRule(
            "an EXIF orientation",
            low=0,
            high=8,
            hint=f"EXIF's orientations are 1 to 8; 0 and none mean 1. {_leave_out('orientation')}",
            default=1,
        ),
    ),
    "num_repeats": OptionalColumn(
        NumberRule(
            "a number of times",
            low=0,
            high=MAX_NUM_REPEATS,
            hint=f"num_repeats are 0 to {MAX_NUM_REPEATS:,}, 1 (or none) for once an epoch; repeats are the times after"
            f" the first. {_leave_out('num_repeats')}",
            fractions=True,
            default=1,
        ),
        stored_as=pa.dictionary(pa.uint8(), pa.float64()),
        offsets={"repeats": 1},
    ),
    "num_frames": OptionalColumn(
        NumberRule(
            "a number of frames",
            low=1,
            high=MAX_NUM_FRAMES,
            hint=f"A video has 1 to {MAX_NUM_FRAMES:,} frames, a still image 1 (or none). {_leave_out('num_frames')}",
            default=1,
        ),
        stored_as=pa.uint32(),
    ),
}

STORED: dict[str, Any] = {
    kind: column.stored_as for kind, column in OPTIONAL.items() if column.stored_as is not None
}
"""The arrow types of those that are kept, in the order of the object file and of the digest."""

Summaries = dict[str, dict[str, float]]
"""Of each stored column that a map has, what a look at the map shows: ``min``, ``max``, and ``total`` where a sum means
something."""


def upright(
    widths: NDArray[np.uint32], heights: NDArray[np.uint32], orientations: NDArray[np.float64]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Sizes as they are looked at, each uint32[n]: orientations 5 to 8 lie on their side."""
    turned = orientations >= 5
    return np.where(turned, heights, widths), np.where(turned, widths, heights)
