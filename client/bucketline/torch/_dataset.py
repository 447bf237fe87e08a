"""Batches for ``DataLoader(dataset, batch_size=None)``, each loaded where it is read: in the loader's workers.

Worker w of W takes every W-th batch of its rank from w on, and the loader gives them in turn, so that the order is the
rank's. Workers read under the training process's lease and acknowledge nothing: ``follow`` does, in the training
process, which sees in each batch what it is. Where a pass begins is told to workers in shared memory, as persistent
ones are not made anew for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch.utils.data import IterableDataset, get_worker_info

from .._client import BucketClient
from .._errors import UsageError
from .._types import Batch, Cursor, Session
from ._loader_checks import check_order, check_state, standing
from ._rank import seat_of
from ._worker_iterator import Share

T = TypeVar("T")

MAX_WORKERS = 256


class BucketIterableDataset(IterableDataset[Any]):
    """One rank's batches, as ``(batch, load(batch))``, or as ``Batch`` where there is no ``load``. One pass is (the
    rest of) one epoch.

    ``load`` runs in the loader's workers; ``rank`` and ``world_size`` are as in ``BucketBatchSampler``. Every worker
    asks the coordinator for all batches of its rank and takes its own: with many workers ``BucketBatchSampler``, which
    asks once, is the lighter one. Call ``begin``, then loop over ``follow(loader)``: it acknowledges, and nothing else
    does.
    """

    def __init__(
        self,
        client: BucketClient,
        load: Callable[[Batch], Any] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__()
        self.client = client
        self.rank, self.world_size = seat_of(rank, world_size)
        self.load = load
        self.holder = client.holder  # the workers', too: they share the lease
        # (epoch, step), -1 where there is none: row 0 where the pass begins, row w + 1 what worker w was at in a state
        self._told = torch.full((MAX_WORKERS + 1, 2), -1, dtype=torch.int64).share_memory_()
        self._place: Cursor | None = None  # the first step that is not trained on
        self._in_hand: Batch | None = None

    def __iter__(self) -> Share:
        return Share(self)

    @property
    def epoch(self) -> int:
        """The epoch that the next batch to be trained on is in. Of a job that has not said where it starts (``begin``)
        the coordinator's; ``UsageError`` where the run does not deal to as many ranks."""
        place = self._next()
        self.client.check_start(self.rank)
        return place.epoch

    # --- what the loop has trained on -----------------------------------------------------------------------

    def follow(self, loader: Iterable[T]) -> Iterator[T]:
        """What ``loader`` gives, each batch acknowledged when the next one is asked for, and the last one at the end.

        Leaving the loop early leaves the batch in hand unfinished, until it is entered again.
        """
        check_order(loader)
        if getattr(loader, "batch_size", None) is not None:
            raise UsageError(
                "loader: would put batches of batches together, and what the dataset gives are batches: "
                "DataLoader(dataset, batch_size=None)"
            )
        self._finish_in_hand()
        self._place = self._next()
        self._told.fill_(-1)
        self._tell(0, self._place)
        try:
            batches = iter(loader)  # a stateful loader brings its state
            if (loaded := self._loaded()) is not None:
                self._place = loaded
            else:
                self.client.check_start(self.rank)
            for data in batches:
                self._in_hand = _batch_in(data, self._place)
                yield data
                self._finish_in_hand()
            if self._place.step > 0 and (getattr(loader, "dataset", None) is self or self._is_over()):
                self._place = Cursor(self._place.epoch + 1, 0)
        finally:
            self._told.fill_(-1)

    def _is_over(self) -> bool:
        """Whether the epoch is, or only what has given its batches."""
        assert self._place is not None
        reader = self.client.reader(self.rank, holder=self.holder)
        return next(reader.epoch(self._place), None) is None

    def _next(self) -> Cursor:
        """The first step that is not trained on, the batch in the loop's hand counted as if it were."""
        is_known = self._in_hand is not None or self._place is not None
        state = self.state_dict() if is_known else standing(self.client, self.rank, self.world_size)
        return Cursor(state["epoch"], state["step"])

    def _finish_in_hand(self) -> None:
        batch, self._in_hand = self._in_hand, None
        if batch is not None:
            self.client.ack(self.rank, batch)
            self._place = Cursor(batch.epoch, batch.step + 1)

    # --- starting, resuming, checkpoints --------------------------------------------------------------------

    def begin(self, state: Mapping[str, Any] | None, *, session: str | None = None) -> Session:
        """Begin the training, or resume it: the one call before the loop, in every process of the job.

        ``state`` is what ``state_dict`` gave to the checkpoint, on as many ranks or others, with any number of workers,
        or ``None`` without a checkpoint: then the run begins at its very first step, also where it was trained on
        before. ``session`` and how its name is found otherwise are as in ``BucketClient.begin``.
        """
        begun = self.client.begin(state, self.world_size, session=session)
        state = self.client.state_dict()
        self._place, self._in_hand = Cursor(state["epoch"], state["step"]), None
        self._tell(0, self._place)
        return begun

    def state_dict(self) -> dict[str, Any]:
        """Where the job stands, for its checkpoint: at what is trained on. The batch that ``follow`` has given to the
        loop counts as trained on."""
        if get_worker_info() is not None:
            return {}
        if self._in_hand is not None:
            return self.client.state_dict(self.rank, after=self._in_hand)
        if self._place is not None:
            return self.client.state_dict(self.rank, after=Cursor(self._place.epoch, self._place.step - 1))
        return self.client.state_dict(self.rank)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """``begin`` at ``state``. An empty one, and one in a worker, change nothing: StatefulDataLoader brings them."""
        check_state(state)
        if get_worker_info() is None and state:
            self.begin(state)

    # --- between the processes ------------------------------------------------------------------------------

    def begins_at(self) -> Cursor:
        """Where a pass begins; asked in a worker."""
        epoch, step = self._told[0].tolist()
        if epoch < 0:
            raise UsageError(
                "loader: is not followed, so nobody would know which batches are trained on: loop over "
                "dataset.follow(loader)"
            )
        return Cursor(epoch, step)

    def tell_loaded(self, worker: int, place: Cursor) -> None:
        """A worker was given back its place by StatefulDataLoader."""
        self._tell(worker + 1, place)

    def _loaded(self) -> Cursor | None:
        """What the workers that were given back a place have had between them: they give their batches in turn."""
        epoch, step = max(self._told[1:].tolist())
        return Cursor(epoch, step) if epoch >= 0 else None

    def _tell(self, row: int, place: Cursor) -> None:
        if row > MAX_WORKERS:
            raise UsageError(f"num_workers: at most {MAX_WORKERS} was expected")
        self._told[row] = torch.tensor(place)


def _batch_in(data: Any, place: Cursor) -> Batch:
    """The batch that ``data`` begins with, which has to be the one at ``place``."""
    first = data[0] if isinstance(data, (tuple, list)) and data else data
    if not isinstance(first, Batch):
        raise UsageError(
            "loader: what it gives does not begin with its Batch, so nobody could tell what is trained on: "
            "DataLoader(dataset, batch_size=None), and a collate_fn that keeps the (batch, data) of the dataset"
        )
    if (first.epoch, first.step) != place:
        raise UsageError(
            f"loader: gave epoch {first.epoch} step {first.step} where epoch {place.epoch} step {place.step} comes "
            "next. A resumed job needs no batches skipped: dataset.begin(state) goes on behind what it trained on"
        )
    return first
