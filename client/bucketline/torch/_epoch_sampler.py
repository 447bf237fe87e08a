"""Batches of one epoch of a plan for ``DataLoader(batch_sampler=...)``, without a cursor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .._client import BucketClient
from .._errors import UsageError
from ._items import items_of
from ._rank import rank_and_world_size


class BucketEpochSampler:
    """One rank's batches or packs of one epoch of a plan, as lists of `Item`: for validation, and for caching.

    Every pass has the same batches in the same order. Nothing is leased, acknowledged or resumed, so a pass may be left
    early, as Lightning's sanity check and `limit_val_batches` do. Batches without an image (`tails: "short"`) are
    passed over.

    ```python
    sampler = BucketEpochSampler(BucketClient(url, run="validation"))
    loader = DataLoader(images, batch_sampler=sampler, num_workers=4)
    for batch in loader:
        losses.append(model(batch))
    ```

    Args:
        client: the client of the run.
        epoch: which epoch, counted from 0.
        rank: as in `BucketBatchSampler`.
        world_size: over how many ranks the epoch is sharded. The process group's, else `WORLD_SIZE`; it must be given
            with `rank`.
        ids_only: yield lists of ids instead of items.

    Raises:
        UsageError: if the launcher says that there are several processes, but not which rank this one is.
    """

    def __init__(
        self,
        client: BucketClient,
        epoch: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        *,
        ids_only: bool = False,
    ) -> None:
        if rank is not None and world_size is None:
            raise UsageError(
                "world_size must be given with rank: an epoch of the plan is sharded over so many ranks"
            )
        self.client = client
        self.epoch = epoch
        self._place_in_job = rank, world_size
        self._ids_only = ids_only
        self._num_steps: int | None = None

    def __iter__(self) -> Iterator[list[Any]]:
        for batch in self.client.plan_reader(*self._rank_and_world_size(), self.epoch).batches():
            if batch.ids:
                yield list(batch.ids) if self._ids_only else items_of(batch)

    def __len__(self) -> int:
        """The steps of the epoch. With `tails: "short"` this rank may have fewer batches: those with an image."""
        if self._num_steps is None:
            reader = self.client.plan_reader(*self._rank_and_world_size(), self.epoch)
            self._num_steps = reader.num_steps()
        return self._num_steps

    def _rank_and_world_size(self) -> tuple[int, int]:
        # a process group may be set up after this sampler
        rank, world_size = rank_and_world_size(*self._place_in_job)
        assert world_size is not None
        return rank, world_size
