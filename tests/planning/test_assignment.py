from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets import ladder_generators as ladders
from bucketline_service.planning.buckets.assignment import assign
from bucketline_service.planning.buckets.ladder_generators import Ladder
from bucketline_service.planning.buckets.pruning import REASONS
from bucketline_service.planning.geometry import crop_loss

# few numbers, so that equal aspects and ties are common, and some of any size
small = st.integers(1, 12)
side = st.one_of(small, small.map(lambda n: n * 64), st.integers(1, 65_536))
size = st.tuples(side, side)
image = st.one_of(size, st.tuples(st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1)))
sizes_lists = st.lists(size, min_size=1, max_size=12, unique=True)
image_lists = st.lists(image, min_size=1, max_size=40)


def in_this_order(sizes):
    """A ladder in the order given, which is not that of the aspects: novelai's need not be either."""
    table = np.array(sizes, dtype=np.int64)
    return Ladder(table[:, 0], table[:, 1], table[:, 0] / table[:, 1], sizes[0])


def columns(images):
    table = np.array(images, dtype=np.int64)
    return table[:, 0], table[:, 1]


def nearest_by_ratio(width, height, sizes):
    """Exact: the least of max(a / b, b / a) in rational numbers, the first of several."""
    ratios = [Fraction(width * h, height * w) for w, h in sizes]
    return min(range(len(sizes)), key=lambda i: (max(ratios[i], 1 / ratios[i]), i))


@given(sizes_lists, image_lists)
@example([(1, 2), (2, 1)], [(1, 1)])  # equally far for log
@example([(2, 1), (1, 2)], [(1, 1), (5, 4)])  # … and for abs, in the other order
@example([(3, 4), (4, 3), (9, 16), (16, 9)], [(1, 1), (480, 480)])
@example([(1, 1), (2, 2), (3, 3)], [(1, 1), (7, 5)])
def test_log_is_the_exact_nearest_ratio(sizes, images):
    made = assign(*columns(images), in_this_order(sizes), metric="log")
    assert made.buckets.tolist() == [nearest_by_ratio(w, h, sizes) for w, h in images]
    assert made.buckets.dtype == np.int32
    assert made.reasons.dtype == np.uint8
    assert not made.reasons.any()


@given(sizes_lists, image_lists)
@example([(2, 1), (1, 2)], [(5, 4)])
@example([(1, 65_536), (1, 65_535)], [(2**31 - 1, 1), (1, 2**31 - 1)])  # differences rounded to one number
def test_abs_is_the_originals_argmin(sizes, images):
    ladder = in_this_order(sizes)
    widths, heights = columns(images)
    brute = np.abs(ladder.aspects - (widths / heights)[:, np.newaxis]).argmin(axis=1)
    assert assign(widths, heights, ladder, metric="abs").buckets.tolist() == brute.tolist()


@given(sizes_lists, image_lists, st.sampled_from(["log", "abs"]))
@example([(1, 1), (2, 2), (3, 3)], [(1, 1), (2, 2), (3, 3), (9, 9), (5, 2), (2, 3)], "log")
@example([(3, 2), (12, 8), (6, 4), (9, 6), (1, 1)], [(11, 8), (12, 8), (2, 1), (6, 4), (9, 5)], "abs")
@example([(65_535, 1), (32_768, 1), (65_536, 2)], [(2**31 - 1, 1), (2**31 - 1, 2), (40_000, 1)], "abs")
@example([(20_000, 1), (40_000, 2)], [(2**31 - 1, 1), (2**31 - 1, 2)], "abs")  # beyond all differences
def test_of_equal_aspects_it_is_the_largest_that_the_image_fills(sizes, images, metric):
    ladder = in_this_order(sizes)
    first = assign(*columns(images), ladder, metric=metric).buckets.tolist()
    made = assign(*columns(images), ladder, metric=metric, same_aspect="largest_filled").buckets
    assert made.dtype == np.int32
    for image, bucket, (w, h) in zip(images, made.tolist(), (sizes[bucket] for bucket in first), strict=True):
        same = sorted((size for size in sizes if size[0] * h == size[1] * w), key=math.prod)
        filled = [size for size in same if size[0] <= image[0] and size[1] <= image[1]]
        assert sizes[bucket] == (filled or same[:1])[-1]
        assert image not in same or sizes[bucket] == image


@pytest.mark.parametrize("metric", ["log", "abs"])
def test_of_novelais_two_buckets_of_aspect_1_one_need_not_be_square(metric):
    ladder = ladders.novelai((1024, 1024), 64, 256, 2048, (640, 512))
    at = {size: ladder.sizes.index(size) for size in [(640, 512), (1024, 1024)]}
    widths, heights = columns([(640, 640), (1024, 1024), (1000, 1000), (3000, 3000), (10, 10)])
    made = assign(widths, heights, ladder, metric=metric, same_aspect="largest_filled").buckets
    small, large = at.values()
    assert made.tolist() == [small, large, small, large, small]


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 8, 9, 100])
def test_every_one_of_many_equal_aspects_has_its_images(num):
    sides = 3 * np.arange(1, num + 1)
    ladder = in_this_order(
        [(2 * side, side) for side in np.random.default_rng(num).permutation(sides).tolist()]
    )
    images = 2 * (sides + 1), sides + 1  # all but one pixel of a side of the next
    made = assign(*images, ladder, same_aspect="largest_filled").buckets
    assert ladder.heights[made].tolist() == sides.tolist()


