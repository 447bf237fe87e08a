"""The stats of an epoch as one JSON document, of a stored plan and of a preview."""

from __future__ import annotations

from typing import Any

import numpy as np

from bucketline_service.planning.images import Images
from bucketline_service.planning.line.image_classes import ImageClasses, ImageClassifier
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.planner_kinds import PLANNERS, EpochServed
from bucketline_service.planning.planner_port import Planner
from bucketline_service.planning.prepared_plan import Prepared

_ALWAYS = ("max_ar_error", "max_crop_loss", "min_size")  # reasons that are listed even if they prune no image


def epoch_stats(
    spec: PlanSpec, prepared: Prepared, images: Images, planner: Planner, epoch: int, world_size: int
) -> dict[str, Any]:
    """The stats of ``epoch``, JSON-able, as an epoch is dealt to ``world_size`` ranks from its start. For ``line`` they
    need no ``order``. Where samples are whole numbers every epoch of ``steps: "same_shape"`` has the same, except for
    ``dropped`` and ``repeated`` of ``pad``; with balanced steps epochs leave out other batches, or fill in others.

    ``num_samples``: how often the epoch asks for images, repeats counted. ``dropped`` of these are not served.

    ``spilled``: images served outside their own bucket. ``novelai``: the epoch's count; ``line``: what is expected over
    epochs that deal as many batches of each bucket, to the nearest image, for which of them are left out changes.

    ``step_imbalance``: the cost of each step's dearest batch, summed over the epoch's steps, over the like sum of the
    ranks' mean. 1 where every step has one shape. ``novelai``: in pixels.

    With packs ``packs`` says what they are; ``buckets`` is empty then, and ``tails`` and ``largest_shape`` are None.
    """
    spec = prepared.planned(spec)
    num_batches = planner.num_batches(epoch, world_size)
    num_steps = num_batches // world_size
    classifier = ImageClassifier(spec, images)
    quotas = SampleQuotas.of(classifier, prepared.groups, spec.num_buckets)
    num_samples = int(quotas.cuts(spec.seed, epoch).counts.sum())
    made = PLANNERS[spec.planner].served(spec, prepared, images, quotas, planner, epoch, world_size)
    buckets = [] if made.packs else _buckets(spec, prepared, quotas, made)
    dropped = num_samples - made.num_served if made.dropped is None else made.dropped
    num_shapes, largest = (made.packs["num_kinds"], None) if made.packs else _shapes(spec, made)
    summary = prepared.summary
    return {
        "tails": None if made.packs else spec.tails,
        "num_images": summary["num_images"],
        "num_assigned": int(prepared.groups.counts.sum()),
        "num_samples": num_samples,
        "pruned": {reason: num for reason, num in summary["pruned"].items() if num or reason in _ALWAYS},
        "aspect_error": summary["aspect_error"],
        "crop_loss": summary["crop_loss"],
        "crop_loss_served": made.packs["crop_loss_served"] if made.packs else _mean_served(made),
        "num_batches": num_batches,
        "num_steps": num_steps,
        "dropped": dropped,
        "repeated": made.num_served - (num_samples - dropped),
        "never_served": sum(bucket["tail"]["never_served"] for bucket in buckets),
        "spilled": made.spilled,
        "moved": summary.get("moved", 0),
        "max_extra_crop": summary.get("max_extra_crop", 0.0),
        "mixed_steps": planner.mixed_steps(epoch, 0, world_size),
        "step_imbalance": made.step_imbalance,
        "num_shapes": num_shapes,
        "largest_shape": largest,
        "maps": _maps(images.num_parts, classifier, prepared.groups, quotas),
        "buckets": buckets,
        "packs": made.packs,
    }


def _shapes(spec: PlanSpec, made: EpochServed) -> tuple[int, dict[str, Any]]:
    """How many shapes the epoch's batches have, and the one of the most pixels."""
    shapes = {
        (spec.targets[target], int(spec.target_frames[target])): int(spec.pixels[target])
        for target in np.flatnonzero(made.num_batches).tolist()
    }
    (width, height), num_frames = max(shapes, key=lambda shape: (shapes[shape], shape))
    return len(shapes), {"width": width, "height": height, "num_frames": _frames(spec, num_frames)}


def _frames(spec: PlanSpec, num_frames: int) -> int | None:
    return num_frames if spec.frame_buckets else None


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _maps(
    num: int, classifier: ImageClassifier, groups: ImageClasses, quotas: SampleQuotas
) -> list[dict[str, Any]]:
    """What the epoch asks of each map."""
    of = classifier.part_of(groups.keys)
    assigned = np.bincount(of, weights=groups.counts, minlength=num)
    samples = np.bincount(of[quotas.groups], weights=quotas.samples, minlength=num)
    return [
        {"num_assigned": int(images), "num_samples": _number(asked), "share": asked / float(samples.sum())}
        for images, asked in zip(assigned.tolist(), samples.tolist(), strict=True)
    ]


def _buckets(
    spec: PlanSpec, prepared: Prepared, quotas: SampleQuotas, made: EpochServed
) -> list[dict[str, Any]]:
    losses = prepared.summary["bucket_crop_loss"]
    members = [*quotas.members(prepared.groups.counts).tolist(), 0]
    samples = [*quotas.bucket_samples().tolist(), 0.0]
    return [
        {
            "bucket": bucket,
            "width": width,
            "height": height,
            "num_frames": _frames(spec, int(spec.target_frames[bucket])),
            "aspect": width / height,
            "num_images": members[bucket],
            "num_samples": _number(samples[bucket]),
            "batch_size": int(spec.batch_sizes[bucket]),
            "num_batches": int(made.num_batches[bucket]),
            "crop_loss": losses[bucket] if bucket < len(losses) else None,
            "crop_loss_served": made.tails[bucket]["crop_loss_served"],
            "tail": {name: told for name, told in made.tails[bucket].items() if name != "crop_loss_served"},
        }
        for bucket, (width, height) in enumerate(spec.targets)
    ]


def _mean_served(made: EpochServed) -> float:
    served = [
        (images, tail["crop_loss_served"])
        for images, tail in zip(made.num_images.tolist(), made.tails, strict=True)
        if tail["crop_loss_served"] is not None
    ]
    total = sum(images for images, _ in served)
    return sum(images * loss for images, loss in served) / total if total else 0.0
