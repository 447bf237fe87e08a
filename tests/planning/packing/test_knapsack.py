"""The pack that is worth the most, against every pack."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline_service.planning.packing.knapsack import most_valuable

kinds = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 9)), min_size=1, max_size=4)


@given(kinds, st.integers(0, 24))
def test_no_pack_is_worth_more(items, capacity):
    values, sizes = np.array(items).T
    worth, taken = most_valuable(values / 12, sizes, capacity)
    assert taken.min() >= 0
    assert taken @ sizes <= capacity
    assert worth == pytest.approx(taken @ values / 12)
    every = product(*(range(capacity // size + 1) for size in sizes.tolist()))
    best = max(np.array(pack) @ values for pack in every if np.array(pack) @ sizes <= capacity)
    assert worth == pytest.approx(best / 12)
