"""The geometric and preset ladders: what others publish is what we make."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets import ladder_generators
from bucketline_service.planning.buckets.assignment import assign
from bucketline_service.planning.buckets.ladder_generators import MAX_SIDE
from bucketline_service.planning.buckets.preset_ladders import PRESETS, preset

# geometric


def published_geometric(min_ar, max_ar, num, resolution, multiple):
    """diffusion-pipe's ``dedup_and_sort`` and ``round_to_nearest_multiple``, on its geomspace, as it calls them."""
    if not isinstance(resolution, int):
        resolution = round(math.sqrt(resolution[0] * resolution[1]), 3)
    buckets = []
    for aspect in sorted({round(each, 3) for each in np.geomspace(min_ar, max_ar, num=num)}):
        width = math.sqrt(resolution**2 * aspect)
        height = resolution**2 / width
        buckets.append((float(aspect), [int(round(side / multiple) * multiple) for side in (width, height)]))
    return buckets


aspects = st.floats(0.1, 10)
resolutions = st.one_of(st.integers(400, 2048), st.tuples(st.integers(400, 2048), st.integers(400, 2048)))


@given(
    first=aspects,
    second=aspects,
    num=st.integers(1, 60),
    resolution=resolutions,
    multiple=st.sampled_from([8, 16, 32, 64]),
)
def test_geometric_is_the_published_list(first, second, num, resolution, multiple):
    low, high = sorted((first, second))
    made = ladder_generators.geometric(low, high, num, resolution, multiple)
    expected = published_geometric(low, high, num, resolution, multiple)
    assert made.aspects.tolist() == [aspect for aspect, _ in expected]
    assert [list(size) for size in made.sizes] == [size for _, size in expected]
    assert np.all(np.diff(made.aspects) > 0)
    assert np.all(np.diff(made.widths / made.heights) >= 0)
    area = resolution**2 if isinstance(resolution, int) else resolution[0] * resolution[1]
    for aspect, width, height in zip(made.aspects, made.widths, made.heights, strict=True):
        assert width % multiple == height % multiple == 0
        assert abs(width - math.sqrt(area * aspect)) <= multiple / 2 + 0.01
        assert abs(height - math.sqrt(area / aspect)) <= multiple / 2 + 0.01
    assert made.base in made.sizes


def test_geometric_is_the_example_of_diffusion_pipe():
    made = ladder_generators.geometric()
    assert made.aspects.tolist() == [0.5, 0.63, 0.794, 1, 1.26, 1.587, 2]
    assert made.sizes == [(352, 736), (416, 640), (448, 576), (512, 512), (576, 448), (640, 416), (736, 352)]
    assert made.base == (512, 512)
    assert ladder_generators.geometric(base_res=512).sizes == made.sizes


def test_geometric_assigns_by_the_aspects_before_rounding():
    """At 0.7 the nearer of 0.63 and 0.794 is 0.63; the nearer of 416 / 640 = 0.65 and 448 / 576 = 0.78 too, but at 0.71
    the two differ."""
    made = ladder_generators.geometric()
    by_size = ladder_generators.explicit(made.sizes)
    width, height = np.array([710]), np.array([1000])
    assert assign(width, height, made).buckets[0] == 2
    assert assign(width, height, by_size).buckets[0] == 1


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_geometric_assigns_as_diffusion_pipe_does(width, height):
    made = ladder_generators.geometric(0.4, 2.5, 9)
    errors = np.abs(np.log(width / height) - np.log(made.aspects))
    assume(
        np.partition(errors, 1)[1] - errors.min() > 1e-9
    )  # not on an edge, where the logarithm's last bit decides
    assert assign(np.array([width]), np.array([height]), made).buckets[0] == errors.argmin()


def test_geometric_keeps_two_aspects_of_one_size_apart():
    made = ladder_generators.geometric(0.98, 1.02, 3, 512, 64)
    assert made.sizes == [(512, 512)] * 3
    assert len(ladder_generators.geometric(1.0, 1.0, 5)) == 1


# presets


