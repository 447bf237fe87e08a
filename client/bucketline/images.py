"""Decoded images as a model takes them: three channels of eight bits. Needs Pillow, imported when it is used.

```python
from bucketline.images import to_rgb

image = to_rgb(ImageOps.exif_transpose(Image.open(path)))
```

Pillow's own `convert("RGB")` clips 16-bit grey at 255, so that nearly all of it is white, and drops transparency, which
reveals whatever colour is hidden there: mostly black.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ._errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

WHITE = (255, 255, 255)
MAX_16_BIT = 65535


def to_rgb(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """The image in mode `RGB`.

    16-bit grey (`I;16`, and `I` up to 65,535) is scaled: `(value * 255 + 32767) // 65535`. Colour profiles are not
    applied.

    ```python
    image = to_rgb(Image.open("scan.png"), background=(0, 0, 0))
    ```

    Args:
        image: a Pillow image of any mode.
        background: (red, green, blue) beneath what is transparent.

    Raises:
        UsageError: for mode `F`, and for integers above 65,535 or below 0, which have no known range.
    """
    from PIL import Image

    if image.mode == "F":
        raise UsageError(
            "image: mode F does not define which of its values are black and white: scale it to mode L"
        )
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Mode ``L``, or ``LA`` if a PNG declares one grey as transparent."""
    transparent = image.info.get("transparency")
    wide = image.convert("I")
    wide.info.pop("transparency", None)
    low, high = cast("tuple[int, int]", wide.getextrema())
    if low < 0 or high > MAX_16_BIT:
        raise UsageError(
            f"image: mode {image.mode} with values from {low} to {high}: scale it to 0 to {MAX_16_BIT} or to mode L"
        )
    # exact in floating point: no value is closer than 127 / 65535 to the next integer
    grey = wide.point(lambda value: value * (255 / MAX_16_BIT) + 32767 / MAX_16_BIT).convert("L")
    if isinstance(transparent, int):
        grey.putalpha(
            wide.point([0 if value == transparent else 255 for value in range(MAX_16_BIT + 1)], "L")
        )
    return grey
