"""Which loaders can be followed: those that give their batches in the order in which they asked for them. And what may
be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._errors import UsageError


def check_loader(loader: Any) -> None:
    """Raise ``UsageError`` for one whose batches would come in another order, or be put together anew."""
    if getattr(loader, "num_workers", 0) > 0 and not getattr(loader, "in_order", True):
        raise UsageError(
            "loader: in_order=False gives batches in another order than the plan's, so nobody could tell which are "
            "trained on: leave in_order at True"
        )
    if getattr(loader, "snapshot_every_n_steps", 1) != 1:
        raise UsageError(
            "loader: snapshot_every_n_steps is to be 1: with more, resuming loads batches again that are trained on"
        )


def check_state(state: Any) -> None:
    """An empty one is what a rank had that its run did not have: StatefulDataLoader brings it. None would be taken for
    it, and the training would begin elsewhere than its checkpoint says."""
    if not isinstance(state, Mapping):
        raise UsageError(
            f"state: a state dict was expected, not {state!r:.80}: was it saved in this checkpoint?"
        )
