from __future__ import annotations

import json

import numpy as np

from bucketline_service.maps.numeric_columns import MAX_SIDE_PX
from bucketline_service.maps.size_histogram import SIZE_EDGES_PX, SizeHistogram


def counted(sizes: list[tuple[int, int]]) -> dict:
    histogram = SizeHistogram()
    widths, heights = np.array(sizes, np.uint32).T
    half = len(sizes) // 2
    histogram.add(widths[:half], heights[:half])
    histogram.add(widths[half:], heights[half:])
    shown = histogram.as_json()
    assert json.loads(json.dumps(shown)) == shown
    return shown


def test_every_image_is_in_one_bin_whatever_its_size() -> None:
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (1, MAX_SIDE_PX), (MAX_SIDE_PX, 1), (MAX_SIDE_PX, MAX_SIDE_PX)]
    sizes += [tuple(size) for size in rng.integers(1, 5000, (1000, 2)).tolist()]
    shown = counted(sizes)
    assert sum(map(sum, shown["size"]["num_images"])) == len(sizes)
    assert sum(shown["aspect"]["num_images"]) == len(sizes)
    assert len(shown["aspect"]["edges"]) == len(shown["aspect"]["num_images"]) + 1
    assert shown["width"] == shown["height"] == {"min_px": 1, "max_px": MAX_SIDE_PX}


def test_axes_are_width_then_height() -> None:
    shown = counted([(640, 480), (640, 480), (100, 2000)])
    assert shown["size"]["axes"] == ["width", "height"]
    i, j = SIZE_EDGES_PX.index(640), SIZE_EDGES_PX.index(384)
    assert shown["size"]["num_images"][i][j] == 2
    assert shown["width"] == {"min_px": 100, "max_px": 640}
    assert shown["height"] == {"min_px": 480, "max_px": 2000}
    aspects = shown["aspect"]
    bin_of_4_3 = next(k for k, edge in enumerate(aspects["edges"]) if edge > 640 / 480) - 1
    assert aspects["num_images"][bin_of_4_3] == 2
    assert aspects["num_images"][0] == 1  # 1:20 lies beyond the last edge


def test_a_square_is_in_the_middle() -> None:
    aspects = counted([(512, 512), (7, 7)])["aspect"]["num_images"]
    assert aspects[len(aspects) // 2] == 2
