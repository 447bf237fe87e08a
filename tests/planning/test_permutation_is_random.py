"""Coverage is not randomness: a plan that serves each image once may still serve them nearly in order.

Keys are fixed, so that these tests fail always or never. Of about 200 p-values, none below 1e-6 is chance.
"""

from __future__ import annotations

import numpy as np
import pytest

from bucketline_service.planning.line import permutation
from bucketline_service.planning.line.permutation import ROUNDS, SMALL, KeyedPermutations, epoch_words
from tests.planning import distributions as stats
from tests.planning.randomness import p_of_pairs, p_of_whole, whole

pytestmark = pytest.mark.exhaustive

CAUGHT, NO_CHANCE = 1e-12, 1e-6


def least(found):
    name = min(found, key=found.get)
    return found[name], name


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 12, 17, 64, 65, SMALL - 1, SMALL])
def test_true_shuffles(n):
    found = p_of_whole(whole(n, max(200_000 // n, 200)))
    assert least(found) > (NO_CHANCE, "")


@pytest.mark.parametrize("n", [SMALL + 1, 23**2, 23**2 + 1, 1025, 4097])
def test_the_network(n):
    found = p_of_whole(whole(n, max(300_000 // n, 64)))
    assert least(found) > (NO_CHANCE, "")


@pytest.mark.parametrize("n", [SMALL + 1, 1025, 65_537, 1_000_003, 10**9, 10**12])
def test_pairs_of_places_under_the_network(n):
    assert least(p_of_pairs(n, 40_000)) > (NO_CHANCE, "")


@pytest.mark.parametrize("n", [64, 81, 127, 256])
def test_the_network_is_random_below_where_it_is_used(n, monkeypatch):
    monkeypatch.setattr(permutation, "SMALL", 0)
    found = {**p_of_whole(whole(n, 300_000 // n)), **p_of_pairs(n, 40_000)}
    assert least(found) > (NO_CHANCE, "")


@pytest.mark.parametrize("n", [50, 5000])
def test_one_place_over_the_epochs(n):
    """Uniform, and free of where it was an epoch ago: epochs, not domains, are the trials here."""
    words = [epoch_words(5, epoch, 0, ROUNDS) for epoch in range(3000)]
    at = np.array(
        [KeyedPermutations(np.array([n]), word).forward(np.array([0]), np.array([3]))[0] for word in words]
    )
    bins = at * 10 // n
    assert stats.chisquare(np.bincount(bins, minlength=10)).pvalue > 1e-4
    after = np.bincount(bins[:-1] * 10 + bins[1:], minlength=100)
    assert stats.chisquare(after).pvalue > 1e-4


def test_the_tests_would_catch_two_rounds(monkeypatch):
    monkeypatch.setattr(permutation, "SMALL", 0)
    monkeypatch.setattr(permutation, "ROUNDS", 2)
    for n in (257, 4097):
        assert least(p_of_whole(whole(n, 300_000 // n))) < (CAUGHT, "")
    assert least(p_of_pairs(10**9, 40_000)) < (CAUGHT, "")


def test_the_tests_would_catch_a_network_on_a_tiny_domain(monkeypatch):
    monkeypatch.setattr(permutation, "SMALL", 0)
    assert least(p_of_whole(whole(6, 60_000))) < (CAUGHT, "")


def test_the_tests_would_catch_a_shared_key(monkeypatch):
    monkeypatch.setattr("tests.planning.randomness.epoch_words", lambda *_: np.zeros(0, dtype=np.uint64))
    monkeypatch.setattr(
        "tests.planning.randomness.KeyedPermutations",
        lambda sizes, _: KeyedPermutations(sizes, np.tile(epoch_words(1, 2, 0, ROUNDS), len(sizes))),
    )
    assert least(p_of_whole(whole(300, 2000))) < (CAUGHT, "")
    assert least(p_of_pairs(5000, 40_000)) < (CAUGHT, "")


def test_the_tests_would_catch_no_shuffle_a_rotation_and_a_reversal():
    identity = np.tile(np.arange(300), (2000, 1))
    turns = np.random.default_rng(0).integers(0, 300, (2000, 1))
    assert p_of_whole(identity)["positions"] < CAUGHT
    assert p_of_whole(identity)["fixed points"] < CAUGHT
    rotated = p_of_whole((identity + turns) % 300)
    assert rotated["neighbours"] < CAUGHT
    assert rotated["ascents"] < CAUGHT
    assert least(p_of_whole(identity[:, ::-1].copy())) < (CAUGHT, "")


def test_the_tests_would_pass_numpys_own_shuffle():
    rng = np.random.default_rng(1)
    for n in (3, 6, 12, 300, 3000):
        trials = max(200_000 // n, 200)
        assert least(p_of_whole(rng.permuted(np.tile(np.arange(n), (trials, 1)), axis=1))) > (1e-3, "")
