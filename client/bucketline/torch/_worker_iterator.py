"""One worker's share of one pass: every W-th batch of its rank, read and loaded in the worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch.utils.data import get_worker_info

from .._errors import UsageError
from .._reader import RankReader
from .._types import Batch, Cursor
from ._rank import check_world_size

if TYPE_CHECKING:
    from ._dataset import BucketIterableDataset


class Share(Iterator[Any]):
    """``next_step`` is the next one that is this worker's. ``from_step`` can be read from, and no step is between the
    two that is; it and ``done_step``, the first step that may not have been given to the loop, are for the state."""

    def __init__(self, dataset: BucketIterableDataset) -> None:
        self._dataset = dataset
        info = get_worker_info()
        self._is_worker = info is not None
        self._worker: int = info.id if info is not None else 0
        self._num_workers: int = info.num_workers if info is not None else 1
        self._loaded: dict[str, Any] = {}
        self._reader: RankReader | None = None
        self._batches: Iterator[Batch] = iter(())
        self._epoch = self._from_step = self._done_step = self._next_step = 0

    def __next__(self) -> Any:
        self._begin()
        for batch in self._batches:
            if batch.step == self._next_step:
                self._from_step, self._done_step = batch.step, batch.step + 1
                self._next_step += self._num_workers
                load = self._dataset.load
                return batch if load is None else (batch, load(batch))
        raise StopIteration

    def _begin(self) -> RankReader:
        if self._reader is not None:
            return self._reader
        dataset, loaded = self._dataset, self._loaded
        start = None if self._is_worker and loaded else dataset.begins_at()
        reader = dataset.client.reader(dataset.rank, holder=dataset.holder)
        if start is None:
            self._take_up(reader)
        else:
            check_world_size(reader.state(start).world_size, dataset.world_size)
            self._epoch = start.epoch
            self._from_step = self._done_step = start.step
            self._next_step = start.step + self._worker
        if not loaded or self._epoch == loaded["epoch"]:
            self._batches = reader.epoch(Cursor(self._epoch, self._from_step))
        self._reader = reader
        return reader

    def _take_up(self, reader: RankReader) -> None:
        """Go on where the state of this worker was, if the run still deals its epoch as it did then."""
        loaded = self._loaded
        if loaded["num_workers"] != self._num_workers:
            raise UsageError(
                f"num_workers: the state is of {loaded['num_workers']}, and there are {self._num_workers}"
            )
        place = Cursor(loaded["epoch"], loaded["from_step"])
        state = reader.state(place).to_json()
        if any(state[name] != loaded[name] for name in ("fingerprint", "offset", "world_size")):
            raise UsageError(
                "the loader's state is of another start of the job, which dealt the epoch otherwise (to "
                f"{loaded['world_size']} ranks): keep dataset.state_dict() in checkpoints, and give it to "
                "dataset.load_state_dict() instead of the loader's to the loader"
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
        """In the training process itself the dataset's own state says where to begin, and this one only in which epoch
        the pass was."""
        self._loaded = dict(state)
        if self._is_worker:
            self._dataset.tell_loaded(self._worker, Cursor(state["epoch"], state["done_step"]))
