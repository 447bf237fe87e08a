"""Sharding: which stream position each step and rank trains. Pure arithmetic on a planner and a generation.

In epoch ``origin.epoch`` of a generation, step s of rank r is stream position
``offset + (s - origin.step) * world_size + r``; in every other epoch ``origin.step`` and ``offset`` are 0. All ranks
have the same number of steps. Batches at the end that do not fill a step of all ranks are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning.planner_port import MAX_EPOCH, Planner
from bucketline_service.store.port import Cursor, Generation

MAX_COUNT = 1024
"""The most batches in one answer, so the most steps that an acknowledgement may be ahead of the cursor."""

MAX_WALKED = 16
"""How many epochs' steps ``distance`` counts one by one."""

MAX_COUNTED = 64
"""How many epochs' number of steps is remembered: a request needs it several times."""


@dataclass(frozen=True)
class Span:
    """Consecutive steps of one epoch: ``step`` … ``step + count - 1``."""

    epoch: int
    step: int
    count: int


@dataclass(frozen=True)
class Sharding:
    """``origin`` and ``offset``: those of a generation. ``end_epoch``: the number of epochs of the run.
    ``origin_planner``: the planner of the origin's epoch, if its stream has another lockstep than those of other
    epochs."""

    planner: Planner
    world_size: int
    origin: Cursor
    offset: int
    end_epoch: int = MAX_EPOCH
    origin_planner: Planner | None = None
    _counted: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        planner: Planner,
        generation: Generation,
        epochs: int | None,
        origin_planner: Planner | None = None,
    ) -> Sharding:
        start = generation.world_size, generation.origin, generation.offset
        return cls(planner, *start, epochs or MAX_EPOCH, origin_planner)

    def planner_of(self, epoch: int) -> Planner:
        return (self.origin_planner if epoch == self.origin.epoch else None) or self.planner

    def _num_batches(self, epoch: int) -> int:
        return self.planner_of(epoch).num_batches(epoch, self.world_size)

    def _start(self, epoch: int) -> tuple[int, int]:
        """The epoch's first step under this sharding, and its stream position."""
        return (self.origin.step, self.offset) if epoch == self.origin.epoch else (0, 0)

    def num_steps(self, epoch: int) -> int:
        """The step after the epoch's last."""
        found = self._counted.get(epoch)
        if found is None:
            step, offset = self._start(epoch)
            found = step + (self._num_batches(epoch) - offset) // self.world_size
            if len(self._counted) >= MAX_COUNTED:
                self._counted.clear()
            self._counted[epoch] = found
        return found

    def num_left_out(self, epoch: int) -> int:
        """How many batches at the end of the epoch's stream do not fill a step of all ranks."""
        _, offset = self._start(epoch)
        return (self._num_batches(epoch) - offset) % self.world_size

    def normal(self, cursor: Cursor) -> Cursor:
        """The same place as a step that exists: the place after an epoch's last step is the next epoch's first step."""
        while cursor.step >= self.num_steps(cursor.epoch):
            cursor = Cursor(cursor.epoch + 1, 0)
        return cursor

    def is_end(self, cursor: Cursor) -> bool:
        """Whether it is the place after the last step of an epoch, or the end of the run."""
        if self.is_over(cursor):
            return cursor == Cursor(self.end_epoch, 0)
        return cursor.step == self.num_steps(cursor.epoch)

    def is_over(self, cursor: Cursor) -> bool:
        return cursor.epoch >= self.end_epoch

    def consumed(self, cursor: Cursor) -> int:
        """How many batches of the cursor's epoch the whole job has consumed when every rank is at the cursor."""
        step, offset = self._start(cursor.epoch)
        return offset + (cursor.step - step) * self.world_size

    def positions(self, span: Span, rank: int) -> NDArray[np.int64]:
        """int64[span.count]: the stream positions of a rank's batches in these steps."""
        first = self.consumed(Cursor(span.epoch, span.step)) + rank
        return first + self.world_size * np.arange(span.count, dtype=np.int64)

    def step_of(self, epoch: int, position: int) -> tuple[int, int] | None:
        """(step, rank) of a stream position; None if it has none in this generation."""
        first, offset = self._start(epoch)
        step, rank = divmod(position - offset, self.world_size)
        return (first + step, rank) if 0 <= step < self.num_steps(epoch) - first else None

    def check_exists(self, field: str, cursor: Cursor) -> None:
        """Raise ``Invalid`` unless the run has this epoch, and the epoch this step. ``field``: the field that contains
        the two, empty if they are on their own."""
        prefix = field and f"{field}."
        if cursor.epoch >= self.end_epoch:
            raise Invalid(
                f"{prefix}epoch",
                f"must be less than {self.end_epoch}, the number of epochs of the run, got {cursor.epoch}",
            )
        num_steps = self.num_steps(cursor.epoch)
        if cursor.step >= num_steps:
            raise Invalid(
                f"{prefix}step",
                f"must be less than {num_steps}, the number of steps of epoch {cursor.epoch}, got {cursor.step}",
            )

    def check_dealt(self, field: str, cursor: Cursor) -> None:
        """Raise ``Invalid`` unless the step exists and belongs to this generation, not to one before its origin."""
        self.check_exists(field, cursor)
        first = self.origin
        if cursor < first:
            raise Invalid(
                f"{field and field + '.'}step",
                f"must not be before this generation's first step (epoch {first.epoch}, step {first.step}), "
                f"got epoch {cursor.epoch}, step {cursor.step}",
            )

    def spans(self, cursor: Cursor, count: int) -> Iterator[Span]:
        """The next ``count`` steps from a cursor, across epochs; fewer at the end of the run."""
        cursor = self.normal(cursor)
        while count > 0 and not self.is_over(cursor):
            take = min(count, self.num_steps(cursor.epoch) - cursor.step)
            yield Span(cursor.epoch, cursor.step, take)
            cursor, count = self.normal(Cursor(cursor.epoch, cursor.step + take)), count - take

    def after(self, cursor: Cursor, count: int) -> Cursor:
        """The cursor ``count`` steps later, at most the end of the run."""
        epoch, step = cursor.epoch, cursor.step + count
        while epoch < self.end_epoch and step >= (num_steps := self.num_steps(epoch)):
            epoch, step = epoch + 1, step - num_steps
        return Cursor(epoch, step) if epoch < self.end_epoch else Cursor(self.end_epoch, 0)

    def back(self, cursor: Cursor, steps: int) -> Cursor:
        """The cursor ``steps`` steps earlier, at least the origin."""
        while steps > cursor.step and cursor.epoch > self.origin.epoch:
            steps -= cursor.step
            cursor = Cursor(cursor.epoch - 1, self.num_steps(cursor.epoch - 1))
        return max(Cursor(cursor.epoch, max(cursor.step - steps, 0)), self.origin)

    def distance(self, begin: Cursor, end: Cursor) -> int:
        """Steps from ``begin`` to ``end``, negative if ``end`` is earlier.

        Exact up to ``MAX_WALKED`` epochs between the two, and beyond that if every epoch has as many batches. Otherwise
        epochs differ only by the rounding of repeats, and the rest is extrapolated from their mean: runs may have gone
        on for thousands of epochs."""
        if end < begin:
            return -self.distance(end, begin)
        if begin.epoch == end.epoch:
            return end.step - begin.step
        between = range(begin.epoch + 1, end.epoch)
        walked = between[: 1 if self.planner.is_steady else MAX_WALKED]
        whole = sum(self.num_steps(epoch) for epoch in walked)
        if len(between) > len(walked):
            whole += round(whole / len(walked) * (len(between) - len(walked)))
        return self.num_steps(begin.epoch) - begin.step + whole + end.step
