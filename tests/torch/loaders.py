"""The four ways to load, with one interface: each yields a batch's (epoch, step, ids)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from bucketline import Batch, BucketClient, Pack

data = pytest.importorskip("torch.utils.data", reason="torch is not installed: make test-torch")
stateful_dataloader = pytest.importorskip("torchdata.stateful_dataloader", reason="see make test-torch")

pytest.importorskip("numpy.random")  # loaders' workers import it, which is better done before they are forked

from bucketline.torch import BucketBatchSampler, BucketIterableDataset, Item  # noqa: E402 - needs torch

Seen = tuple[int, int, list[Any]]

# of torch itself: more workers than cores, its own deprecations, forks beside threads
ALLOWED = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


class Names(data.Dataset):
    """An image that is its own name."""

    def __getitem__(self, item: Item) -> Item:
        return item

    def __len__(self) -> int:
        return 5000


def seen(given: Any) -> Seen:
    if isinstance(given, Batch | Pack):
        return given.epoch, given.step, given.ids
    return given[0].epoch, given[0].step, [item.id for item in given]


def _kind(stateful: bool) -> Any:
    return stateful_dataloader.StatefulDataLoader if stateful else data.DataLoader


class _Looped:
    """A source of one rank's batches, and a loader over it."""

    def __init__(
        self,
        client: BucketClient,
        rank: int = 0,
        world_size: int | None = 2,
        stateful: bool = False,
        **options: Any,
    ) -> None:
        self.source, over = self._made(client, rank, world_size)
        self.loader: Any = _kind(stateful)(**over, **options)

    def _made(self, client: BucketClient, rank: int, world_size: int | None) -> tuple[Any, dict[str, Any]]:
        """The source, and the loader's arguments for it."""
        raise NotImplementedError

    def epoch(self) -> Iterator[Seen]:
        """What the loop gets, acknowledged as it asks for more."""
        return map(seen, self.source.follow(self.loader))


class Sampled(_Looped):
    """Over ``BucketBatchSampler``."""

    def _made(self, client: BucketClient, rank: int, world_size: int | None) -> tuple[Any, dict[str, Any]]:
        source = BucketBatchSampler(client, rank, world_size)
        return source, {"dataset": Names(), "batch_sampler": source, "collate_fn": list}


class Streamed(_Looped):
    """Over ``BucketIterableDataset``."""

    def _made(self, client: BucketClient, rank: int, world_size: int | None) -> tuple[Any, dict[str, Any]]:
        source = BucketIterableDataset(client, None, rank, world_size)
        return source, {"dataset": source, "batch_size": None}


def some(batches: Iterable[Seen], count: int) -> list[Seen]:
    """The first batches, the loop left in the midst of the last one."""
    found = []
    if count:
        for batch in batches:
            found.append(batch)
            if len(found) == count:
                break
    return found
