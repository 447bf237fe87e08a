"""Pack kinds: within the budget, every slot can be filled, few images are left out, and the packs are few."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import linprog

from bucketline_service.planning.packing import pack_kinds
from bucketline_service.planning.packing.lengths import choose_lengths
from bucketline_service.planning.packing.pack_kinds import (
    ONE_LEFT_OUT_IN,
    first_fit_decreasing,
    fit_pack_kinds,
    generate_columns,
)
from tests.planning.packing.data import fitted, histograms, images_of

nums_of_lengths = st.integers(1, 8)


def check(packs, images):
    assert (packs.kinds >= 0).all()
    assert (packs.kinds @ packs.lengths <= packs.max_tokens).all()
    assert (packs.counts > 0).all()
    assert packs.counts @ packs.kinds == pytest.approx(packs.slots)
    # short slots hold short images only
    assert (np.cumsum(packs.slots) <= np.cumsum(images)).all()
    longer_images, longer_slots = np.cumsum(images[::-1]), np.cumsum(packs.slots[::-1])
    assert ((longer_images - longer_slots) * ONE_LEFT_OUT_IN <= longer_images).all()


@given(histograms(max_count=2000), nums_of_lengths)
@example((np.array([1, 2, 60]), np.array([100_000, 199, 1]), 64), 3)
# an integer programme that may have more slots than images would have some here
@example((np.array([7, 33]), np.array([108, 296]), 108), 8)
# slots of the linear programme that shorter images take
@example((np.array([6, 7, 8, 21]), np.array([1, 18, 8, 5]), 48), 8)
def test_slots_can_be_filled_and_one_in_200_of_any_length_or_longer_is_left_out_at_most(
    histogram, num_lengths
):
    packs, images = fitted(*histogram, num_lengths)
    assert packs.max_tokens == histogram[2]
    check(packs, images)


@given(histograms(), nums_of_lengths)
def test_packs_are_near_the_bound_of_the_linear_programme(histogram, num_lengths):
    packs, images = fitted(*histogram, num_lengths)
    _, used = generate_columns(images, packs.lengths, packs.max_tokens)
    # What rounding down leaves fits into as many packs as there are lengths, and first fit decreasing needs at most
    # 11 / 9 of the least and 6 / 9 more (Dósa, 2007). The integer programme begins with that.
    assert packs.num_packs <= used.sum() + 11 / 9 * len(packs.lengths) + 6 / 9 + 1e-6
    least = packs.slots @ packs.lengths / packs.max_tokens
    assert packs.num_packs >= math.ceil(least - 1e-9)


small = st.lists(st.integers(1, 12), min_size=1, max_size=4, unique=True).map(
    lambda each: np.array(sorted(each))
)


@given(small, st.lists(st.integers(0, 30), min_size=4, max_size=4), st.integers(0, 8))
def test_generated_columns_reach_the_optimum_over_all_packs(lengths, images, more):
    images = np.array(images[: len(lengths)])
    images[-1] += 1
    budget = int(lengths[-1]) + more
    found, used = generate_columns(images, lengths, budget)
    assert (found @ lengths <= budget).all()
    every = np.array(list(product(*(range(budget // each + 1) for each in lengths.tolist()))))
    every = every[every @ lengths <= budget]
    shorter = np.cumsum(every, axis=1).T
    best = linprog(
        np.ones(len(every)),
        A_ub=shorter[:-1] if len(lengths) > 1 else None,
        b_ub=np.cumsum(images)[:-1] if len(lengths) > 1 else None,
        A_eq=shorter[-1:],
        b_eq=[images.sum()],
    )
    assert used.sum() == pytest.approx(best.fun, rel=1e-6)


def test_the_search_for_kinds_ends_whatever_a_known_kind_is_said_to_be_worth(monkeypatch):
    """As a solver's rounding might have it."""
    lengths, images = np.array([3, 7, 11]), np.array([50, 30, 9])
    _, used = generate_columns(images, lengths, 40)
    monkeypatch.setattr(pack_kinds, "_NO_GAIN", -1.0)
    _, again = generate_columns(images, lengths, 40)
    assert again.sum() == pytest.approx(used.sum())


