"""The ``novelai`` planner: the published BucketManager, bit for bit, with everything that it fixes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning.batch_cost import PixelCost
from bucketline_service.planning.geometry import crop_loss
from bucketline_service.planning.images import Images
from bucketline_service.planning.line.image_classes import ImageClassifier
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.novelai.planner import NovelaiPlanner
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.planner_kinds.kind import Checkpoints, EpochServed, PlannerKind
from bucketline_service.planning.planner_port import Planner
from bucketline_service.planning.prepared_plan import Prepared

_I64 = NDArray[np.int64]


def _new(
    spec: PlanSpec, prepared: Prepared, images: Images, int_ids: _I64 | None, checkpoints: Checkpoints | None
) -> Planner:
    if int_ids is None:
        raise Invalid("planner", "novelai needs integer ids", "Use planner: line for string ids")
    assert isinstance(spec.batch_size, int)
    groups = prepared.groups
    quotas = SampleQuotas.of(ImageClassifier(spec, images), groups, spec.num_buckets)
    buckets = np.full(images.num_rows, -1, dtype=np.int32)
    buckets[prepared.order] = np.repeat(quotas.buckets.astype(np.int32), groups.counts)
    return NovelaiPlanner(int_ids, buckets, spec.ladder, spec.batch_size, spec.seed, checkpoints=checkpoints)


def _served(
    spec: PlanSpec,
    prepared: Prepared,
    images: Images,
    quotas: SampleQuotas,
    planner: Planner,
    epoch: int,
    world_size: int,
) -> EpochServed:
    """Of one planned epoch. What a bucket's own batches do not take goes to the catch-all or is trimmed, by the epoch's
    own draw; only their sum over all buckets divides into the two."""
    num = planner.num_batches(epoch, world_size)
    block = planner.batches(epoch, np.arange(num, dtype=np.int64), world_size)
    sizes = np.array(spec.targets)
    num_batches = np.bincount(block.buckets, minlength=len(sizes))
    num_served = num_batches * spec.batch_sizes
    targets = np.repeat(block.buckets, np.diff(block.bounds))
    losses = crop_loss(*images.at(block.rows), sizes[targets, 0], sizes[targets, 1])
    means = np.bincount(targets, weights=losses, minlength=len(sizes)) / np.maximum(num_served, 1)
    counts = np.zeros(len(sizes), dtype=np.int64)
    counts[quotas.buckets] = prepared.groups.counts[quotas.groups]
    elsewhere = counts - num_served
    elsewhere[-1] = 0
    own: list[dict[str, Any]] = [
        {
            "num_images": int(elsewhere[target]),
            "spilled": [],
            # the catch-all stands for what the epoch left out of all buckets' tails
            "left_out": int(elsewhere.sum() - num_served[-1]) if target == len(sizes) - 1 else 0,
            "repeated": 0,
            "never_served": 0,
            "crop_loss_served": float(means[target]) if num_served[target] else None,
        }
        for target in range(len(sizes))
    ]
    pixels = spec.pixels[block.buckets].reshape(-1, world_size)
    imbalance = float(pixels.max(axis=1).sum() / pixels.mean(axis=1).sum())
    return EpochServed(
        num_batches, num_served, own, int(num_served.sum()), None, int(num_served[-1]), imbalance
    )


NOVELAI = PlannerKind(
    name="novelai",
    new=_new,
    flows=lambda spec, quotas, may_come: [],
    served=_served,
    has_units=False,
    takes_repeats=False,
    takes_several_maps=False,
    resizes_within_epoch=False,
    counts_from_sizes=False,
    keeps_ladder_order=True,
    implies={
        "ladder.kind": "novelai",
        "tails": "catch_all",
        "assign.metric": "abs",
        "assign.max_crop_loss": None,
        "assign.min_size": None,
        "lockstep": None,
        "gradient_accumulation_steps": None,
        "frame_buckets": None,
        "first": None,
        "steps": None,
        "last_step": None,
        "pack": None,
        "max_pixels_per_batch": None,
        "max_tokens_per_batch": None,
        "max_cost_per_batch": None,
        "cost.kind": PixelCost.kind,
    },
    defaults={"assign.max_ar_error": 4.0},
)
