"""Batches as they go out: from a planner's arrays to documents."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from bucketline_service.coordinator.deal import Span
from bucketline_service.coordinator.runs import Run
from bucketline_service.planning.plan import BatchBlock


class Batch(TypedDict, total=False):
    """``repeats`` is there only where an id of the batch comes a further time in its epoch: one bool an id."""

    epoch: int
    step: int
    rank: int
    bucket: int
    width: int
    height: int
    ids: list[int] | list[str]
    repeats: list[bool]


def render(run: Run, span: Span, rank: int, block: BatchBlock) -> list[Batch]:
    """The batches of ``span``, one a step."""
    ids = run.ids(block.rows)
    bounds = block.bounds.tolist()
    targets = run.plan.spec.targets
    batches = []
    for i, bucket in enumerate(block.buckets.tolist()):
        begin, end = bounds[i], bounds[i + 1]
        width, height = targets[bucket]
        batch = Batch(
            epoch=span.epoch,
            step=span.step + i,
            rank=rank,
            bucket=bucket,
            width=width,
            height=height,
            ids=ids[begin:end],
        )
        batches.append(batch)
    if block.repeats.any():
        for i in np.flatnonzero(np.add.reduceat(block.repeats, block.bounds[:-1])).tolist():
            batches[i]["repeats"] = block.repeats[bounds[i] : bounds[i + 1]].tolist()
    return batches
