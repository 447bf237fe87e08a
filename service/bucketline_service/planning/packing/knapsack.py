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
    b, b - w, b - 2w, ... without them: along capacities that are equal modulo w a running maximum, so each kind is a
    few passes of numpy over the capacities. Time and memory O(S * capacity).
    """
    best = np.zeros(capacity + 1)
    passes: list[tuple[int, _Floats]] = []  # each kind, and the best without it and those after it
    highest = 0.0
    for kind in np.argsort(sizes, kind="stable").tolist():
        value, size = float(values[kind]), int(sizes[kind])
        if value <= highest:
            continue  # a smaller kind is worth as much
        highest = value
        passes.append((kind, best))
        # [items, capacity modulo size]; capacities past the last are never looked at
        num_rows = -(-(capacity + 1) // size)
        table = np.full((num_rows, size), -np.inf)
        table.reshape(-1)[: capacity + 1] = best
        worth = np.arange(num_rows)[:, np.newaxis] * value
        table -= worth
        np.maximum.accumulate(table, axis=0, out=table)
        table += worth
        best = table.reshape(-1)[: capacity + 1]
    taken = np.zeros(len(sizes), dtype=np.int64)
    left = capacity
    for kind, without in reversed(passes):
        # the running maximum again, of the one capacity that is left
        size = int(sizes[kind])
        row, column = divmod(left, size)
        gain = without[column : left + 1 : size] - np.arange(row + 1) * float(values[kind])
        taken[kind] = row - int(gain.argmax())
        left -= int(taken[kind]) * size
    return float(best[capacity]), taken
