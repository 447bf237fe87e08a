"""Is it a random permutation? Chi-squared tests of what ``KeyedPermutations`` does, as p-values.

Each function takes permutations of [0, n) as one array int64[T, n] (T trials), or places of pairs, and says how
surprising they would be if they were uniform and independent: a p-value under 1e-6 is no accident.
"""

from __future__ import annotations

import math

import numpy as np

from bucketline_service.planning.line import permutation
from bucketline_service.planning.line.permutation import KeyedPermutations, epoch_words
from tests.planning import distributions as stats

GRID = 16


def keyed(n, num, stream=0):
    """``num`` permutations of [0, n), as the domains of one epoch."""
    words = epoch_words(7, 3, stream, num * permutation.ROUNDS)
    return KeyedPermutations(np.full(num, n, dtype=np.int64), words)


def whole(n, num):
    """All of ``num`` permutations, int64[num, n]."""
    domains = np.repeat(np.arange(num), n)
    return keyed(n, num).forward(domains, np.tile(np.arange(n), num)).reshape(num, n)


def p_of_whole(perms):
    """The p-values that take whole permutations: where each place goes, how neighbours lie, fixed points, ascents."""
    n = perms.shape[1]
    assert np.array_equal(np.sort(perms, axis=1), np.broadcast_to(np.arange(n), perms.shape))
    found = {
        "positions": _positions(perms),
        "neighbours": _neighbours(perms),
        "ascents": _ascents(perms),
    }
    if n <= 6:
        found["all orders"] = _orders(perms)
    if n >= 12:
        found["fixed points"] = _fixed_points(perms)
    return found


def p_of_pairs(n, num):
    """Where single places and pairs of them go, one pair a trial: neighbours in the network's grid (the next column,
    the next row, the diagonal, two rows) and two places anywhere. n is 8 or more."""
    rng = np.random.default_rng(11)
    side = math.isqrt(n - 1) + 1
    found = {}
    for stream, distance in enumerate([1, side, side + 1, 2 * side, int(rng.integers(1, n))]):
        first = rng.integers(0, n, num)
        trials = np.arange(num)
        many = keyed(n, num, stream)
        x, y = many.forward(trials, first), many.forward(trials, (first + distance) % n)
        found[f"places, stream {stream}"] = _places(first, x, n)
        found[f"pairs {distance} apart"] = _pairs(x, y, n)
        found[f"rows and columns of pairs {distance} apart"] = _rows_and_columns(x, y, n, side)
    return found


def _p(seen, expected, num_free=None, scale=1.0):
    """Of Pearson's statistic. Cells too rare for it (under 5 expected) count as one."""
    seen, expected = np.asarray(seen, float).ravel(), np.asarray(expected, float).ravel()
    rare = expected < 5
    if rare.any():
        assert num_free is None, "too few trials for this table"
        seen = np.append(seen[~rare], seen[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
        seen, expected = seen[expected > 0], expected[expected > 0]
    statistic = ((seen - expected) ** 2 / expected).sum() * scale
    return float(stats.chi2.sf(statistic, len(seen) - 1 if num_free is None else num_free))


def _bins(n):
    """How many places each of the bins has: place x lies in bin ``x * len(bins) // n``."""
    num = min(n, GRID)
    ends = [-(-i * n // num) for i in range(num + 1)]
    return np.diff(ends)


def _table(x, y, n):
    num = len(_bins(n))
    return np.bincount((x * num // n * num + y * num // n).ravel(), minlength=num**2)


def _positions(perms):
    """Bin of the place against bin of where it goes. A permutation's cells are tied: Pearson's statistic is
    n / (n - 1) times a chi-squared of (bins - 1) squared degrees of freedom."""
    num, n = perms.shape
    sizes = _bins(n)
    seen = _table(np.broadcast_to(np.arange(n), perms.shape), perms, n)
    return _p(seen, num * np.outer(sizes, sizes) / n, (len(sizes) - 1) ** 2, (n - 1) / n)


def _neighbours(perms):
    """How far on (mod n) from where a place goes its neighbour goes; few places a trial, so that they are free."""
    num, n = perms.shape
    few = max(1, min(64, n // 64))
    at = np.random.default_rng(5).integers(0, n, (num, few))
    trials = np.arange(num)[:, np.newaxis]
    ahead = ((perms[trials, (at + 1) % n] - perms[trials, at]) % n).ravel()
    bins = (np.arange(1, n) - 1) * min(n - 1, GRID) // (n - 1)
    seen = np.bincount(bins[ahead - 1], minlength=bins[-1] + 1)
    return _p(seen, num * few * np.bincount(bins) / (n - 1))


def _fixed_points(perms):
    num, n = perms.shape
    counts = np.bincount(np.minimum((perms == np.arange(n)).sum(axis=1), 5), minlength=6)
    return _p(counts, num * np.append(stats.poisson.pmf(range(5), 1), stats.poisson.sf(4, 1)))


def _ascents(perms):
    """Mean (n - 1) / 2 and variance (n + 1) / 12, by sum and sum of squares; the lesser of two p-values, doubled."""
    num, n = perms.shape
    ascents = (perms[:, 1:] > perms[:, :-1]).sum(axis=1)
    z = (ascents - (n - 1) / 2) / math.sqrt((n + 1) / 12)
    mean = 2 * stats.norm.sf(abs(z.sum()) / math.sqrt(num))
    # the Eulerian numbers' excess is -6/5 / (n + 1), to first order: it shrinks the variance of the squares
    deviation = math.sqrt(num * (2 - 1.2 / (n + 1)))
    return float(min(1.0, 2 * min(mean, 2 * stats.norm.sf(abs((z**2).sum() - num) / deviation))))


def _orders(perms):
    num, n = perms.shape
    codes = (perms * n ** np.arange(n)).sum(axis=1)
    seen = np.unique(codes, return_counts=True)[1]
    total = math.factorial(n)
    return _p(np.append(seen, np.zeros(total - len(seen))), np.full(total, num / total))


def _places(first, x, n):
    shares = _bins(n) / n
    return _p(_table(first, x, n), len(x) * np.outer(shares, shares))


def _pairs(x, y, n):
    sizes = _bins(n).astype(float)
    return _p(_table(x, y, n), len(x) * (np.outer(sizes, sizes) - np.diag(sizes)) / (n * (n - 1.0)))


def _rows_and_columns(x, y, n, side):
    """How far apart are the two in the grid (``side`` wide): do they stay in one row or one column, or at one distance,
    more often than chance has it? The lesser of two p-values, doubled."""
    whole_rows, rest = divmod(n, side)
    rows = np.append(np.full(whole_rows, side), [rest] if rest else [])
    columns = np.append(np.full(rest, whole_rows + 1), np.full(side - rest, whole_rows))
    across = _apart(x % side, y % side, columns, n)
    down = _apart(x // side, y // side, rows, n)
    return min(1.0, 2 * min(across, down))


def _apart(x, y, sizes, n):
    """Of ``y - x`` modulo the number of lines, 0 for itself, the rest in bins; ``sizes``: places in each line."""
    num = len(sizes)
    spectrum = np.abs(np.fft.rfft(sizes.astype(float))) ** 2
    pairs = np.fft.irfft(spectrum, num)  # ordered pairs of places whose lines are d apart …
    pairs[0] -= n  # … but no place with itself
    bins = np.append(0, 1 + np.arange(num - 1) * min(num - 1, GRID) // (num - 1))
    seen = np.bincount(bins[(y - x) % num], minlength=bins[-1] + 1)
    return _p(seen, len(x) * np.bincount(bins, weights=pairs) / (n * (n - 1.0)))
