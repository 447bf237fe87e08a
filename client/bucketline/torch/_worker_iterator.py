"""One worker's iterator over one pass: every W-th batch of its rank, read and loaded in the worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch.utils.data import get_worker_info

from .._client import BucketClient
from .._errors import UsageError
from .._reader import RankReader
from .._types import AnyBatch, Cursor
from ._rank import check_world_size
from ._shared_places import SharedPlaces


@dataclass(frozen=True)
class PassContext:
    """What an iterator needs of its dataset. ``holder`` is that of the training process, whose lease workers share."""

    client: BucketClient
    rank: int
    world_size: int | None
    holder: str
    load: Callable[[Any], Any] | None
    places: SharedPlaces


class WorkerIterator(Iterator[Any]):
    """Worker w of W takes every W-th batch, from the w-th after the pass's begin.

    ``_next_step`` is this worker's next step. For the state: ``_from_step`` is the step to read from (no step of this
    worker is between the two), and ``_done_step`` is the first one that the loop may not have had.
    """

    def __init__(self, context: PassContext) -> None:
        self._context = context
        info = get_worker_info()
        self._is_worker = info is not None
        self._worker: int = info.id if info is not None else 0
        self._num_workers: int = info.num_workers if info is not None else 1
        self._loaded: dict[str, Any] = {}
        self._reader: RankReader | None = None
        self._batches: Iterator[AnyBatch] = iter(())
        self._epoch = self._from_step = self._done_step = self._next_step = 0

    def __next__(self) -> Any:
        self._begin()
        for batch in self._batches:
            if batch.step == self._next_step:
                self._from_step, self._done_step = batch.step, batch.step + 1
                self._next_step += self._num_workers
                load = self._context.load
                return batch if load is None else (batch, load(batch) if batch.ids else None)
        raise StopIteration

    def _begin(self) -> RankReader:
        if self._reader is not None:
            return self._reader
        context, loaded = self._context, self._loaded
        start = None if self._is_worker and loaded else context.places.begins_at()
        reader = context.client.reader(context.rank, holder=context.holder)
        if start is None:
            self._resume(reader)
        else:
            check_world_size(reader.state(start).world_size, context.world_size)
            self._epoch = start.epoch
            self._from_step = self._done_step = start.step
            self._next_step = start.step + self._worker
        if not loaded or self._epoch == loaded["epoch"]:
            self._batches = reader.epoch(Cursor(self._epoch, self._from_step))
        self._reader = reader
        return reader

    def _resume(self, reader: RankReader) -> None:
        """Resume where this worker's state was, if the run still shards its epoch as it did then."""
        loaded = self._loaded
        if loaded["num_workers"] != self._num_workers:
            raise UsageError(
                f"num_workers must be {loaded['num_workers']}, as in the loader's state, got {self._num_workers}"
            )
        place = Cursor(loaded["epoch"], loaded["from_step"])
        state = reader.state(place).to_json()
        if any(state[name] != loaded[name] for name in ("fingerprint", "offset", "world_size")):
            raise UsageError(
                "the loader's state belongs to another start of the job, which sharded the epoch differently (over "
                f"{loaded['world_size']} ranks): keep dataset.state_dict() in checkpoints, and pass it to "
                "dataset.load_state_dict() instead of passing the loader's state to the loader"
            )
        self._epoch, self._from_step = place
        self._done_step, self._next_step = loaded["done_step"], loaded["next_step"]

    def state_dict(self) -> dict[str, Any]:
        reader = self._begin()
        state = reader.state(Cursor(self._epoch, self._from_step))
        return {
            "epoch": self._epoch,
            "from_step": self._from_step,
            "done_step": self._done_step,
            "next_step": self._next_step,
            "num_workers": self._num_workers,
            "fingerprint": state.fingerprint,
            "offset": state.consumed,
            "world_size": state.world_size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """In the training process itself the dataset's own state says where to begin, and this one only which epoch the
        pass was in."""
        self._loaded = dict(state)
        if self._is_worker:
            self._context.places.resume_at(self._worker, Cursor(state["epoch"], state["done_step"]))
