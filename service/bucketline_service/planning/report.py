"""What an epoch costs, composed: of a plan that is kept, and of one that is only looked at."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.build import PlanSpec, layout_of
from bucketline_service.planning.geometry import crop_loss
from bucketline_service.planning.line import LinePlanner
from bucketline_service.planning.plan import Planner
from bucketline_service.planning.stats import tails

_I64 = NDArray[np.int64]


class Images(NamedTuple):
    """What the plan is about: ``counts`` int64[B] images assigned to each bucket; ``summary``: that of ``prepare``;
    ``widths``, ``heights`` of all rows of the map, which only ``novelai`` looks at."""

    counts: _I64
    summary: dict[str, Any]
    widths: NDArray[np.uint32]
    heights: NDArray[np.uint32]


class _Epoch(NamedTuple):
    """By target: ``num_batches`` int64[G] and ``tails``. ``dropped`` None: all but what is served."""

    num_batches: _I64
    tails: list[dict[str, Any]]
    dropped: int | None
    spilled: int
    step_imbalance: float


def epoch_stats(
    spec: PlanSpec, images: Images, planner: Planner, epoch: int, world_size: int
) -> dict[str, Any]:
    """The stats of ``epoch``, JSON-able, as an epoch is dealt to ``world_size`` ranks from its start. For ``line``
    every epoch has the same but for ``dropped`` and ``repeated`` of ``pad``; its planner may be one without rows.

    ``spilled``: images served outside their own bucket. ``novelai``: the epoch's count; ``line``: what is expected over
    epochs, to the nearest image, for which of them are left out changes.

    ``step_imbalance``: the pixels of each step's slowest rank, summed over the epoch's steps, over the like sum of the
    ranks' mean. 1 where every step has one shape. ``novelai``: the epoch's; ``line``: each sum as expected over epochs.
    """
    num_batches = planner.num_batches(epoch, world_size)
    num_steps = num_batches // world_size
    made = (_line if spec.planner == "line" else _novelai)(spec, images, planner, epoch, world_size)
    buckets = _buckets(spec, images, made)
    num_assigned = int(images.counts.sum())
    # batch sizes are one number so far: images served are batches dealt times it
    served = num_steps * world_size * spec.batch_size
    dropped = num_assigned - served if made.dropped is None else made.dropped
    shapes = {size for size, num in zip(spec.targets, made.num_batches.tolist(), strict=True) if num}
    width, height = max(shapes, key=lambda size: (size[0] * size[1], size))
    summary = images.summary
    return {
        "num_images": summary["num_images"],
        "num_assigned": num_assigned,
        "pruned": summary["pruned"],
        "aspect_error": summary["aspect_error"],
        "crop_loss": summary["crop_loss"],
        "crop_loss_served": _mean_served(buckets),
        "num_batches": num_batches,
        "num_steps": num_steps,
        "dropped": dropped,
        "repeated": served - (num_assigned - dropped),
        "never_served": sum(bucket["tail"]["never_served"] for bucket in buckets),
        "spilled": made.spilled,
        "mixed_steps": planner.mixed_steps(epoch, 0, world_size),
        "step_imbalance": made.step_imbalance,
        "num_shapes": len(shapes),
        "largest_shape": {"width": width, "height": height},
        "buckets": buckets,
    }


def _buckets(spec: PlanSpec, images: Images, made: _Epoch) -> list[dict[str, Any]]:
    counts, losses = images.counts.tolist(), images.summary["bucket_crop_loss"]
    return [
        {
            "bucket": bucket,
            "width": width,
            "height": height,
            "aspect": width / height,
            "num_images": counts[bucket] if bucket < len(counts) else 0,
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


def _line(spec: PlanSpec, images: Images, planner: Planner, epoch: int, world_size: int) -> _Epoch:
    assert isinstance(planner, LinePlanner)
    layout = layout_of(spec, images.counts)
    num_batches = planner.num_batches(epoch, world_size)
    num_dealt = num_batches - num_batches % world_size
    # every place of a stretch is served as often as any other, and every batch is dealt as often as any other
    shares = np.minimum(layout.served / np.maximum(layout.lengths, 1), 1.0) * num_dealt / num_batches
    spilled = sum(size * float(shares[target]) for bucket, target, size in layout.flows() if target != bucket)
    return _Epoch(
        layout.num_units * spec.lockstep,
        tails(images.counts, layout, images.summary),
        planner.num_only_after(epoch, num_dealt) if spec.tails == "pad" else None,
        round(spilled),
        expected_imbalance(_pixels(spec), layout.num_units, planner.spans(0, world_size)),
    )


def _pixels(spec: PlanSpec) -> _I64:
    """int64[G]: pixels of a batch of each target."""
    pixels: _I64 = np.array(spec.targets, dtype=np.int64).prod(axis=1) * spec.batch_sizes
    return pixels


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


def _novelai(spec: PlanSpec, images: Images, planner: Planner, epoch: int, world_size: int) -> _Epoch:
    """Of one planned epoch. What a bucket's own batches do not take goes to the catch-all or is trimmed, by the epoch's
    own draw; only their sum over all buckets divides into the two."""
    num = planner.num_batches(epoch, world_size)
    block = planner.batches(epoch, np.arange(num, dtype=np.int64), world_size)
    sizes = np.array(spec.targets)
    num_batches = np.bincount(block.buckets, minlength=len(sizes))
    num_served = num_batches * spec.batch_size
    targets = np.repeat(block.buckets, np.diff(block.bounds))
    rows = block.rows
    losses = crop_loss(images.widths[rows], images.heights[rows], sizes[targets, 0], sizes[targets, 1])
    means = np.bincount(targets, weights=losses, minlength=len(sizes)) / np.maximum(num_served, 1)
    elsewhere = np.append(images.counts, 0) - num_served
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
    pixels = _pixels(spec)[block.buckets].reshape(-1, world_size)
    imbalance = float(pixels.max(axis=1).sum() / pixels.mean(axis=1).sum())
    return _Epoch(num_batches, own, None, int(num_served[-1]), imbalance)