@given(histograms(), nums_of_lengths)
def test_a_histogram_gives_the_same_as_its_images_in_any_order(histogram, num_lengths):
    tokens, counts, budget = histogram
    images = np.random.default_rng(0).permutation(np.repeat(tokens, counts))
    one, _ = fitted(tokens, counts, budget, num_lengths)
    other, _ = fitted(images, np.ones_like(images), budget, num_lengths)
    for found, again in zip(vars(one).values(), vars(other).values(), strict=True):
        np.testing.assert_array_equal(found, again)


@given(histograms(), nums_of_lengths, st.sampled_from([10**4, 10**7]))
def test_the_number_of_images_does_not_matter(histogram, num_lengths, times):
    tokens, counts, budget = histogram
    packs, images = fitted(tokens, counts * times, budget, num_lengths)
    check(packs, images)
    # what rounding down leaves is a few packs of any number
    assert images.sum() - packs.slots.sum() <= 20 * budget


def test_kinds_are_distinct_and_those_with_the_longest_slots_come_first():
    tokens = np.arange(5, 60)
    packs, _ = fitted(tokens, np.full(len(tokens), 37), 100, 6)
    rows = packs.kinds[:, ::-1].tolist()
    assert rows == sorted(rows, reverse=True)
    assert len({tuple(row) for row in rows}) == len(rows) > 3


def test_a_short_image_takes_a_long_slot_where_that_saves_a_pack():
    """Two of 6 fill a pack of 12. The 5 of an odd one stands in a slot of 6."""
    packs = fit_pack_kinds(np.array([1, 1]), np.array([5, 6]), 12)
    assert packs.num_packs == 1
    images = np.array([5, 3])
    kinds, used = generate_columns(images, np.array([4, 6]), 12)
    # 4 + 4 + 4 and 6 + 6: without the freedom 5 / 3 + 3 / 2 packs, and with it no fewer; but whole packs are fewer
    assert used.sum() == pytest.approx(19 / 6)
    assert (kinds @ np.array([4, 6]) <= 12).all()


def test_no_image_is_left_out_where_there_are_fewer_than_200():
    images = np.array([61, 31, 7])
    packs = fit_pack_kinds(images, np.array([30, 40, 60]), 100)
    assert packs.slots.sum() == images.sum()


def test_first_fit_is_kept_where_the_search_saves_no_pack():
    """It has a slot of its own length for every image; the search may leave images out, and move short ones up."""
    images = np.array([138, 73])
    packs = fit_pack_kinds(images, np.array([7, 31]), 114)
    np.testing.assert_array_equal(packs.slots, images)


@given(histograms())
def test_first_fit_holds_all_images_and_opens_a_pack_only_where_none_has_room(histogram):
    tokens, counts, budget = histogram
    lengths = choose_lengths(tokens, counts, budget, 8)
    images = images_of(tokens[counts > 0], counts[counts > 0], lengths)
    kinds, nums = first_fit_decreasing(images, lengths, budget)
    np.testing.assert_array_equal(nums @ kinds, images)
    rooms: list[int] = []
    for length in np.repeat(lengths, images)[::-1].tolist():
        at = next((i for i, room in enumerate(rooms) if room >= length), len(rooms))
        if at == len(rooms):
            rooms.append(budget)
        rooms[at] -= length
    assert nums.sum() == len(rooms)


def test_without_an_image_there_is_no_pack():
    packs = fit_pack_kinds(np.array([0, 0]), np.array([5, 9]), 10)
    assert (packs.num_packs, packs.kinds.shape, packs.slots.tolist()) == (0, (0, 2), [0, 0])
