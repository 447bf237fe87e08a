"""Which loaders can be followed: those that give their batches in the order in which they asked for them."""

from __future__ import annotations

from typing import Any

from .._errors import UsageError


def check_loader(loader: Any) -> None:
    if getattr(loader, "num_workers", 0) > 0 and not getattr(loader, "in_order", True):
        raise UsageError(
            "loader: in_order=False gives batches in another order than the plan's, so nobody could tell which are "
            "trained on: leave in_order at True"
        )
    if getattr(loader, "snapshot_every_n_steps", 1) != 1:
        raise UsageError(
            "loader: snapshot_every_n_steps is to be 1: with more, resuming loads batches again that are trained on"
        )
