"""Why an image is where it is: its bucket, how it is resized and cropped, and where an epoch serves it or why not."""

from __future__ import annotations

from typing import Any

import numpy as np

from bucketline_service.maps import MapStore
from bucketline_service.planning.buckets.assignment import assign
from bucketline_service.planning.buckets.pruning import Limits
from bucketline_service.planning.geometry import cover
from bucketline_service.planning.images import Chunk
from bucketline_service.planning.line.image_classes import PRUNED, ImageClassifier, frames_served
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.line.units import in_service
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.runs.run import Run
from bucketline_service.runs.valid_ids import of_valid_ids
from bucketline_service.store.port import Cursor


def image_placement(run: Run, maps: MapStore, row: int, epoch: int) -> dict[str, Any]:
    """The answer to ``GET /v1/runs/{run}/images/{id}`` for the image in ``row``, JSON-able."""
    plan = run.plan
    spec, sources = plan.spec, plan.sources
    chunk = sources.images.read(row, row + 1)
    width, height = int(chunk.widths[0]), int(chunk.heights[0])
    sorter = ImageClassifier(spec, sources.images)
    keys, reasons = sorter.keys(chunk)
    reason = PRUNED[int(reasons[0]) - 1] if reasons[0] else None
    own_key, key = int(keys[0]), int(plan.prepared.move(keys, row)[0])
    found = plan.prepared.find(sorter, sources.images, row)
    if found is None:
        valid = of_valid_ids(run, maps)
        if valid is not None and not valid(np.array([row]))[0]:
            reason = "valid_ids"
    samples = float(plan.prepared.groups.samples[found[0]]) if found else 0.0
    ways = sorter.ways(key) if found else []
    buckets = [bucket for bucket, _, _ in ways]
    # a pruned image too has a nearest bucket, and what that would crop
    nearest = sorter.ways(own_key)[0][0] if ways else _nearest(spec, chunk)
    served = _served(run, row, epoch, width, height) if ways else []
    num_frames = int(chunk.num_frames[0]) if chunk.num_frames is not None else 1
    return {
        "id": sources.ids(np.array([row]))[0],
        "map": sources.map_names(np.array([row]))[0],
        "width": width,
        "height": height,
        "num_frames": num_frames if spec.frame_buckets else None,
        "aspect": width / height,
        "bucket": buckets[0] if ways else None,
        "buckets": [{"bucket": each, "num_samples": (end - begin) * samples} for each, begin, end in ways],
        "pruned": reason,
        "nearest": None if nearest < 0 else _fitted(spec, nearest, width, height),
        "epoch": epoch,
        "served": served,
        "left_out": _left_out(run, sorter, row, epoch, buckets, served) if ways else None,
    }


def _left_out(
    run: Run, sorter: ImageClassifier, row: int, epoch: int, buckets: list[int], served: list[dict[str, Any]]
) -> str | None:
    """Why the epoch serves an image less often than it might, in the ledger's terms; None if it does not.
    ``not_drawn``: an image with less than one sample per epoch is not drawn in this one."""
    plan, sharding = run.plan, run.sharding
    num_asked = plan.planner.num_asked(epoch, row)
    if not num_asked:
        return "not_drawn"
    if not run.spec.planner_kind.has_units:
        return None if served else "last_step"
    portions = SampleQuotas.of(sorter, plan.prepared.groups, plan.spec.num_buckets)
    if not in_service(run.laid(epoch).spec, portions)[buckets].any():
        return "small_bucket"
    if sum(not each["repeat"] for each in served) < num_asked:
        return "tail"
    end = sharding.consumed(Cursor(epoch, sharding.num_steps(epoch)))
    return "last_step" if any(each["position"] >= end for each in served) else None


def _nearest(spec: PlanSpec, chunk: Chunk) -> int:
    """The bucket of the nearest aspect in the first section that the image reaches without limits; with packs that of
    its length, -1 where it has no native size."""
    if spec.packing is not None:
        of_clip = chunk.num_frames if spec.frame_buckets else None
        frames = 1 if of_clip is None else frames_served(spec, of_clip)
        return int(spec.packing.assign(chunk.widths, chunk.heights, frames, Limits())[0][0])
    for rule in (spec.no_upscale, None):
        found = assign(
            chunk.widths,
            chunk.heights,
            spec.ladder,
            metric=spec.metric,
            no_upscale=rule,
            same_aspect=spec.same_aspect,
        )
        bucket = int(found.buckets[0])
        if bucket >= 0:
            break
    return bucket


def _fitted(spec: PlanSpec, bucket: int, width: int, height: int) -> dict[str, Any]:
    of = _size(spec, bucket, width, height)
    aspect = float(spec.aspects[bucket]) if spec.packing is None else of["width"] / of["height"]
    of_pack = {} if spec.packing is None else {"length": int(spec.packing.lengths[bucket])}
    return {"bucket": bucket, **of_pack, **of, "aspect_error": abs(width / height - aspect)}


def _size(spec: PlanSpec, bucket: int, width: int, height: int) -> dict[str, Any]:
    """The size at which the bucket serves an image of ``width`` x ``height``, and how it is brought to it."""
    if spec.packing is None:
        target_width, target_height = spec.targets[bucket]
    else:
        sides = spec.packing.native.sizes(np.array([width]), np.array([height]))
        target_width, target_height = (int(side[0]) for side in sides)
    fit = cover(width, height, target_width, target_height)
    return {"width": target_width, "height": target_height, **fit._asdict()}


def _served(run: Run, row: int, epoch: int, width: int, height: int) -> list[dict[str, Any]]:
    """Each occurrence of the image in the epoch. ``step`` and ``rank`` are None if another generation sharded it, or if
    it is among the last batches, which do not fill a step of all ranks."""
    sharding, spec = run.sharding, run.plan.spec
    found = []
    for place in sharding.planner_of(epoch).locate(epoch, row, sharding.world_size):
        at = sharding.step_of(epoch, place.position) if epoch >= sharding.origin.epoch else None
        bucket, of_pack = place.bucket, {}
        if spec.packing is not None:
            bucket = spec.packing.slot_buckets(place.bucket)[place.slot]
            of_pack = {"kind": place.bucket, "length": int(spec.packing.lengths[bucket])}
        found.append(
            {
                "step": at[0] if at else None,
                "rank": at[1] if at else None,
                "position": place.position,
                "slot": place.slot,
                "bucket": bucket,
                **of_pack,
                **_size(spec, bucket, width, height),
                "repeat": place.repeat,
            }
        )
    return found
