"""What the planner knows of the images: their sizes, and how often each is served.

A run may draw on several maps. Their rows are counted on, map after map, and are read in chunks, so that nothing is
ever put together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid

MAX_ROWS = 2**32 - 1
"""Rows are kept as uint32."""

_U32 = NDArray[np.uint32]
_I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    """One map. ``widths``, ``heights`` uint32[n] in pixels. ``codes`` integers[n]: which of ``repeats`` float64[C], the
    times that an image comes in an epoch, is each image's; None: the first. ``num_frames`` uint32[n], None: stills.
    ``counts`` int64[n]: how many images each row stands for, None: one."""

    widths: _U32
    heights: _U32
    codes: NDArray[Any] | None = None
    repeats: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))
    num_frames: _U32 | None = None
    counts: _I64 | None = None


class Chunk(NamedTuple):
    """Consecutive rows. ``classes`` int64[n], None where there is but one class; the others as in ``Part``."""

    widths: _U32
    heights: _U32
    classes: _I64 | None
    num_frames: _U32 | None
    counts: _I64 | None


class Images:
    """The rows of one or several maps. A *class* is a map and one of its repeats: ``repeats`` float64[C] and ``parts``
    int64[C] say which. Raises ``Invalid`` for more than ``MAX_ROWS`` rows."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        lengths = [len(part.widths) for part in parts]
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self.num_rows = int(self._ends[-1])
        if self.num_rows > MAX_ROWS:
            detail = (
                f"the maps have {self.num_rows:,} images together, but a run may have at most {MAX_ROWS:,}"
            )
            raise Invalid("maps", detail, "Plan them as several runs")
        self.num_parts = len(parts)
        self.parts = np.repeat(np.arange(len(parts)), [len(part.repeats) for part in parts])
        self.repeats = np.concatenate([part.repeats for part in parts])
        self._has_frames = any(part.num_frames is not None for part in parts)
        self._is_counted = any(part.counts is not None for part in parts)

    @classmethod
    def of(cls, widths: _U32, heights: _U32) -> Images:
        """Each once, all stills."""
        return cls([Part(widths, heights)])

    @property
    def num_images(self) -> int:
        return sum(
            len(part.widths) if part.counts is None else int(part.counts.sum()) for part in self._parts
        )

    @property
    def longest(self) -> int:
        """Frames of the longest clip; 1 where all are stills."""
        return max(
            1 if part.num_frames is None else int(part.num_frames.max(initial=1)) for part in self._parts
        )

    def read(self, begin: int, stop: int) -> Chunk:
        """The rows ``begin`` … ``stop - 1``."""
        pieces = []
        for index in range(int(np.searchsorted(self._ends, begin, side="right")), self.num_parts):
            first = int(self._ends[index]) - len(self._parts[index].widths)
            if first >= stop:
                break
            pieces.append(self._read(index, slice(max(begin - first, 0), stop - first)))
        if len(pieces) == 1:
            return pieces[0]
        columns = (
            None if column[0] is None else np.concatenate(column) for column in zip(*pieces, strict=True)
        )
        return Chunk(*columns)  # type: ignore[arg-type]

    def at(self, rows: _I64) -> tuple[_U32, _U32]:
        """Widths and heights of single rows, in that order."""
        parts, inside = self.place(rows)
        widths, heights = np.empty(len(rows), np.uint32), np.empty(len(rows), np.uint32)
        for index in np.unique(parts).tolist():
            here = parts == index
            widths[here] = self._parts[index].widths[inside[here]]
            heights[here] = self._parts[index].heights[inside[here]]
        return widths, heights

    def frames_at(self, rows: _I64) -> _U32:
        """Frames of single rows, in that order; 1 of stills."""
        parts, inside = self.place(rows)
        found = np.ones(len(rows), np.uint32)
        for index in np.unique(parts).tolist():
            of = self._parts[index].num_frames
            if of is not None:
                here = parts == index
                found[here] = of[inside[here]]
        return found

    def place(self, rows: _I64) -> tuple[_I64, _I64]:
        """Of which part each row is, and which of its rows."""
        if self.num_parts == 1:
            return np.zeros(len(rows), dtype=np.int64), rows
        parts = np.searchsorted(self._ends, rows, side="right")
        return parts, rows - np.append(0, self._ends)[parts]

    def _read(self, index: int, rows: slice) -> Chunk:
        part = self._parts[index]
        widths = part.widths[rows]
        num = len(widths)
        first_class = int(np.searchsorted(self.parts, index))
        classes = num_frames = counts = None
        if len(self.repeats) > 1:
            of = 0 if part.codes is None else part.codes[rows].astype(np.int64)
            classes = np.full(num, first_class, dtype=np.int64) + of
        if self._has_frames:
            num_frames = np.ones(num, np.uint32) if part.num_frames is None else part.num_frames[rows]
        if self._is_counted:
            counts = np.ones(num, np.int64) if part.counts is None else part.counts[rows]
        return Chunk(widths, part.heights[rows], classes, num_frames, counts)
