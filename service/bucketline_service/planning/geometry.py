"""Scale to cover, centre crop: how an image comes to the size of its bucket, and what that throws away.

The image is scaled, keeping its aspect, to the smallest size that covers the target, and the middle is cut
out. Everything is (width, height) in pixels. The field names are those of SDXL's conditioning
(``crop_coords_top_left``).
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer] | int


class Fit(NamedTuple):
    """The resized image in pixels, the crop's top left corner in it, and the share of pixels thrown away."""

    resize_width: int
    resize_height: int
    crop_left: int
    crop_top: int
    crop_loss: float


class Cuts(NamedTuple):
    """Of N images, int64[N, 2] each: the resized image as (width, height), the crop's top left corner in it as
    (left, top)."""

    resize_sizes: NDArray[np.int64]
    crop_left_tops: NDArray[np.int64]


def crop_loss(
    widths: Integers, heights: Integers, target_widths: Integers, target_heights: Integers
) -> NDArray[np.float64]:
    """The share of each image's pixels that scaling to cover and cropping throws away, float64[N], 0 to < 1.

    It is ``1 - min(a, b) / max(a, b)`` with a, b the aspects of image and target, taken exactly: before any
    rounding of the resized image to whole pixels, and from the integer products. Positive integers [N], or
    one for all; sides of images below 2**31, of targets up to 65,536.
    """
    across = np.multiply(widths, target_heights, dtype=np.int64)
    down = np.multiply(heights, target_widths, dtype=np.int64)
    larger = np.maximum(across, down)
    loss: NDArray[np.float64] = (larger - np.minimum(across, down)) / larger
    return loss


def cover(width: int, height: int, target_width: int, target_height: int) -> Fit:
    """The integer geometry of one image of ``width`` x ``height`` for its bucket.

    The side that decides the scale becomes the target's exactly; the other is rounded to the nearest pixel,
    halves up, which is never below the target. The crop is in the middle; of an odd rest the larger part goes
    at the right and the bottom. ``crop_loss`` is that of the function above. Sides are positive:
    ``ValueError`` where they are not.
    """
    if min(width, height, target_width, target_height) < 1:
        raise ValueError(f"sides must be positive: {width} x {height} to {target_width} x {target_height}")
    across, down = width * target_height, height * target_width
    if across >= down:  # the image is the wider one: its height decides
        resize_width, resize_height = _nearest(across, height), target_height
    else:
        resize_width, resize_height = target_width, _nearest(down, width)
    return Fit(
        resize_width,
        resize_height,
        (resize_width - target_width) // 2,
        (resize_height - target_height) // 2,
        abs(across - down) / max(across, down),
    )


def cover_each(sizes: NDArray[np.int64], target_sizes: NDArray[np.int64]) -> Cuts:
    """``cover`` of many: images [N, 2] for targets [N, 2], both (width, height), with sides as ``crop_loss`` takes
    them."""
    crossed = sizes * target_sizes[:, ::-1]  # width * target_height, height * target_width
    is_longer = crossed >= crossed[:, ::-1]  # than the target's, so that the other side decides the scale
    resize_sizes = np.where(is_longer, _nearest(crossed, sizes[:, ::-1]), target_sizes)
    return Cuts(resize_sizes, (resize_sizes - target_sizes) // 2)


_N = TypeVar("_N", int, NDArray[np.int64])


def _nearest(dividend: _N, divisor: _N) -> _N:
    return (2 * dividend + divisor) // (2 * divisor)
