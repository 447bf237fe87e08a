"""Where a pass begins, in memory that a dataset shares with its loader's workers: persistent workers are not created
again for the next pass."""

from __future__ import annotations

import torch

from .._errors import UsageError
from .._types import Cursor

MAX_WORKERS = 256
NONE = -1


class SharedPlaces:
    """Pickles as shared memory, so that a worker sees what the training process writes, and the reverse."""

    def __init__(self) -> None:
        # int64[1 + MAX_WORKERS, 2] of (epoch, step). Row 0: where the pass begins; row w + 1: the place that a state
        # gave back to worker w.
        self._places = torch.full((1 + MAX_WORKERS, 2), NONE, dtype=torch.int64).share_memory_()

    def clear(self) -> None:
        self._places.fill_(NONE)

    def begin_at(self, place: Cursor) -> None:
        self._places[0] = torch.tensor(place)

    def begins_at(self) -> Cursor:
        """Where the pass begins. ``UsageError`` outside of a pass."""
        epoch, step = self._places[0].tolist()
        if epoch == NONE:
            raise UsageError(
                "loader: it is not followed, so nothing says which batches are trained on: loop over "
                "dataset.follow(loader)"
            )
        return Cursor(epoch, step)

    def resume_at(self, worker: int, place: Cursor) -> None:
        """StatefulDataLoader gave this worker its place back."""
        if worker >= MAX_WORKERS:
            raise UsageError(f"num_workers must be at most {MAX_WORKERS}")
        self._places[worker + 1] = torch.tensor(place)

    def resumed_at(self) -> Cursor | None:
        """The furthest place that a worker was given back; None without a state. Workers yield batches in turn, so the
        loop has had all batches before it."""
        epoch, step = max(self._places[1:].tolist())
        return None if epoch == NONE else Cursor(epoch, step)
