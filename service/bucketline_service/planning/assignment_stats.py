"""Crop loss and aspect error of an assignment, exactly, and what happens to the remainder of each bucket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.geometry import crop_loss
from bucketline_service.planning.line.remainders import Layout
from bucketline_service.planning.line.sample_quotas import SampleQuotas, listed
from bucketline_service.planning.plan_spec import PlanSpec

_I64 = NDArray[np.int64]
_F64 = NDArray[np.float64]

_BINS = 1 << 16

NUM_QUANTILES = 41
"""Quantiles of a spread in the stats: evenly spaced, from the least to the most."""


class Spread:
    """Mean and maximum, exact; quantiles to 1 / 65,536 * (1 + x)**2, from counts, so that N does not matter."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS)
        self._totals = np.zeros(2)  # weight, sum
        self._max = 0.0

    def add(self, values: _F64, weights: NDArray[Any] | None = None) -> None:
        """``values`` float64[n], not negative; ``weights`` [n]: how often each comes, once unless given."""
        if not len(values):
            return
        shares = values / (1.0 + values)  # [0, inf) onto [0, 1)
        self._counts += np.bincount((shares * _BINS).astype(np.int64), weights, minlength=_BINS)
        num = float(len(values) if weights is None else weights.sum())
        self._totals += num, float(_weighted(values, weights).sum())
        self._max = max(self._max, float(values.max()))

    def merge(self, other: Spread) -> None:
        self._counts += other._counts
        self._totals += other._totals
        self._max = max(self._max, other._max)

    def array(self) -> _F64:
        """All that it holds, for ``restore``."""
        return np.concatenate([self._counts, self._totals, [self._max]])

    def restore(self, array: _F64) -> None:
        self._counts, self._totals = array[:_BINS].copy(), array[_BINS : _BINS + 2].copy()
        self._max = float(array[-1])

    def to_json(self) -> dict[str, Any]:
        num, total = self._totals.tolist()
        shares = np.array([0.5, 0.95, *np.linspace(0.0, 1.0, NUM_QUANTILES)[:-1]])
        median, p95, *quantiles = self._quantiles(num, shares).tolist()
        return {
            "mean": total / num if num else 0.0,
            "median": median,
            "p95": p95,
            "max": self._max,
            "quantiles": [*quantiles, self._max],
        }

    def _quantiles(self, num: float, shares: _F64) -> _F64:
        # the lower edge of the bin, so that a loss of 0 is reported as 0; the least value is in the first bin that is
        # not empty
        sums = np.cumsum(self._counts)
        wanted = np.maximum(shares * num, sums[np.searchsorted(sums, 0.0, side="right") % _BINS])
        at = np.minimum(np.searchsorted(sums, np.minimum(wanted, sums[-1])), _BINS - 1) / _BINS
        found: _F64 = np.minimum(at / (1.0 - at), self._max)
        return found


