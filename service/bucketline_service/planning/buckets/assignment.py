"""Assignment: image -> bucket of the nearest aspect, or pruned with a reason.

Which bucket is nearest changes at a few aspects only. These edges are found once from the ladder, exactly; an
image is then one binary search among them, so that nothing of size N x K is ever made and no result depends on
a logarithm's last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets.ladder_generators import MAX_SIDE, Ladder
from bucketline_service.planning.buckets.no_upscale import NoUpscale, indices
from bucketline_service.planning.buckets.pruning import NO_BUCKET, Limits, Metric, Targets, prune

_CHUNK = 1 << 17  # rows at a time: the working arrays stay in the cache, and are 10 MB at most
_FAR = 2.0**19  # below it, float differences to distinct aspects of sides up to 65,536 are distinct
_FAR_CELLS = 1 << 20

SameAspect = Literal["first", "largest_filled"]
"""Which of several buckets of the nearest aspect: the first in the ladder, or the largest that the image fills without
being scaled up, the smallest where it fills none. (An image of just a bucket's size fills that one and none larger.)"""

_Floats = NDArray[np.float64]
_Edges = tuple[_Floats, NDArray[np.int32]]


@dataclass(frozen=True, eq=False)
class Assignment:
    """``buckets`` int32[N]: ladder index, -1 where pruned. ``reasons`` uint8[N]: index of ``limits.REASONS``."""

    buckets: NDArray[np.int32]
    reasons: NDArray[np.uint8]


def assign(
    widths: NDArray[np.integer],
    heights: NDArray[np.integer],
    ladder: Ladder,
    *,
    metric: Metric = "log",
    max_ar_error: float | None = None,
    max_crop_loss: float | None = None,
    min_size: int | None = None,
    no_upscale: NoUpscale | None = None,
    same_aspect: SameAspect = "first",
) -> Assignment:
    """Assign images of ``widths``, ``heights`` (positive integers[N], pixels) to the ladder's buckets.

    The bucket is that of the nearest aspect, of equally near aspects the first in the ladder, and of several
    buckets of that aspect the one that ``same_aspect`` says. ``abs`` is
    NovelAI's ``|bucket aspect - image aspect|`` as float64 arithmetic gives it, bit for bit. ``log`` is
    ``|ln(bucket aspect / image aspect)|``, the same for an image and its transpose, compared without
    logarithms: the edge between two buckets is the geometric mean of their aspects, so that a tie is a tie
    exactly. With ``no_upscale`` it is the one of the size that the rule gives, whatever the other aspects are.

    Pruned, for the first reason that holds in the order of ``limits.REASONS``:

    - ``max_ar_error``: where not ``error < max_ar_error``; the error is the metric's distance (for ``abs``
      the original's strict comparison of the absolute difference, which is lenient to tall images and strict
      to wide ones).
    - ``max_crop_loss``: where the crop loss (``geometry.crop_loss``) is larger than it.
    - ``min_size``: where the shorter side is below so many pixels.
    - ``bucket_no_upscale``: where the rule has no bucket for it, or one that is not in the ladder.

    Memory besides the result is bounded. Raises ``Invalid`` for parameters out of range and for sides below 1.
    """
    limits = Limits(metric, max_ar_error, max_crop_loss, min_size).checked()
    if widths.shape != heights.shape or widths.ndim != 1:
        raise ValueError(f"widths {widths.shape} and heights {heights.shape} must have the same length")
    num = len(widths)
    result = Assignment(np.empty(num, dtype=np.int32), np.zeros(num, dtype=np.uint8))
    for start in range(0, num, _CHUNK):
        rows = slice(start, min(start + _CHUNK, num))
        chunk_widths, chunk_heights = widths[rows].astype(np.int64), heights[rows].astype(np.int64)
        _check_sides(chunk_widths, chunk_heights, start)
        if no_upscale is not None:
            own = no_upscale.own(chunk_widths, chunk_heights, limits)
            buckets, reasons = indices(own, ladder), own.reasons
            reasons[(reasons == 0) & (buckets < 0)] = NO_BUCKET
        else:
            aspects = chunk_widths / chunk_heights
            buckets = _nearest(aspects, ladder, metric)
            if same_aspect == "largest_filled":
                buckets = _by_area(ladder).largest_filled(buckets, chunk_widths, chunk_heights)
            targets = Targets(ladder.widths, ladder.heights, ladder.aspects)
            reasons = prune(chunk_widths, chunk_heights, aspects, targets, buckets, limits)
        result.buckets[rows] = np.where(reasons > 0, -1, buckets)
        result.reasons[rows] = reasons
    return result


def _check_sides(widths: NDArray[np.int64], heights: NDArray[np.int64], start: int) -> None:
    """Refuse a side below 1. ``start``: the row of the first image."""
    is_wrong = np.minimum(widths, heights) < 1
    if is_wrong.any():
        at = int(np.argmax(is_wrong))
        detail = f"{widths[at]} x {heights[at]} is not a size"
        raise Invalid(f"row {start + at}", detail, "Give sides of at least 1 pixel")


def _nearest(aspects: _Floats, ladder: Ladder, metric: Metric) -> NDArray[np.int32]:
    """The nearest bucket of each aspect, int32[n]."""
    bounds, choices = _edges(ladder, metric)
    buckets: NDArray[np.int32] = choices[bounds.searchsorted(aspects, side="right")]
    if metric == "abs" and aspects.max() >= _FAR:
        # So far out the original's differences round to one number for several buckets, and its argmin takes
        # the first.
        far = np.flatnonzero(aspects >= _FAR)
        step = max(1, _FAR_CELLS // len(ladder))
        for start in range(0, len(far), step):
            rows = far[start : start + step]
            buckets[rows] = np.abs(ladder.aspects - aspects[rows, np.newaxis]).argmin(axis=1)
    return buckets


class _ByArea(NamedTuple):
    """A ladder's K buckets in *places*: by aspect, then area. ``buckets`` [K]: the ladder index at each place, and
    ``widths``, ``heights`` int64[K] its size in pixels; ``lasts`` [K]: the place of the largest bucket of that aspect.
    ``firsts`` [K]: by ladder index, the place of the smallest bucket of its aspect. ``steps``: powers of two,
    descending, whose sum is at least the most places that two buckets of one aspect are apart."""

    buckets: NDArray[np.int32]
    widths: NDArray[np.int64]
    heights: NDArray[np.int64]
    firsts: NDArray[np.intp]
    lasts: NDArray[np.intp]
    steps: tuple[int, ...]

    def largest_filled(
        self, buckets: NDArray[np.int32], widths: NDArray[np.int64], heights: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """int32[n]: of the buckets that share the aspect of ``buckets``, the one that each image is assigned to."""
        places = self.firsts[buckets]
        # A binary search by all images at once: sizes of one aspect grow in both sides, so that who fills one fills
        # all smaller ones. (Of NovelAI's two buckets of aspect 1 only one need be square; two need no order.)
        for step in self.steps:
            ahead = np.minimum(places + step, self.lasts[places])
            fills = (widths >= self.widths[ahead]) & (heights >= self.heights[ahead])
            places = np.where(fills, ahead, places)
        return self.buckets[places]


@lru_cache(maxsize=256)  # as of _edges
def _by_area(ladder: Ladder) -> _ByArea:
    order = np.lexsort((ladder.widths * ladder.heights, ladder.aspects))
    aspects = ladder.aspects[order]
    firsts = np.empty(len(order), dtype=np.intp)
    firsts[order] = aspects.searchsorted(aspects, side="left")
    lasts = aspects.searchsorted(aspects, side="right") - 1
    most = int((lasts - firsts[order]).max())
    steps = tuple(1 << bit for bit in reversed(range(most.bit_length())))
    return _ByArea(order.astype(np.int32), ladder.widths[order], ladder.heights[order], firsts, lasts, steps)


@lru_cache(maxsize=256)  # a ladder is asked for chunk after chunk, and for single images
def _edges(ladder: Ladder, metric: Metric) -> _Edges:
    """Where the nearest bucket changes: ``bounds`` float64[2(K' - 1)] ascending, ``choices`` int32[2K' - 1].

    Between two neighbours among the K' distinct aspects lie two bounds: from the first on (inclusive) both
    are equally near, from the second on the upper one is nearer. Where no float64 is a tie, the two are
    equal. ``choices[i]`` is the ladder index for aspects in ``[bounds[i - 1], bounds[i])``.
    """
    distinct, firsts = np.unique(ladder.aspects, return_index=True)  # the first in the ladder of equal ones
    lower, upper = distinct[:-1], distinct[1:]
    choices = np.empty(2 * len(distinct) - 1, dtype=np.int32)
    choices[0::2] = firsts
    choices[1::2] = np.minimum(firsts[:-1], firsts[1:])
    if metric == "abs":
        ties = _first_float(lower, upper, lambda x: x - lower >= upper - x)
        uppers = _first_float(lower, upper, lambda x: x - lower > upper - x)
    else:
        pairs = [_geometric_edge(*pair) for pair in zip(lower.tolist(), upper.tolist(), strict=True)]
        ties, uppers = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return np.stack([ties, uppers], axis=1).reshape(-1), choices


def _geometric_edge(lower: float, upper: float) -> tuple[float, float]:
    """The two bounds between two aspects for ``log``: equal where no quotient of integers is a tie."""
    # Aspects are quotients of sides up to MAX_SIDE, so that the nearest fraction of that size is the one they
    # were made of.
    product = Fraction(lower).limit_denominator(MAX_SIDE) * Fraction(upper).limit_denominator(MAX_SIDE)
    root = Fraction(math.isqrt(product.numerator), math.isqrt(product.denominator))
    if root * root != product:
        edge = math.sqrt(product)
        return edge, edge
    return float(root), math.nextafter(float(root), math.inf)


def _first_float(low: _Floats, high: _Floats, holds: Callable[[_Floats], NDArray[np.bool_]]) -> _Floats:
    """The smallest float64 in (low, high] for which ``holds``: not at low, at high, one change between."""
    # Positive floats are ordered as their bit patterns are.
    below, above = low.view(np.int64).copy(), high.view(np.int64).copy()
    while np.any(above - below > 1):
        middle = below + (above - below) // 2
        there = holds(middle.view(np.float64))
        above = np.where(there, middle, above)
        below = np.where(there, below, middle)
    found: _Floats = above.view(np.float64)
    return found
