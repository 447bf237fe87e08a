"""The stats of a plan that is not made: for ``line`` from the distinct sizes alone, with the same numbers as made."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning.build import (
    PlanSpec,
    Prepared,
    assign_all,
    check_world_size,
    new_planner,
    new_summary,
    prepare,
)
from bucketline_service.planning.order import by_bucket, count_buckets
from bucketline_service.planning.report import Images, epoch_stats
from bucketline_service.planning.sizes import Sizes

MAX_NOVELAI_IMAGES = 2_000_000

_NO_SIZES = np.empty(0, dtype=np.uint32)


def preview_line(
    spec: PlanSpec, sizes: Sizes, world_size: int, num_invalid: int | None = None
) -> dict[str, Any]:
    """``epoch_stats`` of epoch 0 over images of these sizes. ``num_invalid``: how many more the map has that
    ``valid_ids`` leaves out, None where the spec has none. Raises ``Invalid`` as planning does.

    Means are sums of floats in another order than ``prepare``'s, and may differ in the last digits; nothing else does.
    """
    counts, summary = survey(spec, sizes, num_invalid)
    prepared = Prepared(counts, np.empty(0, dtype=np.uint32), summary)
    planner = new_planner(spec, prepared, _NO_SIZES, _NO_SIZES)
    check_world_size(planner, world_size)
    return epoch_stats(spec, Images(counts, summary, _NO_SIZES, _NO_SIZES), planner, 0, world_size)


def survey(
    spec: PlanSpec, sizes: Sizes, num_invalid: int | None = None
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """What ``prepare`` finds, but for the order: ``counts`` and ``summary``, in 2 bytes a distinct size."""
    widths, heights, weights = sizes
    buckets, pruned = assign_all(spec, widths, heights, weights=weights)
    counts = count_buckets(buckets, len(spec.ladder), weights)
    if num_invalid is not None:
        pruned["valid_ids"] = num_invalid
    summary = new_summary(spec, counts, pruned)
    for rows, here in by_bucket(buckets, len(counts)):
        summary.add(widths[rows], heights[rows], here, None if weights is None else weights[rows])
    num_images = sizes.num_images + (num_invalid or 0)
    return counts, {"num_images": num_images, "pruned": pruned, **summary.to_json()}


def preview_novelai(
    spec: PlanSpec,
    widths: NDArray[np.uint32],
    heights: NDArray[np.uint32],
    int_ids: NDArray[np.int64] | None,
    world_size: int,
    valid_rows: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """``epoch_stats`` of epoch 0, which is planned for it. Raises ``Invalid`` as planning does, and for too many
    images."""
    num = len(widths if valid_rows is None else valid_rows)
    if num > MAX_NOVELAI_IMAGES:
        detail = (
            f"novelai is previewed by planning an epoch, which is done for up to {MAX_NOVELAI_IMAGES} images"
        )
        raise Invalid("planner", f"{detail}, and these are {num}", "Put the run, or preview planner: line")
    prepared = prepare(spec, widths, heights, valid_rows=valid_rows)
    planner = new_planner(spec, prepared, widths, heights, int_ids)
    check_world_size(planner, world_size)
    images = Images(prepared.counts, prepared.summary, widths, heights)
    return epoch_stats(spec, images, planner, 0, world_size)
