"""Scale to cover, centre crop: how an image is brought to the size of its bucket, and the share of it that is lost.

The image is scaled, keeping its aspect, to the smallest size that covers the target, and the middle is cut out.
Everything is (width, height) in pixels. The client's ``bucketline.geometry`` does the same without numpy; one table of
cases, ``tests/geometry_cases.json``, is tested on both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer] | int


class Fit(NamedTuple):
    """The resized image in pixels, the crop's top left corner in it, and the share of pixels that is cut away."""

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

    It is ``1 - min(a, b) / max(a, b)`` with a, b the aspects of image and target, computed exactly: from integer
    products, before the resized image is rounded to whole pixels. Sides are positive integers, [N] or one for all;
    those of images below 2**31, of targets at most 65,536.
    """
    across = np.multiply(widths, target_heights, dtype=np.int64)
    down = np.multiply(heights, target_widths, dtype=np.int64)
    larger = np.maximum(across, down)
    loss: NDArray[np.float64] = (larger - np.minimum(across, down)) / larger
    return loss


def cover(width: int, height: int, target_width: int, target_height: int) -> Fit:
    """``cover_each`` and ``crop_loss`` of one image. Raises ``ValueError`` unless all sides are positive.

    ```python
    cover(3, 2, 1, 1)  # Fit(resize_width=2, resize_height=1, crop_left=0, crop_top=0, crop_loss=0.333…)
    ```
    """
    if min(width, height, target_width, target_height) < 1:
        raise ValueError(
            f"sides must be positive, got {width} x {height} to {target_width} x {target_height}"
        )
    cuts = cover_each(np.array([[width, height]]), np.array([[target_width, target_height]]))
    (resize_width, resize_height), (left, top) = (
        cuts.resize_sizes[0].tolist(),
        cuts.crop_left_tops[0].tolist(),
    )
    loss = float(crop_loss(width, height, target_width, target_height))
    return Fit(resize_width, resize_height, left, top, loss)


def cover_each(sizes: NDArray[np.int64], target_sizes: NDArray[np.int64]) -> Cuts:
    """The integer geometry of N images for their targets, both int64[N, 2], (width, height). Sides as in ``crop_loss``.

    The side that decides the scale becomes the target's exactly. The other is rounded to the nearest pixel, halves up,
    which is never below the target. The crop is in the middle; the larger part of an odd margin is at the right and the
    bottom.
    """
    # int64[N, 2]: width * target_height, height * target_width
    crossed = sizes * target_sizes[:, ::-1]
    # bool[N, 2]: the side is relatively longer than the target's, so that the other side decides the scale
    is_longer = crossed >= crossed[:, ::-1]
    resize_sizes = np.where(is_longer, _nearest(crossed, sizes[:, ::-1]), target_sizes)
    return Cuts(resize_sizes, (resize_sizes - target_sizes) // 2)


def _nearest(dividend: NDArray[np.int64], divisor: NDArray[np.int64]) -> NDArray[np.int64]:
    return (2 * dividend + divisor) // (2 * divisor)
