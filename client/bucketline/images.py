"""Decoded images as a model takes them: three channels of eight bits. Needs Pillow, and imports it when it is called.

    from bucketline.images import to_rgb

    image = to_rgb(ImageOps.exif_transpose(Image.open(path)))

Pillow's own ``convert("RGB")`` cuts 16-bit grey off at 255, so that nearly all of it is white, and drops transparency,
which shows whatever colour lies hidden below it: mostly black.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ._errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

WHITE = (255, 255, 255)
MOST = 65535


def to_rgb(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """The image in mode ``RGB``; what is transparent lies on ``background``, (red, green, blue).

    16-bit grey (``I;16``, and ``I`` up to 65,535) is scaled: ``(value * 255 + 32767) // 65535``. ``UsageError`` for
    what has no such range: mode ``F``, and integers beyond it. Colour profiles are not applied.
    """
    from PIL import Image

    if image.mode == "F":
        raise UsageError(
            "image: mode F does not say which of its values are black and white: scale it to mode L"
        )
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Mode ``L``, or ``LA`` where a PNG names one grey as transparent."""
    clear = image.info.get("transparency")
    wide = image.convert("I")
    wide.info.pop("transparency", None)
    low, high = cast("tuple[int, int]", wide.getextrema())
    if low < 0 or high > MOST:
        raise UsageError(
            f"image: mode {image.mode} with values from {low} to {high}: scale it to 0 to {MOST} or to mode L"
        )
    # exact: no value comes nearer than 127 / 65535 to the next whole number
    grey = wide.point(lambda value: value * (255 / MOST) + 32767 / MOST).convert("L")
    if isinstance(clear, int):
        grey.putalpha(wide.point([0 if value == clear else 255 for value in range(MOST + 1)], "L"))
    return grey
