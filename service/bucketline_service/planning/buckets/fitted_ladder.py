"""The ladder that is fitted to the images: of all sizes of a grid, the few that lose the least by cropping. Our own.

An image of aspect a loses ``1 - min(a, b) / max(a, b)`` of its pixels to a bucket of aspect b (``geometry``), so the
nearest bucket by ratio (``assign`` with metric ``log``) is also the one that loses least. The images between two
neighbouring buckets depend on these two alone, split at the geometric mean of their aspects; what they lose is then two
differences of prefix sums, of a and of 1 / a. The least loss of a ladder that ends in a given size is therefore that of
a shorter ladder and one such stretch: a shortest path, which dynamic programming finds exactly.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning import chunked_passes
from bucketline_service.planning.buckets.ladder_generators import (
    MAX_BUCKETS,
    Ladder,
    check_side,
    check_size,
    explicit,
    is_integer,
)
from bucketline_service.planning.least_cost_path import least_cost_path

MAX_CANDIDATES = 2_048
_MAX_SIZES = 1 << 20
_NO_GAIN = 1e-12  # of all pixels: what prefix sums of 10**9 images may be wrong by

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


class Histogram(NamedTuple):
    """``aspects`` float64[D] ascending, each once; ``counts`` [D]: how many images have it, or what they count."""

    aspects: _Floats
    counts: _Ints | _Floats


def fitted(
    widths: NDArray[np.integer],
    heights: NDArray[np.integer],
    num_buckets: int = 16,
    max_size: tuple[int, int] = (768, 512),
    divisible: int = 64,
    min_dim: int = 256,
    dim_limit: int = 1024,
    min_fill: float = 0.75,
    counts: _Ints | _Floats | None = None,
) -> Ladder:
    """The at most ``num_buckets`` sizes with the least total crop loss over images of ``widths``, ``heights``
    (positive integers[N], pixels), each assigned to the nearest aspect by ratio. By aspect; the base is the size
    nearest to square. ``counts`` [N]: how many images each one stands for, or how often it comes, one unless
    given; those with 0 have no say.

    Chosen among the sizes of ``candidates``, and exactly: no other choice loses less, except for the rounding of
    float64 sums. Where fewer buckets do as well, there are fewer. Of equal choices it is always the same one. Memory:
    about 50 bytes for each distinct aspect among the images, and at most 120 MB more.

    Raises ``Invalid`` for invalid parameters, ``ValueError`` if no image counts.
    """
    if not is_integer(num_buckets) or not 1 <= num_buckets <= MAX_BUCKETS:
        detail = f"{num_buckets!r} is not a number of buckets"
        raise Invalid("ladder.num_buckets", detail, f"Use an integer from 1 to {MAX_BUCKETS}")
    sizes = candidates(max_size, divisible, min_dim, dim_limit, min_fill)
    chosen = choose(histogram(widths, heights, counts), sizes[:, 0] / sizes[:, 1], num_buckets)
    return explicit(sizes[chosen].tolist())


def candidates(
    max_size: tuple[int, int], divisible: int, min_dim: int, dim_limit: int, min_fill: float
) -> _Ints:
    """The sizes that may become buckets: (width, height) int64[M, 2] in pixels, by aspect, one of each.

    Sides are multiples of ``divisible`` from ``min_dim`` to ``dim_limit``; the area is at most that of
    ``max_size``, and at least ``min_fill`` of it or the longest for one of its sides. The latter are NovelAI's
    and kohya's buckets. Of several sizes of one aspect it is the largest. Raises ``Invalid``.
    """
    step = check_side("ladder.divisible", divisible)
    low = -(-check_side("ladder.min_dim", min_dim) // step)
    limit = check_side("ladder.dim_limit", dim_limit) // step
    width, height = check_size("ladder.max_size", max_size)
    if isinstance(min_fill, bool) or not isinstance(min_fill, (int, float)) or not 0 <= min_fill <= 1:
        raise Invalid("ladder.min_fill", f"{min_fill!r} is not a share", "Use a number from 0 to 1")
    if low > limit:
        detail = f"there is no multiple of divisible {step} from min_dim {min_dim} to {dim_limit}"
        raise Invalid("ladder.dim_limit", detail, f"Use at least {low * step}")
    area = width * height // step**2  # all below counts in cells of divisible x divisible
    if low**2 > area:
        detail = f"the smallest size, {low * step} x {low * step}, does not fit in {width} x {height}"
        smaller = f", or a min_dim of at most {math.isqrt(area) * step}" if area else ""
        raise Invalid("ladder.max_size", detail, f"Use at least {low * step} x {low * step}{smaller}")
    sides = np.arange(low, min(limit, area // low) + 1)
    longest = np.minimum(limit, area // sides)
    fills = math.ceil(min_fill * width * height / step**2)
    shortest = np.minimum(np.maximum(low, -(-fills // sides)), longest)
    counts = longest - shortest + 1
    if counts.sum() > _MAX_SIZES:
        raise _too_many(int(counts.sum()), step)
    # [S] every size that fills enough, and the longest other side of each
    one = np.repeat(sides, counts)
    other = np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(shortest, counts)
    return _one_of_each_aspect(np.concatenate([one, other]), np.concatenate([other, one]), step)


def _one_of_each_aspect(across: _Ints, down: _Ints, step: int) -> _Ints:
    order = np.lexsort((across, across / down))  # of equal aspects the largest comes last
    across, down = across[order], down[order]
    is_last = np.append(across[1:] * down[:-1] != across[:-1] * down[1:], True)
    if is_last.sum() > MAX_CANDIDATES:
        raise _too_many(int(is_last.sum()), step)
    return np.stack([across[is_last], down[is_last]], axis=1) * step


def _too_many(num: int, step: int) -> Invalid:
    detail = f"a grid of {step} pixels leaves {num} sizes to choose from, more than {MAX_CANDIDATES}"
    return Invalid("ladder.divisible", detail, "Use larger steps, a larger min_fill or narrower bounds")


def histogram(
    widths: NDArray[np.integer], heights: NDArray[np.integer], weights: _Ints | _Floats | None = None
) -> Histogram:
    """How many images of ``widths``, ``heights`` (positive integers[N], pixels) have each aspect. ``weights`` [N]: how
    many images each one stands for, one unless given; those with 0 are none."""
    if weights is not None:
        here = weights > 0
        aspects = np.divide(widths[here], heights[here], dtype=np.float64)
        return Histogram(*chunked_passes.merged((aspects, weights[here])))
    found = chunked_passes.ValueCounts(np.float64)
    for begin in range(0, len(widths), chunked_passes.CHUNK):
        part = slice(begin, begin + chunked_passes.CHUNK)
        found.add(np.divide(widths[part], heights[part], dtype=np.float64))
    return Histogram(*found.merged())


def choose(images: Histogram, aspects: _Floats, num_buckets: int) -> list[int]:
    """Which of the ascending, distinct bucket ``aspects`` float64[M] have the least total crop loss together: at
    most ``num_buckets`` indices, ascending. Of equally good ladders that with fewer buckets, and of those the one
    with narrower buckets."""
    if not len(images.aspects):
        raise ValueError("there is no image to fit the ladder to")
    no_gain = _NO_GAIN * float(images.counts.sum())
    return least_cost_path(*_losses(images, aspects), num_buckets, no_gain)


def _losses(images: Histogram, aspects: _Floats) -> tuple[_Floats, _Floats, _Floats]:
    """Total crop losses in images, for buckets i < j: ``first[j]`` of the images up to aspect j in j; ``between[i, j]``
    of those between them, in the nearer one; ``last[i]`` of those beyond i in i. Infinite where not i < j."""
    # [D + 1] over the first d aspects: how many images, their aspects' sum, the sum of 1 / aspect
    num = np.append(0, np.cumsum(images.counts))
    wide = np.append(0.0, np.cumsum(images.counts * images.aspects))
    tall = np.append(0.0, np.cumsum(images.counts / images.aspects))
    at = np.searchsorted(images.aspects, aspects, side="right")
    first = num[at] - wide[at] / aspects
    last = (num[-1] - num[at]) - (tall[-1] - tall[at]) * aspects
    between = np.full((len(aspects), len(aspects)), np.inf)
    for i, aspect in enumerate(aspects[:-1].tolist()):
        above, there = aspects[i + 1 :], at[i + 1 :]
        edge = np.searchsorted(images.aspects, np.sqrt(aspect * above), side="right")
        wider = (num[edge] - num[at[i]]) - (tall[edge] - tall[at[i]]) * aspect
        narrower = (num[there] - num[edge]) - (wide[there] - wide[edge]) / above
        between[i, i + 1 :] = wider + narrower
    return first, between, last
