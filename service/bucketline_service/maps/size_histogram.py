"""The histogram of image sizes and aspect ratios in ``GET /v1/maps/{map}``. Its edges are fixed, so that maps can be
compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service.maps.numeric_columns import MAX_SIDE_PX

SIZE_EDGES_PX = (
    *(1, 64, 128, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048, 3072, 4096, 8192, 16384),
    MAX_SIDE_PX + 1,
)
ASPECT_STEPS_PER_OCTAVE = 8
"""Bins of an eighth of an octave, 9 % wide, one centred on 1:1: 4:3, 3:2 and 16:9 fall into different bins."""
ASPECT_OCTAVES = 2
_STEPS = ASPECT_STEPS_PER_OCTAVE * ASPECT_OCTAVES


class SizeHistogram:
    """Counts over chunks of rows."""

    def __init__(self) -> None:
        bins = len(SIZE_EDGES_PX) - 1
        self._sizes = np.zeros((bins, bins), np.int64)
        self._aspects = np.zeros(2 * _STEPS + 1, np.int64)
        self._min = np.full(2, MAX_SIDE_PX + 1, np.int64)
        self._max = np.zeros(2, np.int64)

    def add(self, widths: NDArray[np.uint32], heights: NDArray[np.uint32]) -> None:
        if not len(widths):
            return
        bins = len(SIZE_EDGES_PX) - 1
        edges = np.array(SIZE_EDGES_PX, np.uint32)
        across = np.searchsorted(edges, widths, side="right") - 1
        down = np.searchsorted(edges, heights, side="right") - 1
        self._sizes += np.bincount(across * bins + down, minlength=bins * bins).reshape(bins, bins)
        octaves = np.log2(widths.astype(np.float64) / heights)
        steps = np.clip(np.rint(octaves * ASPECT_STEPS_PER_OCTAVE), -_STEPS, _STEPS).astype(np.int64)
        self._aspects += np.bincount(steps + _STEPS, minlength=2 * _STEPS + 1)
        self._min = np.minimum(self._min, [widths.min(), heights.min()])
        self._max = np.maximum(self._max, [widths.max(), heights.max()])

    def as_json(self) -> dict[str, Any]:
        """``size.num_images[i][j]``: images with a width in [edges_px[i], edges_px[i + 1]) and a height in
        [edges_px[j], edges_px[j + 1]). ``aspect.num_images[k]``: width / height in [edges[k], edges[k + 1]);
        the first and the last bin include everything beyond."""
        steps = np.arange(-_STEPS, _STEPS + 2) - 0.5
        return {
            "width": {"min_px": int(self._min[0]), "max_px": int(self._max[0])},
            "height": {"min_px": int(self._min[1]), "max_px": int(self._max[1])},
            "size": {
                "axes": ["width", "height"],
                "edges_px": list(SIZE_EDGES_PX),
                "num_images": self._sizes.tolist(),
            },
            "aspect": {
                "axis": "width / height",
                "edges": [round(float(edge), 6) for edge in np.exp2(steps / ASPECT_STEPS_PER_OCTAVE)],
                "num_images": self._aspects.tolist(),
            },
        }
