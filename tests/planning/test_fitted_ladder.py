"""The fitted ladder: of all sizes that may be chosen, those that lose the least by cropping."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets import ladder_generators
from bucketline_service.planning.buckets.assignment import assign
from bucketline_service.planning.buckets.fitted_ladder import (
    MAX_CANDIDATES,
    candidates,
    choose,
    fitted,
    histogram,
)
from bucketline_service.planning.buckets.preset_ladders import preset
from bucketline_service.planning.geometry import crop_loss

SMALL_GRID = {"max_size": (512, 320), "divisible": 64, "min_dim": 192, "dim_limit": 640}
sides = st.integers(1, 2000)
aspects = st.floats(0.1, 10)
images = st.lists(st.tuples(sides, sides), min_size=1, max_size=30).map(lambda rows: np.array(rows).T)
grids = st.fixed_dictionaries(
    {
        "max_size": st.tuples(st.integers(256, 1024), st.integers(256, 1024)),
        "divisible": st.sampled_from([16, 32, 48, 64]),
        "min_dim": st.integers(1, 256),
        "dim_limit": st.integers(256, 1500),
        "min_fill": st.floats(0, 1),
    }
)


def total_loss(made, widths, heights):
    """As served: assigned by the log metric, and cropped."""
    buckets = assign(widths, heights, made).buckets
    return float(crop_loss(widths, heights, made.widths[buckets], made.heights[buckets]).sum())


def all_sizes(max_size, divisible, min_dim, dim_limit, min_fill):
    """Every size that may be a bucket, tried one by one."""
    area = max_size[0] * max_size[1]
    multiples = [side for side in range(min_dim, dim_limit + 1) if side % divisible == 0]
    allowed = {(w, h) for w in multiples for h in multiples if w * h <= area}

    def longest(w, h):
        return (w + divisible, h) not in allowed or (w, h + divisible) not in allowed

    return {size for size in allowed if size[0] * size[1] >= min_fill * area or longest(*size)}


def grid_is_usable(grid):
    step = grid["divisible"]
    low = -(-grid["min_dim"] // step) * step
    return low <= grid["dim_limit"] and low**2 <= grid["max_size"][0] * grid["max_size"][1]


def largest_of_each_aspect(grid):
    """Those of ``all_sizes`` that are chosen from, by aspect."""
    largest = {}
    for width, height in all_sizes(**grid):
        reduced = (width // math.gcd(width, height), height // math.gcd(width, height))
        largest[reduced] = max(largest.get(reduced, (0, 0)), (width, height))
    return sorted(largest.values(), key=lambda size: size[0] / size[1])


# one size more than there may be
TOO_FINE = {"max_size": (725, 750), "divisible": 16, "min_dim": 1, "dim_limit": 976, "min_fill": 0.0}


@given(grids)
@example(TOO_FINE)
@example({**TOO_FINE, "max_size": (725, 749)})
def test_candidates_are_the_largest_of_each_aspect_unless_they_are_too_many(grid):
    assume(grid_is_usable(grid))
    expected = largest_of_each_aspect(grid)
    if len(expected) <= MAX_CANDIDATES:
        assert [tuple(size) for size in candidates(**grid).tolist()] == expected
        return
    with pytest.raises(Invalid, match=f"leaves {len(expected)} sizes") as caught:
        candidates(**grid)
    assert caught.value.field == "ladder.divisible"


@given(images, st.integers(1, 3), st.floats(0, 1))
def test_fitted_is_the_best_of_all_ladders(sizes, num_buckets, min_fill):
    widths, heights = sizes
    grid = {**SMALL_GRID, "min_fill": min_fill}
    made = fitted(widths, heights, num_buckets, **grid)
    # [M, N] crop loss of every image in every size; an image is in the size that loses least
    losses = np.stack([crop_loss(widths, heights, *size) for size in candidates(**grid).tolist()])
    ladders = combinations(range(len(losses)), min(num_buckets, len(losses)))
    least = min(losses[list(chosen)].min(axis=0).sum() for chosen in ladders)
    assert total_loss(made, widths, heights) == pytest.approx(least, abs=1e-9)


@given(images, st.lists(aspects, min_size=1, max_size=12, unique=True), st.integers(1, 12))
def test_choosing_is_exact_for_any_aspects(sizes, offered, num_buckets):
    """Without the grid, against every choice; the losses from the definition."""
    offered = np.sort(offered)
    ratios = sizes[0] / sizes[1]

    def loss(chosen):
        quotients = ratios[:, np.newaxis] / offered[list(chosen)]
        return (1 - np.minimum(quotients, 1 / quotients).max(axis=1)).sum()

    chosen = choose(histogram(*sizes), offered, num_buckets)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= num_buckets
    least = min(loss(each) for each in combinations(range(len(offered)), min(num_buckets, len(offered))))
    assert loss(chosen) == pytest.approx(least, abs=1e-9)


@given(images, grids, st.integers(1, 40))
@example(np.array([[1], [1]]), TOO_FINE, 1)
def test_fitted_keeps_its_bounds(sizes, grid, num_buckets):
    assume(grid_is_usable(grid))
    offered = largest_of_each_aspect(grid)
    if len(offered) > MAX_CANDIDATES:
        with pytest.raises(Invalid, match=f"leaves {len(offered)} sizes"):
            fitted(*sizes, num_buckets, **grid)
        return
    made = fitted(*sizes, num_buckets, **grid)
    assert 1 <= len(made) <= num_buckets
    for axis in (made.widths, made.heights):
        assert np.all(axis % grid["divisible"] == 0)
        assert axis.min() >= grid["min_dim"]
        assert axis.max() <= grid["dim_limit"]
    assert (made.widths * made.heights).max() <= grid["max_size"][0] * grid["max_size"][1]
    assert np.all(np.diff(made.aspects) > 0)
    assert made.base in made.sizes
    assert set(made.sizes) <= set(offered)


@given(images)
def test_fitted_is_never_worse_than_a_published_ladder_at_its_bounds(sizes):
    for known, grid in (
        (preset("sdxl"), {"max_size": (1024, 1024), "min_dim": 512, "dim_limit": 2048}),
        (preset("pixart-512"), {"max_size": (512, 512), "divisible": 32}),
        (preset("sd15"), {"max_size": (512, 512)}),
        (ladder_generators.novelai(base_res=(768, 512)), {}),
    ):
        made = fitted(*sizes, len(known), **grid)
        assert total_loss(made, *sizes) <= total_loss(known.by_aspect(), *sizes) + 1e-9


@given(images, st.integers(1, 10))
def test_one_more_bucket_is_never_worse_and_gains_no_more_than_the_last(sizes, num):
    losses = [total_loss(fitted(*sizes, k, **SMALL_GRID), *sizes) for k in (num, num + 1, num + 2)]
    gains = -np.diff(losses)
    assert gains.min() >= -1e-9
    assert gains[1] <= gains[0] + 1e-9


@given(images, st.randoms(use_true_random=False))
def test_fitted_does_not_depend_on_the_order_of_the_images_or_their_type(sizes, random):
    shuffled = list(range(sizes.shape[1]))
    random.shuffle(shuffled)
    again = sizes[:, shuffled].astype(np.uint32)
    assert fitted(*again, 5).sizes == fitted(*sizes, 5).sizes == fitted(*sizes.astype(np.uint16), 5).sizes


def test_more_buckets_than_are_of_use_are_not_made():
    widths, heights = np.array([640, 640, 480]), np.array([480, 480, 640])
    made = fitted(widths, heights, 4096, (1024, 1024), dim_limit=2048)
    assert made.sizes == [(768, 1024), (1024, 768)]
    assert len(fitted(np.array([512]), np.array([512]), 16, (1024, 1024), dim_limit=2048)) == 1


def test_of_equal_ladders_it_is_the_narrower():
    """1:1 lies in the middle between the two sizes that there are."""
    made = fitted(np.array([100]), np.array([100]), 1, (384, 256), 128, 256, 384, min_fill=1)
    assert candidates((384, 256), 128, 256, 384, 1).tolist() == [[256, 384], [384, 256]]
    assert made.sizes == [(256, 384)]


def test_chunks_make_the_same_histogram(monkeypatch):
    monkeypatch.setattr("bucketline_service.planning.chunked_passes.CHUNK", 7)
    rng = np.random.default_rng(0)
    widths, heights = rng.integers(1, 30, (2, 500))
    aspects, counts = np.unique(widths / heights, return_counts=True)
    made = histogram(widths, heights)
    assert np.array_equal(made.aspects, aspects)
    assert np.array_equal(made.counts, counts)


def test_an_extreme_image_spoils_nothing():
    widths = np.array([1, 2**31 - 1] + [640] * 100)
    heights = np.array([2**31 - 1, 1] + [480] * 100)
    assert (640, 480) in fitted(widths, heights, 3, (640, 480), 32).sizes


def test_no_image_is_an_error():
    with pytest.raises(ValueError, match="no image"):
        fitted(np.empty(0, dtype=int), np.empty(0, dtype=int))


ONE = np.array([1])


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: fitted(ONE, ONE, 0), "ladder.num_buckets"),
        (lambda: fitted(ONE, ONE, 4097), "ladder.num_buckets"),
        (lambda: fitted(ONE, ONE, True), "ladder.num_buckets"),
        (lambda: fitted(ONE, ONE, max_size=(200, 200)), "ladder.max_size"),
        (lambda: fitted(ONE, ONE, max_size=512), "ladder.max_size"),
        (lambda: fitted(ONE, ONE, divisible=0), "ladder.divisible"),
        (lambda: fitted(ONE, ONE, divisible=1), "ladder.divisible"),
        (lambda: fitted(ONE, ONE, 4, (65_536, 65_536), 1, 1, 65_536, 0), "ladder.divisible"),
        (lambda: fitted(ONE, ONE, min_dim=-1), "ladder.min_dim"),
        (lambda: fitted(ONE, ONE, min_dim=512, dim_limit=500), "ladder.dim_limit"),
        (lambda: fitted(ONE, ONE, min_dim=300, dim_limit=310), "ladder.dim_limit"),
        (lambda: fitted(ONE, ONE, dim_limit=32), "ladder.dim_limit"),
        (lambda: fitted(ONE, ONE, min_fill=1.1), "ladder.min_fill"),
        (lambda: fitted(ONE, ONE, min_fill=True), "ladder.min_fill"),
        (lambda: fitted(ONE, ONE, min_fill=math.nan), "ladder.min_fill"),
    ],
)
def test_what_can_not_be_used_is_named(make, field):
    with pytest.raises(Invalid) as caught:
        make()
    assert caught.value.field == field
    assert "Use" in str(caught.value) or "Give" in str(caught.value)


def test_the_hint_of_a_grid_that_is_too_fine_is_true():
    assert len(candidates((1024, 1024), 16, 256, 2048, 0.75)) <= MAX_CANDIDATES
