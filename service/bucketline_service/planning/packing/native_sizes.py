"""Native sizes: every image keeps its own aspect, and has the size in whole cells that crops the least of it.

A cell is ``divisible`` x ``divisible`` pixels and gives one token. Everything is (width, height). An image's size
depends on this image alone, and is found in integers and single float64 quotients, never in sums: the distinct sizes of
a data set with their counts give the same as its images.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets.ladder_generators import MAX_SIDE, check_side, is_integer

_NEAR = (
    3  # sizes on each side among which the least crop is looked for: the largest, and one and two cells less
)

_I64 = NDArray[np.int64]


class NativeSizes(NamedTuple):
    """``max_pixels``: above which an image is scaled down; ``divisible``: the side of a cell in pixels."""

    max_pixels: int
    divisible: int

    @classmethod
    def of(cls, max_pixels: int, divisible: int) -> NativeSizes:
        """Raises ``Invalid`` naming an invalid field of the ladder."""
        cell = check_side("ladder.divisible", divisible) ** 2
        most = MAX_SIDE**2
        if not is_integer(max_pixels) or not cell <= max_pixels <= most:
            detail = f"{max_pixels!r} is not a number of pixels that holds a cell of divisible {divisible}"
            raise Invalid("ladder.max_pixels", detail, f"Use an integer from {cell:,} to {most:,}")
        return cls(int(max_pixels), int(divisible))

    def sizes(self, widths: _I64, heights: _I64) -> tuple[_I64, _I64]:
        """Width and height that each image is brought to, in pixels, int64[n] each; 0 where it has no size.

        The image is scaled to cover that size and the rest is cropped (``geometry``). It is never scaled up, and the
        size has at most ``max_pixels``. The largest size is that of the image, scaled down to ``max_pixels`` where it
        has more, with both sides cut to whole cells; of the sizes up to two cells smaller on each side it is the one
        with the least crop, of several the longest, then the largest. The crop is at most that of the largest size, so
        less than a cell of its shorter side. An image and its transpose have transposed sizes.

        An image has no size where it is less than a cell on a side once it is scaled down, or would be longer than
        ``MAX_SIDE``: as such images have no bucket with ``bucket_no_upscale`` (``no_upscale``). ``widths``,
        ``heights``: positive integers[n] below 2**31.
        """
        longer, shorter = np.maximum(widths, heights), np.minimum(widths, heights)
        long, short = self._largest(longer, shorter)
        has_none = (short == 0) | (long > MAX_SIDE // self.divisible)
        less_long, less_short = _least_crop(longer, shorter, long, short)
        long, short = np.maximum(long - less_long, 1), np.maximum(short - less_short, 1)
        long[has_none] = short[has_none] = 0
        is_wide = widths >= heights
        long, short = long * self.divisible, short * self.divisible
        return np.where(is_wide, long, short), np.where(is_wide, short, long)

    def _largest(self, longer: _I64, shorter: _I64) -> tuple[_I64, _I64]:
        """The longer and the shorter side of the largest size, in cells."""
        # Scaled to max_pixels, the sides are the roots of max_pixels * aspect and max_pixels / aspect. The float64 root
        # of an integer below 2**52 has the exact integer part; a longer side is that of an image without a size.
        is_large = longer * shorter > self.max_pixels
        long = np.where(is_large, np.sqrt(self.max_pixels * longer // shorter).astype(np.int64), longer)
        short = np.where(is_large, np.sqrt(self.max_pixels * shorter // longer).astype(np.int64), shorter)
        return long // self.divisible, short // self.divisible

    def tokens(
        self,
        widths: _I64,
        heights: _I64,
        num_frames: NDArray[np.integer] | None = None,
        frame_stride: int = 1,
    ) -> _I64:
        """int64[n]: tokens of images at these native sizes, in pixels: one for each cell of each ``frame_stride``
        frames begun. ``num_frames`` integers[n], None: stills."""
        cells = (widths // self.divisible) * (heights // self.divisible)
        if num_frames is None:
            return cells
        tokens: _I64 = cells * -(-num_frames.astype(np.int64) // frame_stride)
        return tokens


def _least_crop(longer: _I64, shorter: _I64, long: _I64, short: _I64) -> tuple[_I64, _I64]:
    """By how many cells the size with the least crop is less than ``long`` x ``short`` cells, on each side."""
    # What covering keeps of an image is the smaller of two products by the larger (``geometry.crop_loss``); they are
    # below 2**53, so exact. A side of one cell is offered several times, which changes nothing.
    across = [np.multiply(shorter, np.maximum(long - i, 1), dtype=np.float64) for i in range(_NEAR)]
    down = [np.multiply(longer, np.maximum(short - i, 1), dtype=np.float64) for i in range(_NEAR)]
    best = np.zeros(len(longer), dtype=np.int8)
    most_kept = np.zeros(len(longer))
    for number, (i, j) in enumerate(product(range(_NEAR), repeat=2)):
        kept = np.minimum(across[i], down[j]) / np.maximum(across[i], down[j])
        # numbers ascend, so the largest of those that were better than all before is the best
        np.maximum(best, (kept > most_kept) * np.int8(number), out=best)
        np.maximum(most_kept, kept, out=most_kept)
    less_long, less_short = np.divmod(best.astype(np.int64), _NEAR)
    return less_long, less_short
