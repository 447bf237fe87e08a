"""Which loaders can be followed: those that give all their batches, in the order in which they asked for them. And
what may be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Sampler

from .._client import BucketClient
from .._errors import NotFound, UsageError
from .._types import Batch, Cursor
from ._items import Item
from ._rank import check_world_size

INSIDE = ("iterable", "_loader", "loader", "dataloader")
"""Where those that read a loader ahead, or show its progress, keep it: tqdm, torch_xla, and what people write."""

NO_SKIPPING = (
    "A resumed job needs no batches skipped (accelerate's skip_first_batches): sampler.begin(state) goes on behind "
    "what it has trained on. Use the DataLoader over the sampler itself"
)


def check_order(loader: Any) -> None:
    """Raise ``UsageError`` for one whose batches would come in another order."""
    if getattr(loader, "num_workers", 0) > 0 and not getattr(loader, "in_order", True):
        raise UsageError(
            "loader: in_order=False gives batches in another order than the plan's, so nobody could tell which are "
            "trained on: leave in_order at True"
        )
    if getattr(loader, "snapshot_every_n_steps", 1) != 1:
        raise UsageError(
            "loader: snapshot_every_n_steps is to be 1: with more, resuming loads batches again that are trained on"
        )


def check_loader(loader: Any, sampler: Any) -> bool:
    """Whether ``loader`` is one that gives every batch that it takes from ``sampler``; False where that cannot be
    seen. Raise ``UsageError`` for one that is seen to leave batches out, or to deal them out anew."""
    for _ in range(8):
        if hasattr(loader, "batch_sampler"):
            break
        inside = next((getattr(loader, name) for name in INSIDE if hasattr(loader, name)), None)
        if inside is None:
            return False
        loader = inside
    else:
        return False
    if getattr(loader, "skip_batches", 0):
        raise UsageError(f"loader: leaves out its first {loader.skip_batches} batches. {NO_SKIPPING}")
    if hasattr(loader, "split_batches"):
        raise UsageError(
            "loader: deals the batches of one process out to all, and each has its own already: leave dispatch_batches "
            "off, and do not pass the loader to accelerator.prepare()"
        )
    taken_from = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if taken_from is not sampler:
        raise UsageError(
            f"loader: takes its batches from a {type(taken_from).__name__} and not from this sampler. {NO_SKIPPING}"
        )
    return True


def check_asker(asker: Any) -> None:
    """Raise ``UsageError`` where another sampler draws from ours: it leaves out or deals out anew what it draws, and
    nothing of that would be seen where the loop is not followed but acknowledges by hand."""
    if isinstance(asker, Sampler):
        raise UsageError(
            f"loader: a {type(asker).__name__} stands between it and the sampler, so nobody could tell which batches "
            f"are trained on. {NO_SKIPPING}"
        )


def place_in(data: Any) -> Cursor | None:
    """The place of a batch that begins with its ``Batch`` or an ``Item``; else None."""
    first = data
    while isinstance(first, (tuple, list)) and first:
        first = first[0]
    return Cursor(first.epoch, first.step) if isinstance(first, (Batch, Item)) else None


def standing(
    client: BucketClient, rank: int, world_size: int | None, after: Batch | None = None
) -> dict[str, Any]:
    """The rank's state, as ``BucketClient.state_dict``. ``UsageError`` where the run does not deal to ``world_size``
    ranks: the same on a rank that it has as on one that it has not."""
    try:
        state = client.state_dict(rank, after=after)
    except NotFound:
        check_world_size(client.dealt_to(), world_size)
        raise
    check_world_size(state["world_size"], world_size)
    return state


def check_state(state: Any) -> None:
    """An empty one is what a rank had that its run did not have: StatefulDataLoader brings it. None would be taken for
    it, and the training would begin elsewhere than its checkpoint says."""
    if not isinstance(state, Mapping):
        raise UsageError(
            f"state: a state dict was expected, not {state!r:.80}: was it saved in this checkpoint? A job without a "
            "checkpoint calls begin(None)"
        )
