"""kohya's ``bucket_no_upscale``: an image's own size decides its bucket, and no image is scaled up to it.

The rule is that of ``BucketManager.select_bucket`` of kohya-ss/sd-scripts (library/train_util.py) with
``no_upscale``, in the same float64 arithmetic, so that the buckets are the same. It knows no list of buckets: a
run has those that its images need. An image has none where it is less than one step on a side, once it is scaled
(the original makes a side of 0 of that, or divides by it), and where a side would be longer than ``MAX_SIDE``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets.ladder_generators import (
    MAX_BUCKETS,
    MAX_SIDE,
    Ladder,
    Size,
    check_side,
    check_size,
    is_integer,
)
from bucketline_service.planning.buckets.pruning import NO_BUCKET, Limits, Targets, prune

_CHUNK = 1 << 17  # rows at a time: the working arrays stay in the cache, and are 15 MB at most

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


class Own(NamedTuple):
    """The bucket of each image: ``widths``, ``heights`` int64[n] in pixels, 0 where it has none. ``reasons`` uint8[n]:
    why it is pruned, index of ``limits.REASONS``."""

    widths: _Ints
    heights: _Ints
    reasons: NDArray[np.uint8]


class NoUpscale(NamedTuple):
    """``area``: pixels above which an image is scaled down; ``step``: of the buckets' sides, in pixels."""

    area: int
    step: int

    @classmethod
    def of(cls, resolution: int | Sequence[int], bucket_reso_steps: int) -> NoUpscale:
        """``resolution``: a side or (width, height). Raises ``Invalid`` naming an invalid field."""
        sides = (resolution, resolution) if is_integer(resolution) else resolution
        width, height = check_size("ladder.resolution", sides)
        return cls(width * height, check_side("ladder.bucket_reso_steps", bucket_reso_steps))

    def sizes(self, widths: _Ints, heights: _Ints) -> tuple[_Ints, _Ints]:
        """Width and height of each image's bucket in pixels, 0 where it has none. ``widths``, ``heights``: positive,
        below 2**31."""
        across, down = widths.copy(), heights.copy()
        large = np.flatnonzero(across * down > self.area)
        across[large], down[large] = self._shrunk(across[large], down[large])
        across -= across % self.step
        down -= down % self.step
        has_none = (np.minimum(across, down) == 0) | (np.maximum(across, down) > MAX_SIDE)
        across[has_none] = down[has_none] = 0
        return across, down

    def own(self, widths: _Ints, heights: _Ints, limits: Limits) -> Own:
        """The same, and which images are pruned."""
        across, down = self.sizes(widths, heights)
        has_none = across == 0
        # one without a bucket is held against its own size, so that of the limits min_size alone has a say
        at_width, at_height = np.where(has_none, widths, across), np.where(has_none, heights, down)
        targets = Targets(at_width, at_height, at_width / at_height)
        reasons = prune(widths, heights, widths / heights, targets, slice(None), limits)
        reasons[has_none & (reasons == 0)] = NO_BUCKET
        return Own(across, down, reasons)

    def _shrunk(self, widths: _Ints, heights: _Ints) -> tuple[_Ints, _Ints]:
        """The sizes that images above the area are scaled to: about the area, one side rounded to steps, and the other
        one by the aspect. Of the two ways that whose bucket keeps the aspect better."""
        aspects = widths / heights
        exact_widths = np.sqrt(self.area * aspects)
        of_width = self._to_step(exact_widths)
        of_height = self._to_step(self.area / exact_widths)
        error_by_width = _error(of_width, self._to_step(of_width / aspects), aspects)
        error_by_height = _error(self._to_step(of_height * aspects), of_height, aspects)
        by_width = error_by_width < error_by_height  # of equal errors the height
        return (
            np.where(by_width, of_width, _nearest(of_height * aspects)),
            np.where(by_width, _nearest(of_width / aspects), of_height),
        )

    def _to_step(self, sides: _Floats) -> _Ints:
        """To the nearest pixel, then down to a step."""
        pixels = _nearest(sides)
        return pixels - pixels % self.step


def indices(own: Own, ladder: Ladder) -> NDArray[np.int32]:
    """The place of each image's bucket in the ladder, int32[n], -1 where it is not there."""
    sizes = _packed(ladder.widths, ladder.heights)
    order = np.argsort(sizes)
    asked = _packed(own.widths, own.heights)
    found = order[np.minimum(np.searchsorted(sizes, asked, sorter=order), len(order) - 1)]
    return np.where(sizes[found] == asked, found, -1).astype(np.int32)


def needed(
    rule: NoUpscale, widths: NDArray[np.integer], heights: NDArray[np.integer], limits: Limits
) -> list[Size]:
    """(width, height) of every bucket that images of ``widths``, ``heights`` (positive integers[N], pixels) are
    assigned to, those that are pruned left out; by aspect, then area. Raises ``Invalid`` where there are none, or more
    than ``MAX_BUCKETS``."""
    field = "ladder.bucket_reso_steps"
    limits = limits.checked()
    found = np.empty(0, dtype=np.int64)
    for begin in range(0, len(widths), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        own = rule.own(widths[part].astype(np.int64), heights[part].astype(np.int64), limits)
        is_kept = own.reasons == 0
        here = _packed(own.widths[is_kept], own.heights[is_kept])
        found = np.unique(np.concatenate([found, here]))
        if len(found) > MAX_BUCKETS:
            detail = f"in steps of {rule.step} the images need more than {MAX_BUCKETS} buckets"
            raise Invalid(field, detail, "Use larger steps, or prune small images with assign.min_size")
    if not len(found):
        detail = f"all images are pruned, and none is left that fills a step of {rule.step} on both sides"
        raise Invalid(field, detail, "Use smaller steps, or loosen the limits")
    sizes = [(each >> 32, each & (2**32 - 1)) for each in found.tolist()]
    return sorted(sizes, key=lambda size: (size[0] / size[1], size[0] * size[1]))


def _error(widths: _Ints, heights: _Ints, aspects: _Floats) -> _Floats:
    """How far buckets are off the aspects; infinitely where they have no height, where the original divides by 0."""
    errors: _Floats = np.abs(widths / np.maximum(heights, 1) - aspects)
    return np.where(heights > 0, errors, np.inf)


def _nearest(sides: _Floats) -> _Ints:
    """Whole pixels, halves up."""
    return (sides + 0.5).astype(np.int64)


def _packed(widths: _Ints, heights: _Ints) -> _Ints:
    """A size in one number."""
    return (widths << 32) | heights