@pytest.mark.parametrize("metric", ["log", "abs"])
def test_every_edge_is_where_it_should_be_on_a_real_ladder(metric):
    ladder = ladders.novelai((768, 768), 64, 320, 1280, (640, 640))
    widths, heights = (a.reshape(-1) for a in np.meshgrid(np.arange(1, 400), np.arange(1, 400)))
    distance = np.abs(ladder.aspects - (widths / heights)[:, np.newaxis])
    if metric == "log":
        # rounded, so that the logarithm's last bits do not decide a tie
        distance = np.abs(np.log(ladder.aspects) - np.log(widths / heights)[:, np.newaxis]).round(12)
    assert np.array_equal(assign(widths, heights, ladder, metric=metric).buckets, distance.argmin(axis=1))


def test_log_treats_an_image_and_its_transpose_alike():
    ladder = ladders.explicit([(512, 1024), (512, 768), (512, 512), (768, 512), (1024, 512)])
    widths, heights = columns([(w, h) for w in range(1, 90) for h in range(1, 90) if w != h])
    limits = {"max_ar_error": 0.2, "max_crop_loss": 0.15, "min_size": 5}
    upright, lying = assign(widths, heights, ladder, **limits), assign(heights, widths, ladder, **limits)
    assert np.array_equal(upright.reasons, lying.reasons)


def test_max_ar_error_is_strict_and_absolute_for_abs():
    ladder = ladders.explicit([(512, 512)])
    widths, heights = columns([(5, 4), (3, 2), (2, 1), (1, 2), (1, 100)])
    made = assign(widths, heights, ladder, metric="abs", max_ar_error=0.5)
    assert made.buckets.tolist() == [0, -1, -1, -1, -1]
    assert assign(widths, heights, ladder, metric="abs", max_ar_error=1).buckets.tolist() == [0, 0, -1, 0, 0]


def test_max_ar_error_is_a_log_ratio_for_log():
    ladder = ladders.explicit([(512, 512)])
    widths, heights = columns([(5, 4), (4, 5), (2, 1), (1, 2), (3, 1)])
    made = assign(widths, heights, ladder, max_ar_error=0.7)  # ln 2 = 0.693
    assert made.buckets.tolist() == [0, 0, 0, 0, -1]
    assert assign(widths, heights, ladder, max_ar_error=1e300).buckets.tolist() == [0] * 5


@given(sizes_lists, image_lists, st.floats(0, 1), st.sampled_from(["log", "abs"]))
def test_max_crop_loss_prunes_what_loses_more(sizes, images, limit, metric):
    ladder = in_this_order(sizes)
    widths, heights = columns(images)
    kept = assign(widths, heights, ladder, metric=metric).buckets
    loss = crop_loss(widths, heights, ladder.widths[kept], ladder.heights[kept])
    made = assign(widths, heights, ladder, metric=metric, max_crop_loss=limit)
    assert made.buckets.tolist() == np.where(loss > limit, -1, kept).tolist()
    assert made.reasons.tolist() == np.where(loss > limit, REASONS.index("max_crop_loss"), 0).tolist()


def test_the_first_reason_that_holds_is_given():
    ladder = ladders.explicit([(512, 512)])
    widths, heights = columns([(10, 100), (10, 20), (10, 10), (64, 64)])
    made = assign(widths, heights, ladder, max_ar_error=1.0, max_crop_loss=0.25, min_size=64)
    assert [REASONS[code] for code in made.reasons] == [
        "max_ar_error",
        "max_crop_loss",
        "min_size",
        "assigned",
    ]
    assert made.buckets.tolist() == [-1, -1, -1, 0]


def test_many_rows_are_as_few():
    few = np.random.default_rng(0).integers(1, 3000, (2, 1000))
    ladder = ladders.kohya()
    one = assign(few[0], few[1], ladder, max_crop_loss=0.1)
    many = assign(np.tile(few[0], 300), np.tile(few[1], 300), ladder, max_crop_loss=0.1)
    assert np.array_equal(many.buckets, np.tile(one.buckets, 300))
    assert np.array_equal(many.reasons, np.tile(one.reasons, 300))


def test_no_rows_and_small_integers_will_do():
    none = np.zeros(0, dtype=np.uint32)
    assert len(assign(none, none, ladders.kohya()).buckets) == 0
    sides = np.array([640, 480], dtype=np.uint16)
    assert assign(sides, sides[::-1], ladders.kohya()).buckets.tolist() == [9, 7]


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"metric": "ratio"}, "assign.metric"),
        ({"max_ar_error": 0}, "assign.max_ar_error"),
        ({"max_ar_error": math.nan}, "assign.max_ar_error"),
        ({"max_ar_error": "4"}, "assign.max_ar_error"),
        ({"max_crop_loss": -0.1}, "assign.max_crop_loss"),
        ({"max_crop_loss": 1.1}, "assign.max_crop_loss"),
        ({"min_size": -1}, "assign.min_size"),
        ({"min_size": 1.5}, "assign.min_size"),
    ],
)
def test_limits_that_can_not_be_used_are_named(limits, field):
    with pytest.raises(Invalid) as caught:
        assign(*columns([(1, 1)]), ladders.kohya(), **limits)
    assert caught.value.field == field


def test_a_side_below_one_pixel_is_named_by_its_row():
    with pytest.raises(Invalid) as caught:
        assign(*columns([(1, 1), (640, 0), (-1, 5)]), ladders.kohya())
    assert caught.value.field == "row 1"
