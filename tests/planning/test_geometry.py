from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline_service.planning.geometry import Fit, cover, cover_each, crop_loss

image_side = st.integers(1, 2**31 - 1)
target_side = st.integers(1, 65_536)


def test_a_wide_image_loses_at_its_sides():
    assert cover(2000, 1000, 512, 512) == Fit(1024, 512, 256, 0, 0.5)


def test_a_tall_image_loses_above_and_below():
    assert cover(1000, 2000, 512, 768) == Fit(512, 1024, 0, 128, 0.25)


def test_the_same_aspect_loses_nothing():
    assert cover(1536, 1024, 768, 512) == Fit(768, 512, 0, 0, 0.0)


def test_halves_are_rounded_up_and_the_odd_pixel_goes_right():
    assert cover(3, 2, 1, 1) == Fit(2, 1, 0, 0, 1 / 3)


@given(image_side, image_side, target_side, target_side)
def test_the_resized_image_covers_the_target_and_keeps_the_aspect(width, height, target_width, target_height):
    fit = cover(width, height, target_width, target_height)
    assert fit.resize_width >= target_width
    assert fit.resize_height >= target_height
    assert target_width == fit.resize_width or target_height == fit.resize_height
    scale = max(Fraction(target_width, width), Fraction(target_height, height))
    assert abs(fit.resize_width - width * scale) <= Fraction(1, 2)
    assert abs(fit.resize_height - height * scale) <= Fraction(1, 2)
    # the rest at the right and the bottom is what is cut at the left and the top, or one pixel more
    assert fit.resize_width - target_width - 2 * fit.crop_left in (0, 1)
    assert fit.resize_height - target_height - 2 * fit.crop_top in (0, 1)


@given(image_side, image_side, target_side, target_side)
def test_both_functions_give_the_exact_loss(width, height, target_width, target_height):
    image, target = Fraction(width, height), Fraction(target_width, target_height)
    exact = 1 - min(image, target) / max(image, target)
    loss = crop_loss(np.array([width]), np.array([height]), target_width, target_height)
    assert loss.dtype == np.float64
    assert loss[0] == float(exact)
    assert cover(width, height, target_width, target_height).crop_loss == float(exact)


CASES = json.loads((Path(__file__).parents[1] / "geometry_cases.json").read_text())


def test_the_table_of_cases_that_the_client_shares():
    sizes, targets, resized, corners = (np.array([case[name] for case in CASES]) for name in CASES[0])
    cuts = cover_each(sizes, targets)
    assert cuts.resize_sizes.tolist() == resized.tolist()
    assert cuts.crop_left_tops.tolist() == corners.tolist()


def test_the_loss_takes_targets_for_each_image_and_small_integers():
    widths, heights = np.array([60_000, 100], dtype=np.uint16), np.array([60_000, 200], dtype=np.uint16)
    assert crop_loss(widths, heights, np.array([512, 512]), np.array([512, 512])).tolist() == [0, 0.5]


@pytest.mark.parametrize("sides", [(0, 1, 1, 1), (1, -1, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)])
def test_sides_must_be_positive(sides):
    with pytest.raises(ValueError, match="positive"):
        cover(*sides)