def _weighted(values: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[Any]:
    return values if weights is None else values * weights


class Summary:
    """One pass over the assigned images, chunk by chunk, each weighed with how often an epoch asks for it. Crop loss is
    a share of an image's pixels; aspect error is the absolute difference of the aspects, as NovelAI prints it.

    ``flows``: (bucket, target, samples) of the layout; for each the mean crop loss of the bucket's images at the
    target's size, which is what an epoch expects of those that move there. ``frames`` int64[Q]: with which the images
    of each quota are served.
    """

    def __init__(
        self, spec: PlanSpec, quotas: SampleQuotas, flows: list[tuple[int, int, int]], frames: _I64
    ) -> None:
        self._given = spec, quotas, flows, frames
        self._spec = spec
        self.sizes = np.array(spec.targets, dtype=np.int64)
        """int64[G, 2]: (width, height) of each target."""
        self._quotas = quotas
        self._frames = frames
        self._ways = quotas.ways()
        self._weights = quotas.ends - quotas.begins
        self._flows = [(bucket, target) for bucket, target, _ in flows]
        moves = [i for i, (bucket, target) in enumerate(self._flows) if bucket != target]
        self._moves = listed(
            np.array([self._flows[i][0] for i in moves], np.int64),
            np.array(moves, np.int64),
            spec.num_buckets,
        )
        self._losses, self._errors = Spread(), Spread()
        self.sums = np.zeros(spec.num_buckets)
        """float64[B]: the crop losses of each bucket's samples, summed."""
        self._maxima = np.zeros(spec.num_buckets)
        self._tokens = np.zeros(spec.num_buckets if spec.packing else 0)  # float64[B]: of all samples
        self._areas = np.zeros_like(self._tokens)  # float64[B]: pixels of their native sizes
        self._flow_sums = np.zeros(len(flows))

    def blank(self) -> Summary:
        """One of nothing yet, to be merged."""
        return Summary(*self._given)

    def merge(self, other: Summary) -> None:
        self._losses.merge(other._losses)
        self._errors.merge(other._errors)
        self.sums += other.sums
        self._tokens += other._tokens
        self._areas += other._areas
        np.maximum(self._maxima, other._maxima, out=self._maxima)
        self._flow_sums += other._flow_sums

    def arrays(self) -> dict[str, _F64]:
        """All that it holds, for ``restore``."""
        return {
            "losses": self._losses.array(),
            "errors": self._errors.array(),
            "sums": self.sums,
            "maxima": self._maxima,
            "flow_sums": self._flow_sums,
            "tokens": self._tokens,
            "areas": self._areas,
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._losses.restore(arrays["losses"])
        self._errors.restore(arrays["errors"])
        self.sums = arrays["sums"].copy()
        self._maxima = arrays["maxima"].copy()
        self._flow_sums = arrays["flow_sums"].copy()
        self._tokens = arrays["tokens"].copy()
        self._areas = arrays["areas"].copy()

    def add(
        self,
        widths: NDArray[np.uint32],
        heights: NDArray[np.uint32],
        groups: _I64,
        sizes: _I64,
        counts: _I64 | None = None,
    ) -> None:
        """``widths``, ``heights`` [n] by group; ``groups`` int64[k]: which, in order; ``sizes`` int64[k]: how many each
        has of them; ``counts`` int64[n]: how many images each of them stands for, one unless given."""
        for way in self._ways:
            here = way[groups]
            quotas = np.repeat(here, sizes)
            if (here >= 0).all():
                self._add(widths, heights, quotas, counts)
            else:
                is_there = quotas >= 0
                of = None if counts is None else counts[is_there]
                self._add(widths[is_there], heights[is_there], quotas[is_there], of)

    def _add(
        self, widths: NDArray[np.uint32], heights: NDArray[np.uint32], quotas: _I64, counts: _I64 | None
    ) -> None:
        if not len(quotas):
            return
        buckets = self._quotas.buckets[quotas]
        weights: NDArray[Any] | None = counts
        if (self._weights != 1.0).any():
            weights = self._weights[quotas] * (1 if counts is None else counts)
        packing = self._spec.packing
        if packing is None:
            across, down, aspects = *self.sizes[buckets].T, self._spec.aspects[buckets]
        else:
            across, down = packing.native.sizes(widths.astype(np.int64), heights.astype(np.int64))
            aspects = across / down
            tokens = packing.native.tokens(across, down, self._frames[quotas], packing.frame_stride)
            for sums, values in ((self._tokens, tokens), (self._areas, across * down)):
                sums += np.bincount(buckets, _weighted(values, weights), minlength=len(sums))
        losses = crop_loss(widths, heights, across, down)
        self._losses.add(losses, weights)
        self._errors.add(np.abs(widths / heights - aspects), weights)
        self.sums += np.bincount(buckets, _weighted(losses, weights), minlength=len(self.sums))
        begins = np.flatnonzero(np.diff(quotas, prepend=-1))
        np.maximum.at(self._maxima, buckets[begins], np.maximum.reduceat(losses, begins))
        for moves in self._moves:
            flows = moves[buckets]
            there = np.flatnonzero(flows >= 0)
            targets = self.sizes[[target for _, target in self._flows]][flows[there]]
            moved = crop_loss(widths[there], heights[there], targets[:, 0], targets[:, 1])
            moved = _weighted(moved, None if weights is None else weights[there])
            self._flow_sums += np.bincount(flows[there], moved, minlength=len(self._flow_sums))

    def to_json(self) -> dict[str, Any]:
        samples = self._quotas.bucket_samples()
        samples = np.where(samples > 0, samples, 1.0)
        means = self.sums / samples
        moved = self._flow_sums / samples[np.array([bucket for bucket, _ in self._flows], dtype=np.int64)]
        found = {"bucket_tokens": self._tokens, "bucket_area_px": self._areas} if self._spec.packing else {}
        return {name: (sums / samples).tolist() for name, sums in found.items()} | {
            "crop_loss": self._losses.to_json(),
            "aspect_error": self._errors.to_json(),
            "bucket_crop_loss": [
                {"mean": mean, "max": most}
                for mean, most in zip(means.tolist(), self._maxima.tolist(), strict=True)
            ],
            "flow_crop_loss": {
                f"{bucket}:{target}": float(means[bucket] if bucket == target else loss)
                for (bucket, target), loss in zip(self._flows, moved.tolist(), strict=True)
            },
        }


def tails(
    spec: PlanSpec, layout: Layout, summary: dict[str, Any], in_service: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """For each target what becomes of its bucket's tail, an epoch: images ``spilled`` to other targets, ``left_out``
    and ``repeated`` by its own, ``never_served`` in any epoch, those of buckets that are not ``in_service`` bool[B];
    and ``crop_loss_served``, the expected mean crop loss of what the target serves, None where it serves nothing."""
    targets = spec.targets
    own = [
        {"num_images": 0, "spilled": [], "left_out": left_out, "repeated": repeated, "never_served": 0}
        for left_out, repeated in zip(layout.left_out.tolist(), layout.repeated.tolist(), strict=True)
    ]
    weights = np.zeros(len(own))
    lost = np.zeros(len(own))
    unit_sizes = layout.batch_sizes * spec.multiple
    for bucket, target, size in layout.flows():
        weights[target] += size
        known = summary["flow_crop_loss"].get(f"{bucket}:{target}")
        # where rounding makes a flow that epoch 0 has not: a few images, of about their bucket's aspect
        lost[target] += size * (crop_loss(*targets[bucket], *targets[target]) if known is None else known)
        if not in_service[bucket]:
            own[target]["never_served"] += size
        if target != bucket:
            own[bucket]["spilled"].append({"bucket": target, "num_images": size})
            own[bucket]["num_images"] += size
    for target, tail in enumerate(own):
        serves = layout.num_batches[target] > 0
        if tail["repeated"]:
            tail["num_images"] = int(layout.lengths[target] % unit_sizes[target])
        elif target < spec.num_buckets:
            tail["num_images"] += tail["left_out"]
        tail["crop_loss_served"] = float(lost[target] / weights[target]) if serves else None
    return own
