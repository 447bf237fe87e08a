"""How an image is brought to its bucket's size: scaled to cover it, then cropped; and SDXL's micro-conditioning.

```python
from bucketline.geometry import fit

cut = fit((4000, 3000), (704, 512), crop="random", seed=42, epoch=batch.epoch, id=389644)
image = image.resize(cut.resize_size).crop(cut.crop_box)
```

Sizes are (width, height) in pixels, as everywhere in bucketline; SDXL's conditioning has height first, the order that
SDXL was trained with. The centre crop is the one that the coordinator reports. Uses the standard library only.
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
    """Scale to `resize_size`, then crop `target_size` at `crop_left`, `crop_top`. What `fit` returns.

    ```python
    cut = fit(image.size, (704, 512))
    image = image.resize(cut.resize_size).crop(cut.crop_box)
    ```

    Attributes:
        original_size: (width, height) of the image, in pixels.
        resize_size: (width, height) to scale it to.
        target_size: (width, height) of the crop.
        crop_left: the crop's distance from the left edge of the scaled image, in pixels.
        crop_top: the crop's distance from its top edge.
    """

    original_size: Size
    resize_size: Size
    target_size: Size
    crop_left: int
    crop_top: int

    @property
    def crop_box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in the scaled image, as Pillow's `crop` takes it."""
        width, height = self.target_size
        return self.crop_left, self.crop_top, self.crop_left + width, self.crop_top + height

    @property
    def crop_coords_top_left(self) -> tuple[int, int]:
        """(top, left), the order of SDXL."""
        return self.crop_top, self.crop_left

    @property
    def time_ids(self) -> tuple[int, int, int, int, int, int]:
        """SDXL's micro-conditioning as its UNet takes it: `original_size`, `crop_coords_top_left` and `target_size`,
        each with its vertical number first."""
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
    """How to scale and crop one image.

    The side that decides the scale becomes exactly the target's. The other is rounded to the nearest pixel, halves up,
    which is never below the target.

    ```python
    fit((4000, 3000), (704, 512)).resize_size  # (704, 528)
    ```

    Args:
        original_size: (width, height) of the image, in pixels.
        target_size: (width, height) of its bucket, in pixels.
        crop: `"center"` crops the middle; of an odd margin the larger part is at the right and the bottom. `"random"`
            crops anywhere with equal probability.
        seed: of a random crop. The same `seed`, `epoch` and `id` give the same crop on every machine.
        epoch: of a random crop.
        id: the image's id in the map; required for a random crop.

    Raises:
        UsageError: if a size is not two integers >= 1, or a random crop has no `id`.
    """
    width, height = _size("original_size", original_size)
    target_width, target_height = _size("target_size", target_size)
    across, down = width * target_height, height * target_width
    if across >= down:  # the image is wider than the target: its height decides
        resize_width, resize_height = _nearest(across, height), target_height
    else:
        resize_width, resize_height = target_width, _nearest(down, width)
    spare_width, spare_height = resize_width - target_width, resize_height - target_height
    if crop == "center":
        left, top = spare_width // 2, spare_height // 2
    elif crop == "random":
        if id is None:
            raise UsageError("id must be the image's id: a random crop depends on (seed, epoch, id)")
        word = _word(whole("seed", seed), whole("epoch", epoch), id)
        # one of the two margins is always 0; 64 bits over a few thousand pixels leave no bias worth mentioning
        left, top = word % (spare_width + 1), word % (spare_height + 1)
    else:
        raise UsageError(f"crop must be 'center' or 'random', got {crop!r}")
    return Fit((width, height), (resize_width, resize_height), (target_width, target_height), left, top)


def _size(name: str, size: Sequence[int]) -> Size:
    if isinstance(size, (str, bytes)) or not hasattr(size, "__len__") or len(size) != 2:
        raise UsageError(f"{name} must be (width, height), got {size!r}")
    return whole(f"{name}: width", size[0], 1), whole(f"{name}: height", size[1], 1)


def _nearest(dividend: int, divisor: int) -> int:
    return (2 * dividend + divisor) // (2 * divisor)


def _word(seed: int, epoch: int, id: int | str) -> int:
    """64 bits from the three. The ids 7 and "7" are two images."""
    named = f"{seed}/{epoch}/{'s' if isinstance(id, str) else 'i'}{id}"
    return int.from_bytes(hashlib.blake2b(named.encode(), digest_size=8).digest(), "big")
