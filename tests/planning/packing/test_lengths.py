"""Lengths: of all that may be chosen, those that pad the least."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning.packing.lengths import MAX_CANDIDATES, choose_lengths, grid
from bucketline_service.spec.batch_sizes import MAX_BATCH_SIZE, MAX_TOKENS


@st.composite
def histograms(draw):
    """Few token counts, of a budget with a grid of 1, 4 or 5 tokens."""
    max_tokens = draw(st.sampled_from([60, 4 * 8192, 5 * 8192 + 3]))
    longest = min(max_tokens, 60)
    tokens = draw(st.lists(st.integers(1, longest), min_size=1, max_size=8, unique=True))
    if draw(st.booleans()):
        tokens = [max_tokens - longest + each for each in tokens]
    counts = draw(st.lists(st.integers(0, 50), min_size=len(tokens), max_size=len(tokens)))
    counts[0] = max(counts[0], 1)
    return np.array(tokens), np.array(counts), max_tokens


def padded(tokens, counts, lengths):
    return int(counts @ lengths[np.searchsorted(lengths, tokens)])


@given(histograms(), st.integers(1, 4))
@example((np.array([5 * 8192 + 3, 1]), np.array([1, 1]), 5 * 8192 + 3), 2)
def test_lengths_pad_the_least_of_all_choices(histogram, num_lengths):
    tokens, counts, max_tokens = histogram
    tokens, counts = tokens[counts > 0], counts[counts > 0]
    offered = np.unique(np.minimum(-(-tokens // grid(max_tokens)) * grid(max_tokens), max_tokens))
    chosen = choose_lengths(*histogram[:2], max_tokens, num_lengths)
    assert set(chosen) <= set(offered)
    assert np.all(np.diff(chosen) > 0)
    assert len(chosen) <= num_lengths
    others = [
        np.array([*each, offered[-1]])
        for num in range(min(num_lengths, len(offered)))
        for each in combinations(offered[:-1], num)
    ]
    least = min(padded(tokens, counts, each) for each in others)
    assert padded(tokens, counts, chosen) == least
    # no length is there that does not earn its place
    assert len(chosen) == min(len(each) for each in others if padded(tokens, counts, each) == least)


def test_a_budget_that_is_no_multiple_of_the_grid_still_holds_an_image_of_just_its_size():
    max_tokens = 5 * 8192 + 3
    assert grid(max_tokens) == 5
    lengths = choose_lengths(np.array([7, max_tokens]), np.array([1, 1]), max_tokens, 4)
    assert lengths.tolist() == [10, max_tokens]


@pytest.mark.parametrize("max_tokens", [16_383, 16_384, 65_537, MAX_TOKENS])
def test_no_budget_holds_more_slots_than_a_batch_may_have_images(max_tokens):
    (length,) = choose_lengths(np.array([1]), np.array([1]), max_tokens, 4)
    assert max_tokens // length <= 16_383 < MAX_BATCH_SIZE


def test_more_token_counts_than_may_be_offered_take_a_coarser_grid():
    tokens = np.arange(1, 2 * MAX_CANDIDATES + 2)
    lengths = choose_lengths(tokens, np.ones_like(tokens), 8192, 3)
    assert (lengths % 4 == 0).all()
    # three equal parts are the best, to a step of the grid
    thirds = np.array([len(tokens) / 3, 2 * len(tokens) / 3, len(tokens)])
    np.testing.assert_allclose(lengths, thirds, atol=4)


def test_there_must_be_an_image():
    with pytest.raises(ValueError, match="no image"):
        choose_lengths(np.array([5]), np.array([0]), 10, 4)


@pytest.mark.parametrize("budget", [1, 59])
def test_a_budget_below_the_longest_image_is_invalid_and_says_what_would_do(budget):
    tokens, counts = np.array([10, 60, 99]), np.array([5, 1, 0])
    with pytest.raises(Invalid, match="Use at least 60") as caught:
        choose_lengths(tokens, counts, budget, 4)
    assert caught.value.field == "pack.max_tokens"
    assert choose_lengths(tokens, counts, 60, 4).tolist() == [10, 60]
