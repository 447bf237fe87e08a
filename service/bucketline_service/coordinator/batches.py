"""Batches as they go out: from a planner's arrays to documents."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import orjson

from bucketline_service.coordinator.deal import Span
from bucketline_service.coordinator.runs import Run
from bucketline_service.planning.plan import BatchBlock


class Batch(TypedDict, total=False):
    """``num_frames`` is there only where the run has ``frame_buckets``; ``maps``, one name an id, where it has several
    maps; ``repeats``, one bool an id, where an id comes oftener in its epoch than asked for, to fill a tail."""

    epoch: int
    step: int
    rank: int
    bucket: int
    width: int
    height: int
    num_frames: int
    ids: list[int] | list[str] | list[int | str]
    maps: list[str]
    repeats: list[bool]


def render(run: Run, span: Span, rank: int, block: BatchBlock) -> list[bytes]:
    """The batches of ``span``, one a step, each as JSON."""
    return [orjson.dumps(batch) for batch in documents(run, span, rank, block)]


def documents(run: Run, span: Span, rank: int, block: BatchBlock) -> list[Batch]:
    sources = run.plan.sources
    ids = sources.ids(block.rows)
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
    if run.plan.spec.frame_buckets:
        frames = run.plan.spec.target_frames[block.buckets].tolist()
        for batch, num_frames in zip(batches, frames, strict=True):
            batch["num_frames"] = num_frames
    if sources.are_several:
        names = sources.map_names(block.rows)
        for i, batch in enumerate(batches):
            batch["maps"] = names[bounds[i] : bounds[i + 1]]
    if block.repeats.any():
        for i in np.flatnonzero(np.add.reduceat(block.repeats, block.bounds[:-1])).tolist():
            batches[i]["repeats"] = block.repeats[bounds[i] : bounds[i + 1]].tolist()
    return batches
