"""Limits: which images a run prunes because they fit their bucket badly."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets.ladder_generators import is_integer
from bucketline_service.planning.geometry import crop_loss

REASONS = ("assigned", "max_ar_error", "max_crop_loss", "min_size", "bucket_no_upscale")
"""What became of an image, in the order in which it is asked. The last: it has no bucket at all (``no_upscale``)."""

NO_BUCKET = REASONS.index("bucket_no_upscale")

Metric = Literal["log", "abs"]


class Limits(NamedTuple):
    """What prunes, None where it does not; ``max_ar_error`` is a distance of the ``metric``."""

    metric: Metric = "log"
    max_ar_error: float | None = None
    max_crop_loss: float | None = None
    min_size: int | None = None

    def checked(self) -> Limits:
        """Itself. Raises ``Invalid`` naming the field of ``assign`` that is out of range."""
        if self.metric not in ("log", "abs"):
            raise Invalid("assign.metric", f"{self.metric!r} is not known", "Use log or abs")
        error, loss = self.max_ar_error, self.max_crop_loss
        if error is not None and not (_is_real(error) and 0 < error < math.inf):
            hint = "Use a number above 0, or null for none"
            raise Invalid("assign.max_ar_error", f"{error!r} is not a limit", hint)
        if loss is not None and not (_is_real(loss) and 0 <= loss <= 1):
            hint = "Use a share from 0 to 1, or null for none"
            raise Invalid("assign.max_crop_loss", f"{loss!r} is not a limit", hint)
        if self.min_size is not None and not (is_integer(self.min_size) and self.min_size >= 0):
            hint = "Use a number of pixels, or null for none"
            raise Invalid("assign.min_size", f"{self.min_size!r} is not a limit", hint)
        return self


class Targets(NamedTuple):
    """Buckets: ``widths``, ``heights`` int64[K] in pixels, ``aspects`` float64[K]."""

    widths: NDArray[np.int64]
    heights: NDArray[np.int64]
    aspects: NDArray[np.float64]


def prune(
    widths: NDArray[np.int64],
    heights: NDArray[np.int64],
    aspects: NDArray[np.float64],
    targets: Targets,
    buckets: NDArray[np.int32] | slice,
    limits: Limits,
) -> NDArray[np.uint8]:
    """The first of ``REASONS`` that holds for each image, uint8[n]; 0 where none does. ``buckets`` [n]: the index of
    each image's among the targets."""
    reasons = np.zeros(len(widths), dtype=np.uint8)
    # the last in the order is written first, so that the first stays
    if limits.min_size is not None:
        reasons[np.minimum(widths, heights) < limits.min_size] = REASONS.index("min_size")
    if limits.max_crop_loss is not None:
        loss = crop_loss(widths, heights, targets.widths[buckets], targets.heights[buckets])
        reasons[loss > limits.max_crop_loss] = REASONS.index("max_crop_loss")
    if limits.max_ar_error is not None:
        near_to = targets.aspects[buckets]
        if limits.metric == "abs":
            near = np.abs(near_to - aspects) < limits.max_ar_error
        else:
            ratio = math.exp(min(limits.max_ar_error, 700.0))  # e ** 700 is near the largest float
            near = np.maximum(near_to, aspects) < np.minimum(near_to, aspects) * ratio
        reasons[~near] = REASONS.index("max_ar_error")
    return reasons


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
