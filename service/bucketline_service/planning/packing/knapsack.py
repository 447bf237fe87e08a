"""The unbounded knapsack: the pack that is worth the most, at given values of slots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_I64 = NDArray[np.int64]
_Floats = NDArray[np.float64]


def most_valuable(values: _Floats, sizes: _I64, capacity: int) -> tuple[float, _I64]:
    """The most that items of total size at most ``capacity`` are worth, and how many of each kind these are, int64[S].

    ``values`` float64[S], of one item of each kind; ``sizes`` int64[S], positive. Exact except for the rounding of
    float64 sums. Of equal choices it is always the same one.

    Dynamic programming over kinds and capacities. What b holds with any number of items of size w is the best over
    b - w, b - 2w, ...: along capacities that are equal modulo w a running maximum, so each kind is one pass of numpy
    over the capacities. Time and memory O(S * capacity).
    """
    best = np.zeros(capacity + 1)
    taken = np.zeros(len(sizes), dtype=np.int64)
    passes: list[tuple[int, _I64]] = []
    highest = 0.0
    for kind in np.argsort(sizes, kind="stable").tolist():
        value, size = float(values[kind]), int(sizes[kind])
        if value <= highest:
            continue  # a smaller kind is worth as much
        highest = value
        # [item, capacity modulo size]; capacities past the last are never looked at
        num_rows = -(-(capacity + 1) // size)
        worth = np.arange(num_rows)[:, np.newaxis] * value
        without = np.full(num_rows * size, -np.inf)
        without[: capacity + 1] = best
        gain = without.reshape(num_rows, size) - worth
        most = np.maximum.accumulate(gain, axis=0)
        rows = np.broadcast_to(np.arange(num_rows)[:, np.newaxis], gain.shape)
        # the first row that reaches the running maximum: from there on items of this kind are put on
        is_first = np.ones(gain.shape, dtype=np.bool_)
        is_first[1:] = gain[1:] > most[:-1]
        origins = np.maximum.accumulate(np.where(is_first, rows, 0), axis=0)
        best = (most + worth).reshape(-1)[: capacity + 1]
        passes.append((kind, (rows - origins).reshape(-1)))
    left = capacity
    for kind, nums in reversed(passes):
        taken[kind] = nums[left]
        left -= int(taken[kind]) * int(sizes[kind])
    return float(best[capacity]), taken
