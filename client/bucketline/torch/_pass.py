"""One pass of a loader over a batch sampler: (the rest of) one epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from .._types import AnyBatch


class PassOwner(Protocol):
    """What a pass asks of its sampler."""

    def _begin_pass(self, new: Pass) -> Iterator[AnyBatch]:
        """The batches of ``new``, which replaces the pass before it."""

    def _hand_out(self, owner: Pass, batch: AnyBatch) -> list[Any]:
        """What the loader gets for a batch, nothing for one without an image; ``UsageError`` for a pass that was
        replaced."""

    def _state_after(self, last: AnyBatch | None) -> dict[str, Any]:
        """The job's state once ``last`` is trained on; without it, the present state."""

    def _load_pass_state(self, state: Mapping[str, Any]) -> bool:
        """Whether the state was taken: a framework that owns the loop restores it itself."""


class Pass(Iterator[list[Any]]):
    """Lazy: loaders create iterators that they never use, or load a state into.

    Its state is that after the batches handed to the loader. StatefulDataLoader keeps a state beside each batch, and
    restores the one of the batch that the loop had.
    """

    def __init__(self, owner: PassOwner) -> None:
        self.epoch: int | None = None
        self._owner = owner
        self._batches: Iterator[AnyBatch] | None = None
        self._last: AnyBatch | None = None
        self._is_exhausted = False

    def __next__(self) -> list[Any]:
        if self._batches is None:
            self._batches = self._owner._begin_pass(self)
        for batch in self._batches:
            indices = self._owner._hand_out(self, batch)
            self._last, self.epoch = batch, batch.epoch
            if indices:
                return indices
        self._is_exhausted = True
        raise StopIteration

    @property
    def has_begun(self) -> bool:
        return self._last is not None

    @property
    def is_over(self) -> bool:
        return self._is_exhausted and self.has_begun

    def state_dict(self) -> dict[str, Any]:
        state = self._owner._state_after(self._last)
        if not state:
            return {}
        return {"pass_epoch": state["epoch"] if self.epoch is None else self.epoch, "state": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state and self._owner._load_pass_state(state["state"]):
            self.epoch = int(state["pass_epoch"])
