"""Ladders: the ordered buckets of a run, from the published generators or from a list of sizes.

``novelai`` is the generator of NovelAI's BucketManager (novelai-aspect-ratio-bucketing, bucketmanager.py,
2022), ``kohya`` that of kohya-ss/sd-scripts (``make_bucket_resolutions`` in library/model_util.py, with the
bounds rounded as its trainer rounds them before the call), ``geometric`` that of tdrussell/diffusion-pipe
(``DirectoryDataset`` and ``ARBucketDataset`` in utils/dataset.py), ``explicit`` takes the sizes as they are.
Published tables are in ``preset_ladders``, sizes chosen for the images of a run in ``fitted_ladder``. Sizes are (width,
height) in pixels. Every invalid parameter raises ``Invalid`` with the field's name in the run
spec.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid

Size = tuple[int, int]

MAX_SIDE = 65_536
MAX_BUCKETS = 4_096
MAX_AR = 1_000


@dataclass(frozen=True, eq=False)
class Ladder:
    """``widths``, ``heights`` int64[K] in pixels; ``aspects`` float64[K], width / height. All read-only.

    ``aspects`` is what images are compared with. For ``novelai`` it is what the original records, which is 1
    for ``base_res`` in some ladders where that is not square; for ``geometric`` it is the aspect that the size
    was rounded from. ``base`` (width, height) is the target of the catch-all bucket.
    """

    widths: NDArray[np.int64]
    heights: NDArray[np.int64]
    aspects: NDArray[np.float64]
    base: Size

    def __len__(self) -> int:
        return len(self.widths)

    @property
    def sizes(self) -> list[Size]:
        """(width, height) of each bucket, in ladder order."""
        return list(zip(self.widths.tolist(), self.heights.tolist(), strict=True))

    @property
    def has_equal_aspects(self) -> bool:
        """Whether images of one aspect have several buckets to choose from."""
        return len(np.unique(self.aspects)) < len(self)

    def by_aspect(self) -> Ladder:
        """The same buckets in order of aspect, then area."""
        order = np.lexsort((self.widths * self.heights, self.aspects))
        return Ladder(self.widths[order], self.heights[order], self.aspects[order], self.base)


def novelai(
    max_size: Sequence[int] = (768, 512),
    divisible: int = 64,
    min_dim: int = 256,
    dim_limit: int = 1024,
    base_res: Sequence[int] = (512, 512),
) -> Ladder:
    """The ladder of NovelAI's BucketManager, in its own order: by ``width * 4096 - height``.

    For each width from ``min_dim`` in steps of ``divisible`` the tallest bucket whose area is within that of
    ``max_size`` and whose sides are within ``dim_limit``; then the same for each height. ``max_size`` bounds
    the area only, never a side. The order is not always that of the aspects.

    The original counts in tokens of 8 x 8 pixels as floats; sides here are small enough for these to be
    exact, so comparing areas in pixels decides the same.
    """
    max_width, max_height = check_size("ladder.max_size", max_size)
    step = check_side("ladder.divisible", divisible)
    low = check_side("ladder.min_dim", min_dim)
    limit = check_side("ladder.dim_limit", dim_limit)
    base = check_size("ladder.base_res", base_res)
    area = max_width * max_height
    if low > limit:
        raise Invalid("ladder.dim_limit", f"{limit} is below min_dim {low}", f"Use at least {low}")
    if low * low > area:
        hint = f"Use a max_size of at least {low} x {low} pixels, or a min_dim of at most {math.isqrt(area)}"
        raise Invalid("ladder.max_size", f"no side of min_dim {low} fits in {max_width} x {max_height}", hint)

    longest_first = min(limit, area // low)  # a longer side leaves less than min_dim for the other one
    _check_count((longest_first - low) // step + 1, "ladder.divisible")
    # the order of first coming is kept, and a later coming overwrites the aspect
    aspects: dict[Size, float] = {}
    for width in range(low, longest_first + 1, step):
        height = _longest_other(width, area, low, step, limit)
        # The original adds its base size as a bucket of aspect 1 where it passes it on the way up, square or
        # not, and looks for it only in this pass over the widths.
        if width == base[0] and low <= base[1] < height and (base[1] - low) % step == 0:
            aspects[base] = 1.0
        aspects[width, height] = width / height
    for height in range(low, longest_first + 1, step):
        width = _longest_other(height, area, low, step, limit)
        aspects[width, height] = width / height
    sizes = sorted(aspects, key=lambda size: size[0] * 4096 - size[1])
    return _ladder(sizes, [aspects[size] for size in sizes], base, "ladder.divisible")


def kohya(
    resolution: int | Sequence[int] = (512, 512),
    min_bucket_reso: int = 256,
    max_bucket_reso: int = 1024,
    bucket_reso_steps: int = 64,
) -> Ladder:
    """The ladder of kohya-ss/sd-scripts (for ``bucket_no_upscale`` see ``no_upscale``), by aspect, then area.

    The square bucket of the area of ``resolution``, and for each side from ``min_bucket_reso`` to
    ``max_bucket_reso`` the longest other side within that area, both ways round. As the trainer does,
    ``min_bucket_reso`` is rounded down and ``max_bucket_reso`` up to multiples of ``bucket_reso_steps``, and
    ``resolution`` has to lie between the two. The base is the square bucket.
    """
    sides = (resolution, resolution) if is_integer(resolution) else resolution
    width, height = check_size("ladder.resolution", sides)
    step = check_side("ladder.bucket_reso_steps", bucket_reso_steps)
    low = check_side("ladder.min_bucket_reso", min_bucket_reso) // step * step
    high = -(-check_side("ladder.max_bucket_reso", max_bucket_reso) // step) * step
    if low == 0:
        detail = f"{min_bucket_reso} is below one step of {step}, and is rounded down to 0"
        raise Invalid("ladder.min_bucket_reso", detail, f"Use at least {step}")
    if low > high:
        detail = f"{min_bucket_reso} is above max_bucket_reso {max_bucket_reso}"
        raise Invalid("ladder.min_bucket_reso", detail, f"Use at most {high}")
    if min(width, height) < low:
        detail = f"{width} x {height} has a side below min_bucket_reso {low}"
        raise Invalid("ladder.resolution", detail, f"Use sides from {low} to {high}")
    if max(width, height) > high:
        detail = f"{width} x {height} has a side above max_bucket_reso {high}"
        raise Invalid("ladder.resolution", detail, f"Use sides from {low} to {high}")

    area = width * height
    square = math.isqrt(area) // step * step
    sizes = {(square, square)}
    for side in range(low, high + 1, step):
        other = min(high, area // side // step * step)
        if other >= low:
            sizes |= {(side, other), (other, side)}
    return _by_aspect(sizes, "ladder.bucket_reso_steps")


def geometric(
    min_ar: float = 0.5,
    max_ar: float = 2.0,
    num_ar_buckets: int = 7,
    base_res: int | Sequence[int] = (512, 512),
    divisible: int = 32,
) -> Ladder:
    """The ladder of tdrussell/diffusion-pipe, by aspect: ``num_ar_buckets`` aspects (width / height) spaced evenly
    in the logarithm from ``min_ar`` to ``max_ar``, each with the sides of the area of ``base_res`` (a side or
    (width, height)) rounded to the nearest multiple of ``divisible``.

    As the original does, aspects are rounded to three decimals, equal ones are one, images are compared with
    these and not with the quotient of the rounded sides, and two aspects whose sides round to the same size
    stay two buckets. Rounding may exceed the area. The base is the bucket nearest to square.
    """
    low, high = _aspect("ladder.min_ar", min_ar), _aspect("ladder.max_ar", max_ar)
    if low > high:
        raise Invalid("ladder.max_ar", f"{max_ar} is below min_ar {min_ar}", f"Use at least {min_ar}")
    if not is_integer(num_ar_buckets) or not 1 <= num_ar_buckets <= MAX_BUCKETS:
        detail = f"{num_ar_buckets!r} is not a number of buckets"
        raise Invalid("ladder.num_ar_buckets", detail, f"Use an integer from 1 to {MAX_BUCKETS}")
    sides = (base_res, base_res) if is_integer(base_res) else base_res
    width, height = check_size("ladder.base_res", sides)
    step = check_side("ladder.divisible", divisible)

    # of the square of that area, to as many decimals as the original
    side = round(math.sqrt(width * height), 3)
    aspects = np.unique(np.round(np.geomspace(low, high, num_ar_buckets), 3)).tolist()
    sizes = []
    for aspect in aspects:
        across = math.sqrt(side**2 * aspect)
        size = (round(across / step) * step, round(side**2 / across / step) * step)
        if not 1 <= min(size) <= max(size) <= MAX_SIDE:
            detail = f"at aspect {aspect} it rounds to {size[0]} x {size[1]}, in steps of divisible {step}"
            hint = (
                f"Use a size with sides from 1 to {MAX_SIDE} at every aspect, or a narrower min_ar and max_ar"
            )
            raise Invalid("ladder.base_res", detail, hint)
        sizes.append(size)
    return _ladder(sizes, aspects, _squarest(sizes), "ladder.num_ar_buckets")


def explicit(sizes: Iterable[Sequence[int]]) -> Ladder:
    """A ladder of the given (width, height), by aspect, then area.

    The base is the bucket nearest to square (by ratio), the largest of several, the first in the ladder of
    equal ones.
    """
    if isinstance(sizes, (str, bytes)) or not isinstance(sizes, Iterable):
        raise Invalid("ladder.sizes", f"{sizes!r} is not a list", "Give a list of [width, height]")
    given: list[Size] = []
    for i, entry in enumerate(sizes):
        given.append(check_size(f"ladder.sizes[{i}]", entry))
        _check_count(len(given), "ladder.sizes")
    first: dict[Size, int] = {}
    for i, size in enumerate(given):
        if first.setdefault(size, i) != i:
            detail = f"{size[0]} x {size[1]} is a duplicate of ladder.sizes[{first[size]}]"
            raise Invalid(f"ladder.sizes[{i}]", detail, "Give each size once")
    if not given:
        raise Invalid("ladder.sizes", "there is no bucket", "Give at least one [width, height]")
    return _by_aspect(given, "ladder.sizes")


def _longest_other(side: int, area: int, low: int, step: int, limit: int) -> int:
    """The longest of low, low + step, … within the limit, for which side * other <= area; low where none
    is.
    """
    return low + max(0, (min(limit, area // side) - low) // step) * step


def _by_aspect(sizes: Iterable[Size], field: str) -> Ladder:
    # Quotients of integers up to MAX_SIDE are equal as floats only where they are equal.
    ordered = sorted(sizes, key=lambda size: (size[0] / size[1], size[0] * size[1]))
    aspects = [width / height for width, height in ordered]
    return _ladder(ordered, aspects, _squarest(ordered), field)


def _squarest(ordered: list[Size]) -> Size:
    """The size nearest to square, the largest of several, the first of equal ones."""
    return min(ordered, key=lambda size: (max(size) / min(size), -size[0] * size[1]))


def _ladder(sizes: list[Size], aspects: list[float], base: Size, field: str) -> Ladder:
    _check_count(len(sizes), field)
    table = np.array(sizes, dtype=np.int64)
    ladder = Ladder(table[:, 0].copy(), table[:, 1].copy(), np.array(aspects, dtype=np.float64), base)
    for array in (ladder.widths, ladder.heights, ladder.aspects):
        array.flags.writeable = False
    return ladder


def _check_count(count: int, field: str) -> None:
    if count > MAX_BUCKETS:
        raise Invalid(field, f"makes more than {MAX_BUCKETS} buckets", "Use larger steps or fewer sizes")


def is_integer(value: object) -> bool:
    """An integer of Python or numpy; True and False are none."""
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _aspect(field: str, value: object) -> float:
    """An aspect that three decimals can tell from 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise Invalid(field, f"{value!r} is not a number", f"Use an aspect from {1 / MAX_AR} to {MAX_AR}")
    if not 1 / MAX_AR <= value <= MAX_AR:
        raise Invalid(field, f"{value} is out of range", f"Use an aspect from {1 / MAX_AR} to {MAX_AR}")
    return float(value)


def check_side(field: str, value: object) -> int:
    """A side in pixels, 1 to ``MAX_SIDE``. Raises ``Invalid`` naming the field otherwise."""
    if not is_integer(value):
        raise Invalid(field, f"{value!r} is not an integer", f"Use an integer from 1 to {MAX_SIDE}")
    side = operator.index(value)  # type: ignore[arg-type]  # is_integer has looked
    if not 1 <= side <= MAX_SIDE:
        raise Invalid(field, f"{side} is out of range", f"Use an integer from 1 to {MAX_SIDE}")
    return side


def check_size(field: str, value: object) -> Size:
    """(width, height) in pixels. Raises ``Invalid`` naming the field otherwise."""
    hint = "Give [width, height] in pixels"
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise Invalid(field, f"{value!r} is not a pair", hint)
    sides = list(value)
    if len(sides) != 2:
        raise Invalid(field, f"{value!r} is not a pair", hint)
    return check_side(field, sides[0]), check_side(field, sides[1])
