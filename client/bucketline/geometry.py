"""How an image comes to its bucket's size: scale to cover, then crop; and SDXL's micro-conditioning of it.

    from bucketline.geometry import fit

    cut = fit((4000, 3000), (704, 512), crop="random", seed=42, epoch=batch.epoch, id=389644)
    image = image.resize(cut.resize_size).crop(cut.crop_box)

Sizes are (width, height) in pixels, as everywhere in bucketline; what SDXL is told has the order that it was trained
with, height first. The centre crop is the one that the coordinator tells of an image. The standard library only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ._checks import whole
from ._errors import UsageError

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fit:
    """Scale to ``resize_size``, then cut out ``target_size`` at ``crop_left``, ``crop_top``."""

    original_size: Size
    resize_size: Size
    target_size: Size
    crop_left: int
    crop_top: int

    @property
    def crop_box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in the resized image, as Pillow's ``crop`` takes it."""
        width, height = self.target_size
        return self.crop_left, self.crop_top, self.crop_left + width, self.crop_top + height

    @property
    def crop_coords_top_left(self) -> tuple[int, int]:
        """(top, left), in SDXL's order."""
        return self.crop_top, self.crop_left

    @property
    def time_ids(self) -> tuple[int, int, int, int, int, int]:
        """SDXL's micro-conditioning as its UNet takes it: original_size, crop_coords_top_left and target_size, each
        with its vertical number first."""
        width, height = self.original_size
        target_width, target_height = self.target_size
        return height, width, self.crop_top, self.crop_left, target_height, target_width


def fit(
    original_size: Sequence[int],
    target_size: Sequence[int],
    crop: Literal["center", "random"] = "center",
    seed: int = 0,
    *,
    epoch: int = 0,
    id: int | str | None = None,
) -> Fit:
    """The geometry of one image of ``original_size`` for ``target_size``, both (width, height).

    The side that decides the scale becomes the target's exactly; the other is rounded to the nearest pixel, halves
    up, which is never below the target. ``"center"`` crops the middle; of an odd rest the larger part goes at the
    right and the bottom. ``"random"`` crops anywhere, all places alike: the same for the same ``seed``, ``epoch`` and
    ``id`` (needed then), on every machine.
    """
    width, height = _size("original_size", original_size)
    target_width, target_height = _size("target_size", target_size)
    across, down = width * target_height, height * target_width
    if across >= down:  # the image is the wider one: its height decides
        resize_width, resize_height = _nearest(across, height), target_height
    else:
        resize_width, resize_height = target_width, _nearest(down, width)
    spare_width, spare_height = resize_width - target_width, resize_height - target_height
    if crop == "center":
        left, top = spare_width // 2, spare_height // 2
    elif crop == "random":
        if id is None:
            raise UsageError(
                "id: a random crop is drawn by (seed, epoch, id), so the image's id was expected"
            )
        word = _word(whole("seed", seed), whole("epoch", epoch), id)
        # one of the two is 0 always; 64 bits over a side of a few thousand pixels leave no bias to speak of
        left, top = word % (spare_width + 1), word % (spare_height + 1)
    else:
        raise UsageError(f"crop: 'center' or 'random' was expected, not {crop!r}")
    return Fit((width, height), (resize_width, resize_height), (target_width, target_height), left, top)


def _size(name: str, size: Sequence[int]) -> Size:
    if isinstance(size, (str, bytes)) or not hasattr(size, "__len__") or len(size) != 2:
        raise UsageError(f"{name}: (width, height) was expected, not {size!r}")
    return whole(f"{name}: width", size[0], 1), whole(f"{name}: height", size[1], 1)


def _nearest(dividend: int, divisor: int) -> int:
    return (2 * dividend + divisor) // (2 * divisor)


def _word(seed: int, epoch: int, id: int | str) -> int:
    """64 bits from the three. An image's id 7 and its id "7" are two images."""
    named = f"{seed}/{epoch}/{'s' if isinstance(id, str) else 'i'}{id}"
    return int.from_bytes(hashlib.blake2b(named.encode(), digest_size=8).digest(), "big")
