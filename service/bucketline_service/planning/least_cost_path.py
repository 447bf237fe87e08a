"""The path of least cost through ascending stops, by dynamic programming over the last one: which few of many
candidates serve all images best (``buckets.fitted_ladder``, ``packing.lengths``)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]


def least_cost_path(
    first: _Floats, between: _Floats, last: _Floats, max_stops: int, no_gain: float = 0.0
) -> list[int]:
    """The stops, at most ``max_stops`` of M, ascending, whose path costs the least.

    A path costs ``first[j]`` for its first stop j, ``between[i, j]`` for each stop j that follows a stop i < j, and
    ``last[i]`` for its last stop i. ``first``, ``last`` float64[M], ``between`` float64[M, M]: infinite where a path
    may not go, and where not i < j. ``between`` must be a Monge array: then what one more stop gains never grows with
    the number of stops, and the search ends where one gains no more than ``no_gain``. Of equally good paths it is the
    one with fewer stops. Time O(max_stops * M**2); memory: one more array like ``between``.
    """
    # best[j]: the least cost up to stop j, of paths of so many stops that end there
    best, paths = first, []
    least, end = float((best + last).min()), int((best + last).argmin())
    for _ in range(min(max_stops, len(first)) - 1):
        through = best[:, np.newaxis] + between  # [i, j]: through i as the last but one
        before = through.argmin(axis=0)
        best = through[before, np.arange(len(first))]
        total = best + last
        if not float(total.min()) < least - no_gain:
            break
        paths.append(before)
        least, end = float(total.min()), int(total.argmin())
    chosen = [end]
    for before in reversed(paths):
        chosen.append(int(before[chosen[-1]]))
    return chosen[::-1]
