"""The stats of a plan that is not kept: from the distinct sizes alone where the planner's stats need no more, with the
same numbers as those of a kept plan."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning import chunked_passes
from bucketline_service.planning.assignment_stats import Summary
from bucketline_service.planning.build_plan import check_world_size, classified, new_planner, prepare
from bucketline_service.planning.images import Images
from bucketline_service.planning.line.classify import Classification
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.plan_stats import epoch_stats
from bucketline_service.planning.planner_kinds import DEFAULT
from bucketline_service.planning.prepared_plan import Prepared

MAX_PLANNED_IMAGES = 2_000_000
"""For planners whose stats need a planned epoch."""


def estimate_from_sizes(
    spec: PlanSpec, images: Images, world_size: int, num_invalid: int | None = None, num_threads: int = 1
) -> dict[str, Any]:
    """``epoch_stats`` of epoch 0 over these images, or over their distinct sizes. ``num_invalid``: how many more the
    maps have that ``valid_ids`` leaves out, None where the spec has none. Raises ``Invalid`` as planning does.

    Means are sums of floats in another order than ``prepare``'s, and may differ in the last digits; nothing else does.
    """
    prepared = classify(spec, images, num_invalid, num_threads)
    planner = new_planner(spec, prepared, images)
    check_world_size(planner, world_size)
    return epoch_stats(spec, prepared, images, planner, 0, world_size)


def classify(
    spec: PlanSpec, images: Images, num_invalid: int | None = None, num_threads: int = 1
) -> Prepared:
    """What ``prepare`` finds, except the order, which is empty; in 2 bytes per distinct size."""
    found = Classification(spec, images, num_threads=num_threads)
    found.run()
    pruned = {**found.pruned, "valid_ids": num_invalid or 0}
    classes = classified(spec, images, found, pruned)
    summary = classes.summary

    def add(chunk: int) -> Summary:
        part = found.part(chunk)
        rows, keys, sizes = found.by_key(chunk)
        of = images.read(part.start, part.stop)
        here = summary.blank()
        counts = None if of.counts is None else of.counts[rows]
        at = np.searchsorted(classes.assigned.keys, keys)
        here.add(of.widths[rows], of.heights[rows], at, sizes, counts)
        return here

    for here in chunked_passes.in_order(add, range(found.num_chunks), num_threads):
        summary.merge(here)
    num_images = images.num_images + (num_invalid or 0)
    about = {"num_images": num_images, "pruned": pruned, **classes.about(images)}
    return Prepared(classes.members, np.empty(0, dtype=np.uint32), about)


def estimate_by_planning(
    spec: PlanSpec,
    images: Images,
    int_ids: NDArray[np.int64] | None,
    world_size: int,
    valid_rows: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """``epoch_stats`` of epoch 0, which is planned for it. Raises ``Invalid`` as planning does, and for too many
    images."""
    num = images.num_rows if valid_rows is None else len(valid_rows)
    if num > MAX_PLANNED_IMAGES:
        detail = f"{spec.planner} is previewed by planning an epoch, of at most {MAX_PLANNED_IMAGES} images"
        hint = f"Put the run, or preview planner: {DEFAULT.name}"
        raise Invalid("planner", f"{detail}; these are {num}", hint)
    prepared = prepare(spec, images, valid_rows=valid_rows)
    planner = new_planner(spec, prepared, images, int_ids)
    check_world_size(planner, world_size)
    return epoch_stats(spec, prepared, images, planner, 0, world_size)
