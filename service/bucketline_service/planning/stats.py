"""What a plan costs, exactly: crop loss and aspect error of the assignment, and what becomes of each bucket's tail."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.geometry import crop_loss
from bucketline_service.planning.ladder import Ladder
from bucketline_service.planning.tails import Layout

_I64 = NDArray[np.int64]


def summarise(
    widths: NDArray[np.uint32],
    heights: NDArray[np.uint32],
    order: NDArray[np.uint32],
    counts: _I64,
    ladder: Ladder,
    targets: list[tuple[int, int]],
    flows: list[tuple[int, int, int]],
) -> dict[str, Any]:
    """One pass over the assigned images, bucket by bucket. Crop loss is a share of an image's pixels; aspect error is
    the absolute difference of the aspects, as NovelAI prints it.

    ``flows``: (bucket, target, images) of the layout; for each the mean crop loss of the bucket's images at the
    target's size, which is what an epoch expects of those that move there. JSON-able.
    """
    losses = np.empty(len(order), dtype=np.float32)
    errors = np.empty(len(order), dtype=np.float32)
    means, maxima = [0.0] * len(counts), [0.0] * len(counts)
    moved: dict[int, list[int]] = {}
    for bucket, target, _ in flows:
        moved.setdefault(bucket, []).append(target)
    flow_losses: dict[str, float] = {}
    begin = 0
    for bucket, count in enumerate(counts.tolist()):
        if not count:
            continue
        rows = order[begin : begin + count]
        width, height = widths[rows], heights[rows]
        loss = crop_loss(width, height, *targets[bucket])
        losses[begin : begin + count] = loss
        errors[begin : begin + count] = np.abs(width / height - ladder.aspects[bucket])
        means[bucket], maxima[bucket] = float(loss.mean()), float(loss.max())
        for target in moved.get(bucket, []):
            flow_losses[f"{bucket}:{target}"] = float(crop_loss(width, height, *targets[target]).mean())
        begin += count
    return {
        "crop_loss": _spread(losses),
        "aspect_error": _spread(errors),
        "bucket_crop_loss": [{"mean": mean, "max": most} for mean, most in zip(means, maxima, strict=True)],
        "flow_crop_loss": flow_losses,
    }


def _spread(values: NDArray[np.float32]) -> dict[str, float]:
    median, p95 = np.quantile(values, [0.5, 0.95])
    return {
        "mean": float(values.mean(dtype=np.float64)),
        "median": float(median),
        "p95": float(p95),
        "max": float(values.max()),
    }


def tails(counts: _I64, layout: Layout, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """For each target what becomes of its bucket's tail, an epoch: images ``spilled`` to other targets, ``left_out``
    and ``repeated`` by its own, ``never_served`` in any epoch; and ``crop_loss_served``, the expected mean crop loss of
    what the target serves, None where it serves nothing."""
    own = [
        {"num_images": 0, "spilled": [], "left_out": left_out, "repeated": repeated, "never_served": 0}
        for left_out, repeated in zip(layout.left_out.tolist(), layout.repeated.tolist(), strict=True)
    ]
    weights = np.zeros(len(own))
    lost = np.zeros(len(own))
    flows = layout.flows()
    # which images stand where changes each epoch: where one place of a bucket is served, none is left out for ever
    in_service = {bucket for bucket, target, _ in flows if layout.num_units[target]}
    for bucket, target, size in flows:
        weights[target] += size
        lost[target] += size * summary["flow_crop_loss"][f"{bucket}:{target}"]
        if bucket not in in_service:
            own[target]["never_served"] += size
        if target != bucket:
            own[bucket]["spilled"].append({"bucket": target, "num_images": size})
            own[bucket]["num_images"] += size
    for target, tail in enumerate(own):
        serves = layout.num_units[target] > 0
        if tail["repeated"]:
            tail["num_images"] = int(layout.lengths[target] % layout.unit_sizes[target])
        elif target < len(counts):
            tail["num_images"] += tail["left_out"]
        tail["crop_loss_served"] = float(lost[target] / weights[target]) if serves else None
    return own
