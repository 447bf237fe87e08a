"""What a plan costs, exactly: crop loss and aspect error of the assignment, and what becomes of each bucket's tail."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.geometry import crop_loss
from bucketline_service.planning.ladder import Ladder
from bucketline_service.planning.order import tally
from bucketline_service.planning.tails import Layout

_I64 = NDArray[np.int64]


_BINS = 1 << 16


class Spread:
    """Mean and maximum, exact; quantiles to 1 / 65,536 * (1 + x)**2, from counts, so that N does not matter."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, dtype=np.int64)
        self._sum = 0.0
        self._max = 0.0

    def add(self, values: NDArray[np.float64], weights: _I64 | None = None) -> None:
        """``values`` float64[n], not negative; ``weights`` int64[n]: how often each comes, once unless given."""
        if not len(values):
            return
        shares = values / (1.0 + values)  # [0, inf) onto [0, 1)
        self._counts += tally((shares * _BINS).astype(np.int64), _BINS, weights)
        self._sum += float(_weighted(values, weights).sum())
        self._max = max(self._max, float(values.max()))

    def to_json(self) -> dict[str, float]:
        num = int(self._counts.sum())
        median, p95 = (self._quantile(num, share) for share in (0.5, 0.95))
        return {"mean": self._sum / num if num else 0.0, "median": median, "p95": p95, "max": self._max}

    def _quantile(self, num: int, share: float) -> float:
        # the lower edge of the bin, so that what fits exactly is told as 0
        at = int(np.searchsorted(np.cumsum(self._counts), share * num)) / _BINS
        return min(at / (1.0 - at), self._max)


def _weighted(values: NDArray[np.float64], weights: _I64 | None) -> NDArray[np.float64]:
    return values if weights is None else values * weights


class Summary:
    """One pass over the assigned images, chunk by chunk. Crop loss is a share of an image's pixels; aspect error is the
    absolute difference of the aspects, as NovelAI prints it.

    ``flows``: (bucket, target, images) of the layout; for each the mean crop loss of the bucket's images at the
    target's size, which is what an epoch expects of those that move there.
    """

    def __init__(
        self, ladder: Ladder, targets: list[tuple[int, int]], flows: list[tuple[int, int, int]], counts: _I64
    ) -> None:
        self._aspects = ladder.aspects
        self._sizes = np.array(targets, dtype=np.int64)
        self._counts = counts
        self._losses, self._errors = Spread(), Spread()
        self._sums = np.zeros(len(counts))
        self._maxima = np.zeros(len(counts))
        self._flows = [(bucket, target) for bucket, target, _ in flows]
        self._flow_sums = np.zeros(len(flows))

    def add(
        self,
        widths: NDArray[np.uint32],
        heights: NDArray[np.uint32],
        sizes: _I64,
        weights: _I64 | None = None,
    ) -> None:
        """``widths``, ``heights`` [n] by bucket; ``sizes`` int64[B]: how many each bucket has of them; ``weights``
        int64[n]: how many images each of them stands for, one unless given."""
        buckets = np.repeat(np.arange(len(sizes)), sizes)
        losses = crop_loss(widths, heights, self._sizes[buckets, 0], self._sizes[buckets, 1])
        self._losses.add(losses, weights)
        self._errors.add(np.abs(widths / heights - self._aspects[buckets]), weights)
        self._sums += np.bincount(buckets, weights=_weighted(losses, weights), minlength=len(sizes))
        begins = np.cumsum(sizes) - sizes
        there = np.flatnonzero(sizes)
        if len(there):
            self._maxima[there] = np.maximum(self._maxima[there], np.maximum.reduceat(losses, begins[there]))
        for i, (bucket, target) in enumerate(self._flows):
            if target == bucket:
                continue
            mine = slice(begins[bucket], begins[bucket] + sizes[bucket])
            moved = crop_loss(widths[mine], heights[mine], *self._sizes[target])
            self._flow_sums[i] += _weighted(moved, None if weights is None else weights[mine]).sum()

    def to_json(self) -> dict[str, Any]:
        means = self._sums / np.maximum(self._counts, 1)
        moved = self._flow_sums / np.array([self._counts[bucket] for bucket, _ in self._flows] or [1])
        return {
            "crop_loss": self._losses.to_json(),
            "aspect_error": self._errors.to_json(),
            "bucket_crop_loss": [
                {"mean": mean, "max": most}
                for mean, most in zip(means.tolist(), self._maxima.tolist(), strict=True)
            ],
            "flow_crop_loss": {
                f"{bucket}:{target}": float(means[bucket] if bucket == target else loss)
                for (bucket, target), loss in zip(self._flows, moved.tolist(), strict=False)
            },
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
