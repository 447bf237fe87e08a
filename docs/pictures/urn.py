"""NovelAI's weighted draw and a uniform permutation of the units, both run and counted.

The planner's half is the planner itself; the urn's is restated here for many epochs at once. A third rule, which gives
each bucket that has something left the same chance, shows another distribution.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy import stats
from tests.planning.lines import line

EPOCHS = 6000
SMALL_BUCKET = (1, 5, 14)
"""Units of each bucket; the first one's single unit is watched."""
SHORT = (3, 2, 1)
"""Units of an urn so short that each of its 60 sequences can be counted."""


@dataclass(frozen=True)
class TwoSamples:
    """``urn``, ``planner``: how often each outcome came in ``EPOCHS`` epochs. Pearson's statistic of their table of two
    rows, its degrees of freedom, and its p-value."""

    urn: np.ndarray
    planner: np.ndarray
    other: np.ndarray
    statistic: float
    num_free: int
    p: float
    p_of_other: float

    def numbers(self) -> str:
        return f"chi-squared {self.statistic:.1f} on {self.num_free} degrees of freedom, p = {self.p:.2f}"


def drawn(units: tuple[int, ...], seed: int, *, evenly: bool = False) -> np.ndarray:
    """int64[EPOCHS, K]: the buckets of each epoch's K units, each drawn with the chance of what it has left of all that
    is left, by numpy's legacy generator. ``evenly``: each that has something left with the same chance."""
    random = np.random.RandomState(seed)
    left = np.tile(units, (EPOCHS, 1))
    sequences = np.empty((EPOCHS, sum(units)), dtype=np.int64)
    for i in range(sum(units)):
        chances = np.cumsum((left > 0) if evenly else left, axis=1)
        draw = random.randint(0, chances[:, -1])
        sequences[:, i] = (draw[:, np.newaxis] >= chances).sum(axis=1)
        left[np.arange(EPOCHS), sequences[:, i]] -= 1
    return sequences


def planned(units: tuple[int, ...], seed: int) -> np.ndarray:
    """int64[EPOCHS, K]: the same of the ``line`` planner, a unit being one batch of one image."""
    it = line(units, 1, 1, "drop", seed=seed)
    return np.array([it.epoch(epoch).buckets for epoch in range(EPOCHS)])


def positions_of_the_small_bucket() -> TwoSamples:
    """At which of 20 positions the one unit of the smallest bucket comes."""
    num = sum(SMALL_BUCKET)
    return _compare(
        *(
            np.bincount((sequences == 0).argmax(axis=1), minlength=num)
            for sequences in (
                drawn(SMALL_BUCKET, 1),
                planned(SMALL_BUCKET, 1),
                drawn(SMALL_BUCKET, 1, evenly=True),
            )
        )
    )


def sequences_of_the_short_urn() -> TwoSamples:
    """How often each of the 60 sequences of 3 + 2 + 1 units comes."""
    whole = sorted(set(permutations([bucket for bucket, num in enumerate(SHORT) for _ in range(num)])))
    counted = []
    for sequences in (drawn(SHORT, 2), planned(SHORT, 2), drawn(SHORT, 2, evenly=True)):
        counts = Counter(map(tuple, sequences.tolist()))
        counted.append(np.array([counts[sequence] for sequence in whole]))
    return _compare(*counted)


def _compare(urn: np.ndarray, planner: np.ndarray, other: np.ndarray) -> TwoSamples:
    statistic, p, num_free, _ = stats.chi2_contingency(np.array([urn, planner]))
    p_of_other = stats.chi2_contingency(np.array([other, planner])).pvalue
    return TwoSamples(urn, planner, other, float(statistic), int(num_free), float(p), float(p_of_other))
