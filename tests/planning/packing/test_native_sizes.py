"""Native sizes: whole cells, nothing is scaled up, and the least crop near the largest size."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import bucketline_service
from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets.ladder_generators import MAX_SIDE
from bucketline_service.planning.geometry import cover_each, crop_loss
from bucketline_service.planning.packing.native_sizes import NativeSizes

COCO = Path(bucketline_service.__file__).parent / "data" / "coco-5k.csv"
MEGAPIXEL = NativeSizes(1 << 20, 16)

cells = st.sampled_from([1, 7, 8, 14, 16, 32, 100])
side = st.one_of(
    st.integers(1, 4000),
    st.builds(lambda n, off: max(1, 16 * n + off), st.integers(1, 200), st.integers(-1, 1)),
    st.integers(1, 2**31 - 1),
)
images = st.lists(st.tuples(side, side), min_size=1, max_size=20).map(lambda rows: np.array(rows).T)


@st.composite
def rules(draw):
    divisible = draw(cells)
    most = draw(st.sampled_from([16 * divisible**2, 1 << 20, MAX_SIDE**2]))
    return NativeSizes.of(draw(st.integers(divisible**2, max(most, divisible**2))), divisible)


def largest(rule, width, height):
    """The largest size in cells, by integers of any length: both sides of the image at most ``max_pixels``, cut to
    cells."""
    if width * height > rule.max_pixels:
        return tuple(
            math.isqrt(rule.max_pixels * one // other) // rule.divisible
            for one, other in ((width, height), (height, width))
        )
    return width // rule.divisible, height // rule.divisible


def has_a_size(rule, width, height):
    across, down = largest(rule, width, height)
    return min(across, down) > 0 and max(across, down) * rule.divisible <= MAX_SIDE


def crop(width, height, across, down):
    ratio = Fraction(width, height) / Fraction(across, down)
    return 1 - min(ratio, 1 / ratio)


@given(rules(), images)
@example(NativeSizes(MAX_SIDE**2, 1), np.array([[2**31 - 1, 2**31 - 1], [2**31 - 1, 1]]).T)
@example(NativeSizes(MAX_SIDE**2, 16), np.array([[2**31 - 1, 2**15], [2**31 - 1, 2**16]]).T)
def test_the_crop_is_the_least_of_all_sizes_within_two_cells_of_the_largest(rule, sides):
    found = np.stack(rule.sizes(*sides), axis=1)
    for (width, height), size in zip(sides.T.tolist(), found.tolist(), strict=True):
        if not has_a_size(rule, width, height):
            assert size == [0, 0]
            continue
        across, down = largest(rule, width, height)
        offered = product(range(max(across - 2, 1), across + 1), range(max(down - 2, 1), down + 1))
        least = min(crop(width, height, *each) for each in offered)
        assert float(crop(width, height, *size)) == pytest.approx(float(least), abs=1e-12)
        assert across - 2 <= size[0] // rule.divisible <= across
        assert down - 2 <= size[1] // rule.divisible <= down


@given(rules(), images)
def test_nothing_is_scaled_up_and_the_aspect_is_kept_to_less_than_a_cell(rule, sides):
    found = np.stack(rule.sizes(*sides), axis=1)
    assert (found % rule.divisible == 0).all()
    assert (found.prod(axis=1) <= rule.max_pixels).all()
    has_size = found[:, 0] > 0
    assert (has_size == (found[:, 1] > 0)).all()
    sides, found = sides.T[has_size], found[has_size]
    # covering the size takes no more pixels than the image has
    assert (cover_each(sides, found).resize_sizes <= sides).all()
    # the largest size loses less than a cell of either side, so the one with the least crop does as well
    shortest = np.array([min(largest(rule, *each)) for each in sides.tolist()])
    assert (crop_loss(*sides.T, *found.T) <= 1 / (shortest + 1) + 1e-12).all()


@given(rules(), images)
def test_an_image_on_its_side_has_the_same_size_on_its_side(rule, sides):
    width, height = rule.sizes(*sides)
    np.testing.assert_array_equal(rule.sizes(sides[1], sides[0]), (height, width))


def test_of_sizes_without_crop_it_is_the_largest():
    np.testing.assert_array_equal(
        MEGAPIXEL.sizes(np.array([100, 640]), np.array([100, 480])), [[96, 640], [96, 480]]
    )


def test_an_image_that_is_less_than_a_cell_has_no_size():
    across, down = MEGAPIXEL.sizes(np.array([15, 16, 4000, 4096]), np.array([15, 16, 15, 1]))
    assert across.tolist() == [0, 16, 0, 0]
    assert down.tolist() == [0, 16, 0, 0]
    # 10**6 x 16 scaled to 2**20 pixels is 4 pixels high
    np.testing.assert_array_equal(MEGAPIXEL.sizes(np.array([10**6]), np.array([16])), [[0], [0]])


def test_coco_is_cropped_by_a_quarter_of_a_percent():
    widths, heights = np.loadtxt(COCO, dtype=np.int64, delimiter=",", skiprows=1, usecols=(1, 2)).T
    sizes = MEGAPIXEL.sizes(widths, heights)
    assert crop_loss(widths, heights, *sizes).mean() == pytest.approx(0.00247, abs=1e-5)
    floored = widths // 16 * 16, heights // 16 * 16
    assert crop_loss(widths, heights, *floored).mean() == pytest.approx(0.01416, abs=1e-5)


def test_tokens_are_cells_of_frames():
    widths, heights = np.array([640, 16]), np.array([480, 16])
    assert MEGAPIXEL.tokens(widths, heights).tolist() == [1200, 1]
    frames = np.array([1, 9], dtype=np.uint32)
    assert MEGAPIXEL.tokens(widths, heights, frames).tolist() == [1200, 9]
    assert MEGAPIXEL.tokens(widths, heights, frames, frame_stride=4).tolist() == [1200, 3]


@pytest.mark.parametrize(
    ("max_pixels", "divisible", "field"),
    [
        (1 << 20, 0, "ladder.divisible"),
        (1 << 20, 16.0, "ladder.divisible"),
        (255, 16, "ladder.max_pixels"),
        (MAX_SIDE**2 + 1, 16, "ladder.max_pixels"),
        (1e6, 16, "ladder.max_pixels"),
        (True, 1, "ladder.max_pixels"),
    ],
)
def test_a_bound_that_is_out_of_range_is_named(max_pixels, divisible, field):
    with pytest.raises(Invalid) as caught:
        NativeSizes.of(max_pixels, divisible)
    assert caught.value.field == field


def test_the_bounds_themselves_are_allowed():
    assert NativeSizes.of(256, 16) == (256, 16)
    assert NativeSizes.of(MAX_SIDE**2, 16) == (MAX_SIDE**2, 16)
