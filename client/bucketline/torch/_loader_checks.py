"""Which loaders can be followed: those that yield all their batches, in the order in which they requested them. And
which states can be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from types import FrameType
from typing import Any

from torch.utils.data import Sampler

from .._client import BucketClient
from .._errors import NotFound, UsageError
from .._types import AnyBatch, Cursor
from ._items import Item
from ._rank import check_world_size

INNER_NAMES = ("iterable", "_loader", "loader", "dataloader")
"""Where wrappers that prefetch from a loader or show its progress keep it: tqdm, torch_xla, and what people write."""
MAX_DEPTH = 8

NO_SKIPPING = (
    "A resumed job must not skip batches (accelerate's skip_first_batches): sampler.begin(state) resumes after what it "
    "has trained on. Use the DataLoader over the sampler itself"
)


def check_order(loader: Any) -> None:
    """``UsageError`` for a loader whose batches would come in another order."""
    if getattr(loader, "num_workers", 0) > 0 and not getattr(loader, "in_order", True):
        raise UsageError(
            "loader: in_order must be True: otherwise batches come in another order than the plan's, and it is unknown "
            "which are trained on"
        )
    if getattr(loader, "snapshot_every_n_steps", 1) != 1:
        raise UsageError(
            "loader: snapshot_every_n_steps must be 1: otherwise a resume loads batches again that are trained on"
        )


def check_loader(loader: Any, sampler: Any) -> bool:
    """Whether ``loader`` yields every batch that it takes from ``sampler``; False if that is unknown. ``UsageError``
    for a loader that leaves batches out, or distributes them again."""
    for _ in range(MAX_DEPTH):
        if hasattr(loader, "batch_sampler"):
            break
        inner = next((getattr(loader, name) for name in INNER_NAMES if hasattr(loader, name)), None)
        if inner is None:
            return False
        loader = inner
    else:
        return False
    if getattr(loader, "skip_batches", 0):
        raise UsageError(f"loader: it leaves out its first {loader.skip_batches} batches. {NO_SKIPPING}")
    if hasattr(loader, "split_batches"):
        raise UsageError(
            "loader: it distributes the batches of one process to all, but each process has its own batches already: "
            "leave dispatch_batches off, and do not pass the loader to accelerator.prepare()"
        )
    taken_from = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if taken_from is not sampler:
        raise UsageError(
            f"loader: it takes its batches from a {type(taken_from).__name__}, not from this sampler. {NO_SKIPPING}"
        )
    return True


def check_caller(caller: FrameType | None) -> None:
    """``UsageError`` if the iterator is requested by a method of another sampler, which leaves batches out or
    distributes them again. If the loop acknowledges by hand, the call stack is the only place where that shows."""
    owner = caller.f_locals.get("self") if caller is not None else None
    if isinstance(owner, Sampler):
        raise UsageError(
            f"loader: a {type(owner).__name__} is between it and the sampler, so it is unknown which batches are "
            f"trained on. {NO_SKIPPING}"
        )


def place_in(data: Any) -> Cursor | None:
    """The place of a batch that begins with its ``Batch``, ``Pack`` or an ``Item``, else None."""
    first = data
    while isinstance(first, (tuple, list)) and first:
        first = first[0]
    return Cursor(first.epoch, first.step) if isinstance(first, AnyBatch | Item) else None


def state_of_rank(
    client: BucketClient, rank: int, world_size: int | None, after: AnyBatch | None = None
) -> dict[str, Any]:
    """As ``BucketClient.state_dict``. ``UsageError`` if the run is not sharded over ``world_size`` ranks, whether or
    not it has this rank."""
    try:
        state = client.state_dict(rank, after=after)
    except NotFound:
        check_world_size(client.dealt_to(), world_size)
        raise
    check_world_size(state["world_size"], world_size)
    return state


def check_state(state: Any) -> None:
    """An empty state is that of a rank which the run did not have: StatefulDataLoader passes it. None must not be taken
    for it, or the training would begin elsewhere than its checkpoint says."""
    if not isinstance(state, Mapping):
        raise UsageError(
            f"state must be a state dict, got {state!r:.80}: was it saved in this checkpoint? A job without a "
            "checkpoint calls begin(None)"
        )
