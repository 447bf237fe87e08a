"""Batches for ``DataLoader(dataset, batch_size=None)``, each loaded where it is read: in the loader's workers.

Worker w of W takes every W-th batch of its rank, from the w-th on, and the loader yields them in turn, so the order is
the rank's. Workers read under the training process's lease and acknowledge nothing. ``follow`` does, in the training
process, which sees in each batch which one it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from torch.utils.data import IterableDataset, get_worker_info

from .._client import BucketClient
from .._errors import UsageError
from .._types import AnyBatch, Batch, Cursor, Pack, Session
from ._loader_checks import check_order, check_state, state_of_rank
from ._rank import rank_and_world_size
from ._shared_places import SharedPlaces
from ._worker_iterator import PassContext, WorkerIterator

T = TypeVar("T")


class BucketIterableDataset(IterableDataset[Any]):
    """One rank's batches or packs, each loaded in the loader's workers. One pass is (the rest of) one epoch.

    Call `begin`, then loop over `follow(loader)`, which acknowledges batches; nothing else does. Every worker requests
    all batches of its rank and takes its own: with many workers `BucketBatchSampler`, which requests them once, is the
    lighter choice.

    ```python
    dataset = BucketIterableDataset(BucketClient(url, run="sdxl-base"), load=read_images)
    loader = DataLoader(dataset, batch_size=None, num_workers=4)
    dataset.begin(checkpoint["data"] if checkpoint else None)
    for batch, images in dataset.follow(loader):
        train_step(images)
    ```

    Args:
        client: the client of the run.
        load: turns a `Batch` (in a run of packs: a `Pack`) into data, in the loader's workers; the dataset then yields
            `(batch, load(batch))`, and `(batch, None)` for a batch without an image (`tails: "short"`). If None, it
            yields the `Batch`.
        rank: as in `BucketBatchSampler`.
        world_size: as in `BucketBatchSampler`.

    Raises:
        UsageError: if the launcher says that there are several processes, but not which rank this one is.
    """

    def __init__(
        self,
        client: BucketClient,
        load: Callable[[Batch], Any] | Callable[[Pack], Any] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__()
        self.client = client
        self.rank, self.world_size = rank_and_world_size(rank, world_size)
        self.load: Callable[[Any], Any] | None = load
        self.holder = client.holder  # also the workers', which share the lease
        self._places = SharedPlaces()
        self._place: Cursor | None = None  # the first step that is not trained on
        self._in_hand: AnyBatch | None = None

    def __iter__(self) -> WorkerIterator:
        return WorkerIterator(
            PassContext(self.client, self.rank, self.world_size, self.holder, self.load, self._places)
        )

    @property
    def epoch(self) -> int:
        """The epoch of the next batch to be trained on. If the job has not said where it starts (`begin`), it is the
        coordinator's. `UsageError` if the run is sharded over another number of ranks."""
        place = self._next()
        self.client.check_start(self.rank)
        return place.epoch

    # --- what the loop has trained on -----------------------------------------------------------------------

    def follow(self, loader: Iterable[T]) -> Iterator[T]:
        """Yield what `loader` yields. A batch is acknowledged when the next one is requested, the last one at the end.

        If the loop is left early, its last batch stays unfinished until `follow` is called again.

        Args:
            loader: the DataLoader over this dataset, with `batch_size=None`.

        Raises:
            UsageError: if the loader changes the batches or their order.
        """
        check_order(loader)
        if getattr(loader, "batch_size", None) is not None:
            raise UsageError(
                "loader: it would combine batches into batches, because this dataset already yields batches: use "
                "DataLoader(dataset, batch_size=None)"
            )
        self._finish_in_hand()
        self._place = self._next()
        self._places.clear()
        self._places.begin_at(self._place)
        try:
            batches = iter(loader)  # a stateful loader loads its state here
            if (resumed := self._places.resumed_at()) is not None:
                self._place = resumed
            else:
                self.client.check_start(self.rank)
            for data in batches:
                self._in_hand = _batch_in(data, self._place)
                yield data
                self._finish_in_hand()
            if self._place.step > 0 and (getattr(loader, "dataset", None) is self or self._is_over()):
                self._place = Cursor(self._place.epoch + 1, 0)
        finally:
            self._places.clear()

    def _is_over(self) -> bool:
        """Whether the epoch is over, and not only the loader."""
        assert self._place is not None
        reader = self.client.reader(self.rank, holder=self.holder)
        return next(reader.epoch(self._place), None) is None

    def _next(self) -> Cursor:
        """The first step that is not trained on, counting the loop's current batch as trained on."""
        is_known = self._in_hand is not None or self._place is not None
        state = self.state_dict() if is_known else state_of_rank(self.client, self.rank, self.world_size)
        return Cursor(state["epoch"], state["step"])

    def _finish_in_hand(self) -> None:
        batch, self._in_hand = self._in_hand, None
        if batch is not None:
            self.client.ack(self.rank, batch)
            self._place = Cursor(batch.epoch, batch.step + 1)

    # --- starting, resuming, checkpoints --------------------------------------------------------------------

    def begin(self, state: Mapping[str, Any] | None, *, session: str | None = None) -> Session:
        """Begin the training, or resume it. The one call before the loop, in every process of the job.

        Args:
            state: what `state_dict` returned for the checkpoint, on any number of ranks and workers. None without a
                checkpoint: the run begins at its first step, even if it was trained on before.
            session: the name of this start of the job; see `BucketClient.begin` for how it is found otherwise.
        """
        begun = self.client.begin(state, self.world_size, session=session)
        state = self.client.state_dict()
        self._place, self._in_hand = Cursor(state["epoch"], state["step"]), None
        self._places.begin_at(self._place)
        return begun

    def state_dict(self) -> dict[str, Any]:
        """The job's state, for its checkpoint. The batch that `follow` has given to the loop counts as trained on.

        ```python
        for batch, images in dataset.follow(loader):
            train_step(images)
            save({"model": model.state_dict(), "data": dataset.state_dict()})
        ```
        """
        if get_worker_info() is not None:
            return {}
        if self._in_hand is not None:
            return self.client.state_dict(self.rank, after=self._in_hand)
        if self._place is not None:
            return self.client.state_dict(self.rank, after=Cursor(self._place.epoch, self._place.step - 1))
        return self.client.state_dict(self.rank)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """`begin` at `state`. An empty state, and one in a worker, change nothing: StatefulDataLoader passes them."""
        check_state(state)
        if get_worker_info() is None and state:
            self.begin(state)


def _batch_in(data: Any, place: Cursor) -> AnyBatch:
    """The batch that ``data`` begins with, which must be the one at ``place``."""
    first = data[0] if isinstance(data, (tuple, list)) and data else data
    if not isinstance(first, AnyBatch):
        raise UsageError(
            "loader: what it yields does not begin with its Batch or Pack, so it is unknown what is trained on: use "
            "DataLoader(dataset, batch_size=None), and a collate_fn that keeps the dataset's (batch, data)"
        )
    if (first.epoch, first.step) != place:
        raise UsageError(
            f"loader: it yielded epoch {first.epoch} step {first.step}, but epoch {place.epoch} step {place.step} "
            "comes next. A resumed job must not skip batches: dataset.begin(state) resumes after what it has trained on"
        )
    return first
