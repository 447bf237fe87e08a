"""Ladders by name: tables of sizes as others published them.

Sizes here are (width, height) in pixels; those of SDXL and PixArt are published as (height, width), and turned here.
Images are assigned as with every other ladder. (PixArt itself takes the nearest height / width by difference.)
"""

from __future__ import annotations

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets.ladder_generators import Ladder, Size, explicit

_SD15 = (
    *((256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640), (448, 576)),
    (512, 512),
    *((576, 448), (640, 384), (704, 320), (768, 320), (832, 256), (896, 256), (960, 256), (1024, 256)),
)
"""Stable Diffusion 1.5 was trained on squares of 512 x 512 only, and no table was published with it. This is what
kohya-ss/sd-scripts makes of its defaults for fine-tuning it (``make_bucket_resolutions((512, 512), 256, 1024, 64)`` in
library/model_util.py): 17 sizes of at most 512 x 512 pixels."""

_SDXL = (
    *((2048, 512), (1984, 512), (1920, 512), (1856, 512), (1792, 576), (1728, 576), (1664, 576), (1600, 640)),
    *((1536, 640), (1472, 704), (1408, 704), (1344, 704), (1344, 768), (1280, 768), (1216, 832), (1152, 832)),
    *((1152, 896), (1088, 896), (1088, 960), (1024, 960)),
    (1024, 1024),
    *((960, 1024), (960, 1088), (896, 1088)),
    *((896, 1152), (832, 1152), (832, 1216), (768, 1280), (768, 1344), (704, 1408), (704, 1472), (640, 1536)),
    *((640, 1600), (576, 1664), (576, 1728), (576, 1792), (512, 1856), (512, 1920), (512, 1984), (512, 2048)),
)
"""SDXL (Podell et al. 2023, arXiv 2307.01952), appendix I: the 40 sizes of its multi-aspect training. The table has one
wide size, 1344 x 704, without its transpose."""

_PIXART_512 = (
    *((1024, 256), (992, 256), (960, 256), (928, 256), (896, 288), (864, 288), (832, 288), (800, 320)),
    *((768, 320), (736, 352), (704, 352), (672, 352), (672, 384), (640, 384), (608, 416), (576, 416)),
    *((576, 448), (544, 448), (544, 480), (512, 480), (512, 512), (480, 512), (480, 544), (448, 544)),
    *((448, 576), (416, 576), (416, 608), (384, 640), (384, 672), (352, 704), (352, 736), (320, 768)),
    *((320, 800), (288, 832), (288, 864), (288, 896), (256, 928), (256, 960), (256, 992), (256, 1024)),
)
"""PixArt-alpha, ``ASPECT_RATIO_512`` in diffusion/data/datasets/utils.py, which it trains with: 40 sizes. (The
``ASPECT_RATIO_512_BIN`` of diffusers is a part of it, for inference.)"""

_PIXART_1024 = tuple((2 * width, 2 * height) for width, height in _PIXART_512)
"""PixArt-alpha, ``ASPECT_RATIO_1024`` in the same file: twice the sides of ``ASPECT_RATIO_512``, size by size, and the
sizes of SDXL's table."""

PRESETS: dict[str, tuple[Size, ...]] = {
    "sd15": _SD15,
    "sdxl": _SDXL,
    "pixart-512": _PIXART_512,
    "pixart-1024": _PIXART_1024,
}


def preset(name: str) -> Ladder:
    """The ladder of that name, by aspect, then area; its base is the square. Raises ``Invalid`` for an unknown name."""
    if name not in PRESETS:
        raise Invalid("ladder.name", f"{name!r} is not known", f"Use one of {', '.join(PRESETS)}")
    return explicit(PRESETS[name])