@pytest.mark.parametrize(
    ("name", "num", "step", "area"),
    [
        ("sd15", 17, 64, 512 * 512),
        ("sdxl", 40, 64, 1024 * 1024),
        ("pixart-512", 40, 32, 512 * 512),
        ("pixart-1024", 40, 64, 1024 * 1024),
    ],
)
def test_presets_have_their_published_properties(name, num, step, area):
    made = preset(name)
    assert len(made) == num
    assert np.all(made.widths % step == 0)
    assert np.all(made.heights % step == 0)
    assert (made.widths * made.heights).max() == area
    assert (made.widths * made.heights).min() >= (0.78 if name == "sd15" else 0.9) * area
    assert np.all(np.diff(made.aspects) > 0)
    assert np.array_equal(made.aspects, made.widths / made.heights)
    side = math.isqrt(area)
    assert made.base == (side, side)


def test_every_preset_is_tested():
    assert set(PRESETS) == {"sd15", "sdxl", "pixart-512", "pixart-1024"}


# height / width as the table of SDXL's appendix I and the keys of PixArt's tables print it, to two decimals
PUBLISHED_RATIOS = (
    *(
        0.25,
        0.26,
        0.27,
        0.28,
        0.32,
        0.33,
        0.35,
        0.4,
        0.42,
        0.48,
        0.5,
        0.52,
        0.57,
        0.6,
        0.68,
        0.72,
        0.78,
        0.82,
    ),
    *(0.88, 0.94, 1.0, 1.07, 1.13, 1.21, 1.29, 1.38, 1.46, 1.67, 1.75, 2.0, 2.09, 2.4, 2.5, 2.89, 3.0, 3.11),
    *(3.62, 3.75, 3.88, 4.0),
)


@pytest.mark.parametrize("name", ["sdxl", "pixart-512", "pixart-1024"])
def test_presets_are_turned_to_width_and_height(name):
    """Its one size without a transpose tells the axes apart: the table has height 704, width 1344, and 0.52."""
    made = preset(name)
    ratios = sorted((made.heights / made.widths).tolist())
    assert ratios == pytest.approx(PUBLISHED_RATIOS, abs=0.0101)  # some are cut, not rounded
    scale = made.base[0] // 512
    wide = (672 * scale, 352 * scale)
    assert {size for size in made.sizes if size[::-1] not in made.sizes} == {wide}


def test_sdxl_and_pixart_1024_are_the_same_sizes():
    assert preset("sdxl").sizes == preset("pixart-1024").sizes


def test_sd15_is_kohyas_default():
    assert preset("sd15").sizes == ladder_generators.kohya().sizes


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ladder_generators.geometric(0), "ladder.min_ar"),
        (lambda: ladder_generators.geometric(0.0004), "ladder.min_ar"),
        (lambda: ladder_generators.geometric("0.5"), "ladder.min_ar"),
        (lambda: ladder_generators.geometric(True), "ladder.min_ar"),
        (lambda: ladder_generators.geometric(max_ar=math.inf), "ladder.max_ar"),
        (lambda: ladder_generators.geometric(max_ar=math.nan), "ladder.max_ar"),
        (lambda: ladder_generators.geometric(2.0, 0.5), "ladder.max_ar"),
        (lambda: ladder_generators.geometric(num_ar_buckets=0), "ladder.num_ar_buckets"),
        (lambda: ladder_generators.geometric(num_ar_buckets=4097), "ladder.num_ar_buckets"),
        (lambda: ladder_generators.geometric(num_ar_buckets=7.0), "ladder.num_ar_buckets"),
        (lambda: ladder_generators.geometric(base_res=(512,)), "ladder.base_res"),
        (lambda: ladder_generators.geometric(base_res=10), "ladder.base_res"),
        (lambda: ladder_generators.geometric(0.001, 1000, base_res=MAX_SIDE), "ladder.base_res"),
        (lambda: ladder_generators.geometric(divisible=0), "ladder.divisible"),
        (lambda: preset("sd3"), "ladder.name"),
    ],
)
def test_what_can_not_be_used_is_named(make, field):
    with pytest.raises(Invalid) as caught:
        make()
    assert caught.value.field == field
    assert "Use" in str(caught.value) or "Give" in str(caught.value)
