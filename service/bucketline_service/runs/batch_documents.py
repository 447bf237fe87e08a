"""Batches as JSON documents, made from a planner's arrays."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, TypedDict, get_args

import numpy as np
import orjson
from numpy.typing import NDArray

from bucketline_service.planning.geometry import cover_each
from bucketline_service.planning.planner_port import BatchBlock
from bucketline_service.runs.run import Run
from bucketline_service.runs.sharding import Span

Include = Literal["original_size", "crop"]
"""Optional fields of a batch, added on request."""

INCLUDES: tuple[Include, ...] = get_args(Include)
Includes = frozenset[Include]
NOTHING: Includes = frozenset()


class Batch(TypedDict, total=False):
    """A batch of the wire. ``num_frames``: only in runs with ``frame_buckets``. ``maps``: one name per id, only in runs
    with several maps. ``repeats``: one bool per id, only if an id is served more often than its epoch requires, to fill
    a remainder. ``original_sizes``, ``resize_sizes`` and ``crop_left_tops``: int64[num_ids, 2], only on request."""

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
    original_sizes: NDArray[np.int64]
    resize_sizes: NDArray[np.int64]
    crop_left_tops: NDArray[np.int64]


def render(run: Run, span: Span, rank: int, block: BatchBlock, include: Includes = NOTHING) -> list[bytes]:
    """The batches of ``span``, one per step, each as JSON."""
    batches = documents(run, span, rank, block)
    if include:
        _add_geometry(run, block, include, batches)
    return [orjson.dumps(batch, option=orjson.OPT_SERIALIZE_NUMPY) for batch in batches]


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


def _add_geometry(run: Run, block: BatchBlock, include: Includes, batches: list[Batch]) -> None:
    """Add the sizes in the map, and how each image is resized and cropped to its batch's size."""
    sizes = np.stack(run.plan.sources.images.at(block.rows), axis=1).astype(np.int64)
    bounds = block.bounds.tolist()
    places = [slice(*place) for place in pairwise(bounds)]
    if "original_size" in include:
        for batch, place in zip(batches, places, strict=True):
            batch["original_sizes"] = sizes[place]
    if "crop" in include:
        targets = np.array(run.plan.spec.targets, dtype=np.int64)[block.buckets]
        cuts = cover_each(sizes, np.repeat(targets, np.diff(block.bounds), axis=0))
        for batch, place in zip(batches, places, strict=True):
            batch["resize_sizes"] = cuts.resize_sizes[place]
            batch["crop_left_tops"] = cuts.crop_left_tops[place]
