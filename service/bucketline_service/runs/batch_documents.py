"""Batches as JSON documents, made from a planner's arrays."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, TypedDict, get_args

import numpy as np
import orjson
from numpy.typing import NDArray

from bucketline_service.planning.geometry import cover_each
from bucketline_service.planning.line.image_classes import frames_served
from bucketline_service.planning.packing.packing import Packing
from bucketline_service.planning.plan_spec import PlanSpec
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
    a remainder. ``original_sizes``, ``resize_sizes`` and ``crop_left_tops``: int64[num_ids, 2], only on request.

    A pack has a ``kind`` in place of ``bucket``, ``width`` and ``height``, and of each id its ``sizes``
    int64[num_ids, 2], ``lengths`` and ``num_frames``."""

    epoch: int
    step: int
    rank: int
    bucket: int
    width: int
    height: int
    kind: int
    sizes: NDArray[np.int64]
    lengths: list[int]
    num_frames: int | list[int]
    ids: list[int] | list[str] | list[int | str]
    maps: list[str]
    repeats: list[bool]
    original_sizes: NDArray[np.int64]
    resize_sizes: NDArray[np.int64]
    crop_left_tops: NDArray[np.int64]


def render(run: Run, span: Span, rank: int, block: BatchBlock, include: Includes = NOTHING) -> list[bytes]:
    """The batches of ``span``, one per step, each as JSON."""
    batches = documents(run, span, rank, block, include)
    return [orjson.dumps(batch, option=orjson.OPT_SERIALIZE_NUMPY) for batch in batches]


def documents(run: Run, span: Span, rank: int, block: BatchBlock, include: Includes = NOTHING) -> list[Batch]:
    sources, spec = run.plan.sources, run.plan.spec
    ids = sources.ids(block.rows)
    places = [slice(*place) for place in pairwise(block.bounds.tolist())]
    if spec.packing is None:
        batches = _of_buckets(spec, span, rank, block)
    else:
        batches = [
            Batch(epoch=span.epoch, step=span.step + i, rank=rank, kind=kind)
            for i, kind in enumerate(block.buckets.tolist())
        ]
    for batch, place in zip(batches, places, strict=True):
        batch["ids"] = ids[place]
    # int64[n, 2]: (width, height) of each image in the map, and of a pack's those that it is brought to
    sizes = native_sizes = np.empty((0, 2), dtype=np.int64)
    if include or spec.packing is not None:
        sizes = np.stack(sources.images.at(block.rows), axis=1).astype(np.int64)
    if spec.packing is not None:
        native_sizes = np.stack(spec.packing.native.sizes(sizes[:, 0], sizes[:, 1]), axis=1)
        _add_slots(run, spec.packing, block, native_sizes, batches, places)
    elif spec.frame_buckets:
        frames = spec.target_frames[block.buckets].tolist()
        for batch, num_frames in zip(batches, frames, strict=True):
            batch["num_frames"] = num_frames
    if sources.are_several:
        names = sources.map_names(block.rows)
        for batch, place in zip(batches, places, strict=True):
            batch["maps"] = names[place]
    if block.repeats.any():
        for i in np.flatnonzero(np.add.reduceat(block.repeats, block.bounds[:-1])).tolist():
            batches[i]["repeats"] = block.repeats[places[i]].tolist()
    if "original_size" in include:
        for batch, place in zip(batches, places, strict=True):
            batch["original_sizes"] = sizes[place]
    if "crop" in include:
        targets = _targets(spec, block) if spec.packing is None else native_sizes
        cuts = cover_each(sizes, targets)
        for batch, place in zip(batches, places, strict=True):
            batch["resize_sizes"] = cuts.resize_sizes[place]
            batch["crop_left_tops"] = cuts.crop_left_tops[place]
    return batches


def _of_buckets(spec: PlanSpec, span: Span, rank: int, block: BatchBlock) -> list[Batch]:
    batches = []
    for i, bucket in enumerate(block.buckets.tolist()):
        width, height = spec.targets[bucket]
        batches.append(
            Batch(epoch=span.epoch, step=span.step + i, rank=rank, bucket=bucket, width=width, height=height)
        )
    return batches


def _add_slots(
    run: Run,
    packing: Packing,
    block: BatchBlock,
    sizes: NDArray[np.int64],
    batches: list[Batch],
    places: list[slice],
) -> None:
    """Add the size of each image of packs, the length of its slot, and its frames where there are such."""
    images, spec = run.plan.sources.images, run.plan.spec
    for batch, place in zip(batches, places, strict=True):
        batch["sizes"] = sizes[place]
        batch["lengths"] = packing.slot_lengths(batch["kind"])
    if spec.frame_buckets:
        frames = frames_served(spec, images.frames_at(block.rows))
        for batch, place in zip(batches, places, strict=True):
            batch["num_frames"] = frames[place].tolist()


def _targets(spec: PlanSpec, block: BatchBlock) -> NDArray[np.int64]:
    """int64[n, 2]: the size of each image's bucket."""
    targets = np.array(spec.targets, dtype=np.int64)[block.buckets]
    return np.repeat(targets, np.diff(block.bounds), axis=0)
