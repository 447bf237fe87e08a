"""What an epoch costs, composed: of a plan that is kept, and of one that is only looked at."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.assignment_stats import tails
from bucketline_service.planning.build_plan import Prepared, in_service
from bucketline_service.planning.geometry import crop_loss
from bucketline_service.planning.images import Images
from bucketline_service.planning.line.image_classes import Groups, Sorter
from bucketline_service.planning.line.planner import LinePlanner
from bucketline_service.planning.line.sample_quotas import Portions
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.planner import Planner

_I64 = NDArray[np.int64]

_ALWAYS = (
    "max_ar_error",
    "max_crop_loss",
    "min_size",
)  # of the reasons, those told even where they prune none


class _Epoch(NamedTuple):
    """By target: ``num_batches`` int64[G] and ``tails``. ``num_served``: samples dealt; ``dropped`` None: all
    others."""

    num_batches: _I64
    tails: list[dict[str, Any]]
    num_served: int
    dropped: int | None
    spilled: int
    step_imbalance: float


def epoch_stats(
    spec: PlanSpec, prepared: Prepared, images: Images, planner: Planner, epoch: int, world_size: int
) -> dict[str, Any]:
    """The stats of ``epoch``, JSON-able, as an epoch is dealt to ``world_size`` ranks from its start. For ``line``
    they need no ``order``; where samples and batch sizes are whole numbers and one, every epoch has the same but for
    ``dropped`` and ``repeated`` of ``pad``.

    ``num_samples``: how often the epoch asks for images, repeats counted. ``dropped`` of these are not served.

    ``spilled``: images served outside their own bucket. ``novelai``: the epoch's count; ``line``: what is expected over
    epochs, to the nearest image, for which of them are left out changes.

    ``step_imbalance``: the pixels of each step's slowest rank, summed over the epoch's steps, over the like sum of the
    ranks' mean. 1 where every step has one shape. ``novelai``: the epoch's; ``line``: each sum as expected over epochs.
    """
    num_batches = planner.num_batches(epoch, world_size)
    num_steps = num_batches // world_size
    sorter = Sorter(spec, images)
    portions = Portions.of(sorter, prepared.groups, spec.num_buckets)
    num_samples = int(portions.cuts(spec.seed, epoch).counts.sum())
    made = (_line if spec.planner == "line" else _novelai)(
        spec, prepared, images, portions, planner, epoch, world_size
    )
    buckets = _buckets(spec, prepared, portions, made)
    dropped = num_samples - made.num_served if made.dropped is None else made.dropped
    shapes = {
        (spec.targets[target], int(spec.target_frames[target])): int(spec.pixels[target])
        for target in np.flatnonzero(made.num_batches).tolist()
    }
    (width, height), num_frames = max(shapes, key=lambda shape: (shapes[shape], shape))
    summary = prepared.summary
    return {
        "num_images": summary["num_images"],
        "num_assigned": int(prepared.groups.counts.sum()),
        "num_samples": num_samples,
        "pruned": {reason: num for reason, num in summary["pruned"].items() if num or reason in _ALWAYS},
        "aspect_error": summary["aspect_error"],
        "crop_loss": summary["crop_loss"],
        "crop_loss_served": _mean_served(buckets),
        "num_batches": num_batches,
        "num_steps": num_steps,
        "dropped": dropped,
        "repeated": made.num_served - (num_samples - dropped),
        "never_served": sum(bucket["tail"]["never_served"] for bucket in buckets),
        "spilled": made.spilled,
        "mixed_steps": planner.mixed_steps(epoch, 0, world_size),
        "step_imbalance": made.step_imbalance,
        "num_shapes": len(shapes),
        "largest_shape": {"width": width, "height": height, "num_frames": _frames(spec, num_frames)},
        "maps": _maps(images.num_parts, sorter, prepared.groups, portions),
        "buckets": buckets,
    }


def _frames(spec: PlanSpec, num_frames: int) -> int | None:
    return num_frames if spec.frame_buckets else None


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _maps(num: int, sorter: Sorter, groups: Groups, portions: Portions) -> list[dict[str, Any]]:
    """What the epoch asks of each map."""
    of = sorter.part_of(groups.keys)
    assigned = np.bincount(of, weights=groups.counts, minlength=num)
    samples = np.bincount(of[portions.groups], weights=portions.samples, minlength=num)
    return [
        {"num_assigned": int(images), "num_samples": _number(asked), "share": asked / float(samples.sum())}
        for images, asked in zip(assigned.tolist(), samples.tolist(), strict=True)
    ]


def _buckets(spec: PlanSpec, prepared: Prepared, portions: Portions, made: _Epoch) -> list[dict[str, Any]]:
    losses = prepared.summary["bucket_crop_loss"]
    members = [*portions.members(prepared.groups.counts).tolist(), 0]
    samples = [*portions.bucket_samples().tolist(), 0.0]
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


def _mean_served(buckets: list[dict[str, Any]]) -> float:
    served = [
        (bucket["num_batches"] * bucket["batch_size"], bucket["crop_loss_served"]) for bucket in buckets
    ]
    total = sum(images for images, loss in served if loss is not None)
    return sum(images * loss for images, loss in served if loss is not None) / total if total else 0.0


def _line(
    spec: PlanSpec,
    prepared: Prepared,
    images: Images,
    portions: Portions,
    planner: Planner,
    epoch: int,
    world_size: int,
) -> _Epoch:
    assert isinstance(planner, LinePlanner)
    layout = planner.layout(epoch)
    num_batches = planner.num_batches(epoch, world_size)
    num_dealt = num_batches - num_batches % world_size
    # every place of a stretch is served as often as any other, and every batch is dealt as often as any other
    shares = np.minimum(layout.served / np.maximum(layout.lengths, 1), 1.0) * num_dealt / num_batches
    spilled = sum(size * float(shares[target]) for bucket, target, size in layout.flows() if target != bucket)
    return _Epoch(
        layout.num_units * spec.lockstep,
        tails(spec.num_buckets, layout, prepared.summary, spec.targets, in_service(spec, portions)),
        planner.num_served(epoch, num_dealt),
        planner.num_only_after(epoch, num_dealt) if spec.tails == "pad" else None,
        round(spilled),
        expected_imbalance(spec.pixels, layout.num_units, planner.spans(epoch, 0, world_size)),
    )


def expected_imbalance(pixels: _I64, num_units: _I64, spans: _I64) -> float:
    """``step_imbalance`` of units in uniformly random order. ``pixels`` int64[G] of a batch and ``num_units`` int64[G]
    of each target; ``spans[k]``: how many steps span k units.

    A step's slowest rank has the largest of the k units. These are any k of the n, and with c units of p pixels or
    fewer the chance that none is larger is C(c, k) / C(n, k).
    """
    there = num_units > 0
    values, at = np.unique(pixels[there], return_inverse=True)
    below = np.cumsum(np.bincount(at, weights=num_units[there])).astype(np.int64)
    num = int(below[-1])
    mean = float((pixels * num_units).sum() / num)
    if len(values) == 1 or not spans[2:].any():
        return 1.0
    largest = 0.0
    for k in np.flatnonzero(spans).tolist():
        drawn = np.arange(k)
        chances = [float(np.prod(np.maximum(c - drawn, 0) / (num - drawn))) for c in below.tolist()]
        largest += int(spans[k]) * float((np.diff(chances, prepend=0.0) * values).sum())
    return largest / (mean * int(spans.sum()))


def _novelai(
    spec: PlanSpec,
    prepared: Prepared,
    images: Images,
    portions: Portions,
    planner: Planner,
    epoch: int,
    world_size: int,
) -> _Epoch:
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
    counts[portions.buckets] = prepared.groups.counts[portions.groups]
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
    return _Epoch(num_batches, own, int(num_served.sum()), None, int(num_served[-1]), imbalance)
