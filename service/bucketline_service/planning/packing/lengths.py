"""Lengths: the few token counts that images are rounded up to, so that packs of few kinds hold all of them.

An image of length L takes a slot of L tokens of a pack; the tokens that it has not are padding. The lengths that pad
the least are found exactly, as the ``fitted`` ladder's sizes are: see ``least_cost_path``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning.least_cost_path import least_cost_path

MAX_CANDIDATES = 2_048
_CELLS = 8_192  # of a budget, at least half as many as which a knapsack has; see ``grid``

_I64 = NDArray[np.int64]
_F64 = NDArray[np.float64]


def grid(max_tokens: int) -> int:
    """Tokens that lengths are multiples of, so that a knapsack of ``max_tokens`` has few cells: at most one in 8,192 of
    it, at least 1. So no pack has more than 16,383 slots, whatever its budget."""
    return max(1, max_tokens // _CELLS)


def choose_lengths(tokens: _I64, counts: _I64 | _F64, max_tokens: int, num_lengths: int) -> _I64:
    """The at most ``num_lengths`` lengths that pad the least, in tokens, int64[S] ascending.

    ``tokens`` int64[D], at least 1; ``counts`` [D]: how many images have so many, those with 0 have no say. Each image
    has the shortest length that holds it. Lengths are multiples of ``grid(max_tokens)``, of a multiple of it where that
    leaves more than ``MAX_CANDIDATES`` to choose from, but never longer than ``max_tokens``. Among these the choice is
    exact. Of equal choices it is always the same one. Raises ``Invalid`` where an image has more than ``max_tokens``,
    ``ValueError`` if no image counts.
    """
    is_there = counts > 0
    if not is_there.any():
        raise ValueError("there is no image to choose lengths for")
    longest = int(tokens[is_there].max())
    if longest > max_tokens:
        detail = f"{max_tokens:,} tokens do not hold the longest image, which has {longest:,}"
        hint = f"Use at least {longest:,}, or a smaller ladder.max_pixels or shorter clips"
        raise Invalid("pack.max_tokens", detail, hint)
    step = grid(max_tokens)
    while True:
        # int64[M]: the lengths that may be chosen, ascending, and how many images there are up to each
        offered, of = np.unique(
            np.minimum(-(-tokens[is_there] // step) * step, max_tokens), return_inverse=True
        )
        if len(offered) <= MAX_CANDIDATES:
            break
        step *= 2
    num = np.cumsum(np.bincount(of, weights=counts[is_there], minlength=len(offered)))
    # [i, j]: what the images beyond length i, up to length j, take at length j. Whole numbers below 2**53: exact.
    between = np.where(np.tri(len(offered), dtype=bool), np.inf, offered * (num - num[:, np.newaxis]))
    last = np.full(len(offered), np.inf)
    last[-1] = 0  # the longest images need a length
    return offered[least_cost_path(offered * num, between, last, num_lengths)]
