from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bucketline_service.planning.novelai.planner import _choice


@given(
    weights=st.lists(st.integers(1, 2**26), min_size=1, max_size=30),
    sample=st.floats(0, 1, exclude_max=True),
    nudge=st.one_of(st.none(), st.tuples(st.integers(0, 29), st.floats(-1e-6, 1e-6))),
)
def test_choice_is_numpys_choice(weights, sample, nudge):
    if nudge:  # beside a boundary, where the rounding of the float32 probabilities decides
        sums = np.cumsum(weights)
        sample = float(np.clip(sums[nudge[0] % len(sums)] / sums[-1] + nudge[1], 0, 1 - 2**-53))
    lens = np.array(weights, dtype=np.float32)
    cdf = (lens / lens.sum()).astype(np.float64).cumsum()
    expected = (cdf / cdf[-1]).searchsorted(sample, side="right")
    assert _choice(list(weights), sample) == expected


@given(st.lists(st.integers(1, 2**20), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_choice_draws_as_random_state_does(weights, seed):
    real, ours = np.random.RandomState(seed), np.random.RandomState(seed)
    lens = np.array(weights, dtype=np.float32)
    for _ in range(20):
        expected = real.choice(np.arange(len(weights)), 1, p=lens / lens.sum())[0]
        assert _choice(list(weights), ours.random_sample()) == expected
    assert real.tomaxint() == ours.tomaxint()
