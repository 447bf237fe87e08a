"""The original draws a bucket with probability proportional to what it has left; we permute the units uniformly. Both
have the same distribution (docs/concepts/mathematics.md proves it); here both are run and counted."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from tests.planning import distributions as stats
from tests.planning.lines import line

UNITS = (3, 2, 1)
SEQUENCES = sorted(set(permutations([bucket for bucket, num in enumerate(UNITS) for _ in range(num)])))


def chance_in_the_urn(sequence):
    """Exact: the product of the draws' chances."""
    left, chance = list(UNITS), Fraction(1)
    for bucket in sequence:
        chance *= Fraction(left[bucket], sum(left))
        left[bucket] -= 1
    return chance


def urn(random, weigh=lambda left: left):
    """One epoch as the original draws it, with numpy's own choice."""
    left, sequence = np.array(UNITS, dtype=float), []
    while left.any():
        weights = weigh(left)
        bucket = int(random.choice(len(left), p=weights / weights.sum()))
        sequence.append(bucket)
        left[bucket] -= 1
    return tuple(sequence)


def p_of(sequences):
    counts = Counter(sequences)
    assert set(counts) <= set(SEQUENCES)
    return stats.chisquare([counts[sequence] for sequence in SEQUENCES]).pvalue


def test_exactly_every_sequence_of_the_urn_is_as_likely():
    assert {chance_in_the_urn(sequence) for sequence in SEQUENCES} == {Fraction(1, len(SEQUENCES))}
    assert len(SEQUENCES) == 60


@pytest.mark.exhaustive
def test_the_urn_follows_the_law():
    random = np.random.RandomState(1)
    assert p_of(urn(random) for _ in range(6000)) > 1e-3


@pytest.mark.exhaustive
@pytest.mark.parametrize("lockstep", [1, 4])
def test_our_unit_order_follows_the_law(lockstep):
    it = line(np.array(UNITS) * lockstep * 2, 2, lockstep, "drop", seed=1)
    first_of_units = np.arange(0, it.num_batches, lockstep)
    epochs = (it.planner.batches(epoch, first_of_units, 1).buckets for epoch in range(6000))
    assert p_of(tuple(buckets.tolist()) for buckets in epochs) > 1e-3


@pytest.mark.exhaustive
def test_another_law_would_be_caught():
    random = np.random.RandomState(3)
    assert p_of(urn(random, weigh=lambda left: (left > 0).astype(float)) for _ in range(6000)) < 1e-9
