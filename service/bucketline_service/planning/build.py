"""From a spec and a map's sizes to a planner: assign once, sort once, then everything is arithmetic."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning.assignment import REASONS, Assignment, assign
from bucketline_service.planning.ladder import Ladder
from bucketline_service.planning.line import LinePlanner
from bucketline_service.planning.novelai import NovelaiPlanner
from bucketline_service.planning.order import CHUNK, count_buckets, fill_order, tally
from bucketline_service.planning.plan import Planner
from bucketline_service.planning.stats import Summary
from bucketline_service.planning.tails import POLICIES, Layout

VERSION = 1
"""Part of every fingerprint: raise it where the same spec would plan otherwise."""


@dataclass(frozen=True)
class PlanSpec:
    """All that a plan depends on beside the map. ``ladder`` is in order of aspect for ``line``, in the original's own
    order for ``novelai``. Lengths in pixels; ``lockstep`` in batches; ``seed`` in [0, 2**32)."""

    planner: Literal["line", "novelai"]
    ladder: Ladder
    batch_size: int
    seed: int
    lockstep: int
    tails: Literal["spill", "pad", "drop", "catch_all"]
    metric: Literal["log", "abs"] = "log"
    max_ar_error: float | None = None
    max_crop_loss: float | None = None
    min_size: int | None = None

    def assign(self, widths: NDArray[np.uint32], heights: NDArray[np.uint32]) -> Assignment:
        """Where images of these sizes belong."""
        return assign(
            widths,
            heights,
            self.ladder,
            metric=self.metric,
            max_ar_error=self.max_ar_error,
            max_crop_loss=self.max_crop_loss,
            min_size=self.min_size,
        )

    @property
    def targets(self) -> list[tuple[int, int]]:
        """(width, height) of every bucket that batches are drawn from; a catch-all stands last."""
        sizes = self.ladder.sizes
        return [*sizes, self.ladder.base] if self.tails == "catch_all" else sizes

    @property
    def batch_sizes(self) -> NDArray[np.int64]:
        """int64[G]: images a batch of each target."""
        return np.full(len(self.targets), self.batch_size, dtype=np.int64)


@dataclass(frozen=True)
class Prepared:
    """What is kept of a plan. ``order`` uint32[N]: rows by bucket; ``counts`` int64[B]; ``summary``: JSON, the share of
    the stats that costs a pass over the images."""

    counts: NDArray[np.int64]
    order: NDArray[np.uint32]
    summary: dict[str, Any]

    def holds(self, row: int, bucket: int) -> bool:
        """Whether the row stands in the bucket: the rows of one are ascending."""
        begin = int(self.counts[:bucket].sum())
        mine = self.order[begin : begin + int(self.counts[bucket])]
        at = int(np.searchsorted(mine, row))
        return at < len(mine) and int(mine[at]) == row


def prepare(
    spec: PlanSpec,
    widths: NDArray[np.uint32],
    heights: NDArray[np.uint32],
    *,
    valid_rows: NDArray[np.int64] | None = None,
    new_order: Callable[[int], NDArray[np.uint32]] = lambda num: np.empty(num, dtype=np.uint32),
    on_progress: Callable[[float], None] = lambda share: None,
) -> Prepared:
    """Assign every image and sort the rows by bucket, in two passes over chunks of rows: beside the result that takes
    2 bytes an image.

    ``new_order(N)`` gives the array to write into (a file's, say); ``on_progress`` hears what share is done, 0 to 1.
    Errors: ``Invalid`` where no image is left, or too few for a single unit.
    """
    buckets, pruned = assign_all(spec, widths, heights, valid_rows=valid_rows, on_progress=on_progress)
    counts = count_buckets(buckets, len(spec.ladder))
    summary = new_summary(spec, counts, pruned)
    order = new_order(int(counts.sum()))
    num_done = 0
    for rows, sizes in fill_order(buckets, counts, order):
        summary.add(widths[rows], heights[rows], sizes)
        num_done += len(rows)
        on_progress(0.5 + 0.5 * num_done / len(order))
    return Prepared(counts, order, {"num_images": len(widths), "pruned": pruned, **summary.to_json()})


def assign_all(
    spec: PlanSpec,
    widths: NDArray[np.uint32],
    heights: NDArray[np.uint32],
    *,
    weights: NDArray[np.int64] | None = None,
    valid_rows: NDArray[np.int64] | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> tuple[NDArray[np.int16], dict[str, int]]:
    """The bucket of every row, -1 where it is pruned, and how many images are pruned by each reason. Rows that are not
    valid are counted as ``valid_ids``, and for no other reason. ``weights``: how many images each row stands for, one
    unless given; not to be given with ``valid_rows``."""
    buckets = np.empty(len(widths), dtype=np.int16)
    reasons = np.zeros(len(REASONS), dtype=np.int64)
    is_valid = None
    if valid_rows is not None:
        is_valid = np.zeros(len(widths), dtype=np.bool_)
        is_valid[valid_rows] = True
    for begin in range(0, len(widths), CHUNK):
        part = slice(begin, begin + CHUNK)
        found = spec.assign(widths[part], heights[part])
        counted = found.reasons
        if is_valid is not None:
            found.buckets[~is_valid[part]] = -1
            counted = found.reasons[is_valid[part]]
        buckets[part] = found.buckets
        reasons += tally(counted, len(REASONS), None if weights is None else weights[part])
        on_progress(0.5 * min(begin + CHUNK, len(widths)) / len(widths))
    pruned = dict(zip(REASONS, reasons.tolist(), strict=True))
    del pruned["assigned"]
    if is_valid is not None:
        pruned["valid_ids"] = len(buckets) - int(is_valid.sum())
    return buckets, pruned


def new_summary(spec: PlanSpec, counts: NDArray[np.int64], pruned: dict[str, int]) -> Summary:
    """What sums up the ``counts`` int64[B] assigned images. Raises ``Invalid`` where they make no epoch."""
    _check(spec, counts, pruned)
    flows = layout_of(spec, counts).flows() if spec.planner == "line" else []
    return Summary(spec.ladder, spec.targets, flows, counts)


def layout_of(spec: PlanSpec, counts: NDArray[np.int64]) -> Layout:
    """The ``line`` planner's layout of ``counts`` int64[B] images."""
    return POLICIES[spec.tails](counts, spec.batch_sizes * spec.lockstep)


def _check(spec: PlanSpec, counts: NDArray[np.int64], pruned: dict[str, int]) -> None:
    num_images = int(counts.sum())
    if num_images == 0:
        reasons = ", ".join(f"{num} by {reason}" for reason, num in pruned.items() if num)
        raise Invalid("assign", f"all images are pruned: {reasons}", "Loosen the limits or widen the ladder")
    if spec.planner == "novelai" or layout_of(spec, counts).num_units.sum() > 0:
        return
    unit = spec.lockstep * spec.batch_size
    what = f"a unit is lockstep {spec.lockstep} x batch_size {spec.batch_size} = {unit} images"
    if num_images >= unit:
        raise Invalid("tails", f"{what}, and no bucket holds as many", "Use tails: spill or pad")
    # drop takes no image from one bucket to another
    most = int(counts.max()) if spec.tails == "drop" else num_images
    raise Invalid(
        "batch_size",
        f"{what}, and only {num_images} are assigned",
        f"lockstep x batch_size may be at most {most}, or use tails: pad",
    )


def check_world_size(planner: Planner, world_size: int) -> None:
    """Raise ``Invalid`` where an epoch has no step for so many ranks."""
    num = planner.num_batches(0, world_size)
    if num < world_size:
        detail = f"{world_size} ranks, and an epoch has {num} batches"
        raise Invalid("world_size", detail, f"It may be at most {num}")


def new_planner(
    spec: PlanSpec,
    prepared: Prepared,
    widths: NDArray[np.uint32],
    heights: NDArray[np.uint32],
    int_ids: NDArray[np.int64] | None = None,
    checkpoints: MutableMapping[tuple[int, int], bytes] | None = None,
) -> Planner:
    """The planner of prepared rows. ``novelai`` needs ``int_ids`` int64 of every row, and keeps its generators' states
    in ``checkpoints``."""
    counts, order = prepared.counts, prepared.order
    if spec.planner == "novelai":
        if int_ids is None:
            raise Invalid("planner", "novelai needs integer ids", "Use planner: line for string ids")
        buckets = np.full(len(widths), -1, dtype=np.int32)
        buckets[order] = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        return NovelaiPlanner(
            int_ids, buckets, spec.ladder, spec.batch_size, spec.seed, checkpoints=checkpoints
        )

    def bucket_of(row: int) -> int:
        bucket = int(
            assign(widths[row : row + 1], heights[row : row + 1], spec.ladder, metric=spec.metric).buckets[0]
        )
        return bucket if prepared.holds(row, bucket) else -1

    return LinePlanner(
        order,
        counts,
        layout_of(spec, counts),
        batch_sizes=spec.batch_sizes,
        lockstep=spec.lockstep,
        seed=spec.seed,
        bucket_of=bucket_of,
    )
