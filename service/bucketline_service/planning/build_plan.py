"""From a spec and the sizes of images to a planner: assign once, sort once, then everything is arithmetic."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning import chunked_map
from bucketline_service.planning.assignment_stats import Summary
from bucketline_service.planning.images import Images
from bucketline_service.planning.line import remainders
from bucketline_service.planning.line.classify import Desk, Memory, Survey
from bucketline_service.planning.line.image_classes import Groups, Sorter, none_left
from bucketline_service.planning.line.planner import LinePlanner
from bucketline_service.planning.line.remainders import POLICIES, Layout, may_serve
from bucketline_service.planning.line.sample_quotas import Portions
from bucketline_service.planning.novelai.planner import NovelaiPlanner
from bucketline_service.planning.plan_spec import Budget, PlanSpec
from bucketline_service.planning.planner import Planner

VERSION = 2
"""Part of every fingerprint: raise it where the same spec would plan otherwise."""

VERSION_BY_SIZE = 3
"""The same for plans that choose among buckets of one aspect by size (``PlanSpec.same_aspect``). Those of before took
the first, and are of ``VERSION``."""

_I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """What is kept of a plan. ``order`` uint32[N]: rows by group; ``summary``: JSON, the share of the stats that costs
    a pass over the images."""

    groups: Groups
    order: NDArray[np.uint32]
    summary: dict[str, Any]

    @cached_property
    def starts(self) -> _I64:
        """int64[G]: where each group begins in ``order``."""
        return self.groups.starts

    def find(self, sorter: Sorter, images: Images, row: int) -> tuple[int, int] | None:
        """The group of a row and its place there; None where the row is in none."""
        keys, _ = sorter.keys(images.read(row, row + 1))
        group = int(np.searchsorted(self.groups.keys, keys[0]))
        if keys[0] < 0 or group == len(self.groups.keys) or self.groups.keys[group] != keys[0]:
            return None
        begin = int(self.starts[group])
        # the rows of a group are ascending
        mine = self.order[begin : begin + int(self.groups.counts[group])]
        # of their own type: a wider one would copy them all
        at = int(np.searchsorted(mine, np.uint32(row)))
        return (group, at) if at < len(mine) and int(mine[at]) == row else None


def prepare(
    spec: PlanSpec,
    images: Images,
    *,
    valid_rows: _I64 | None = None,
    desk: Desk | None = None,
    num_threads: int = 1,
) -> Prepared:
    """Assign every image and sort the rows by group, in two passes over chunks of rows: beside the result that takes
    2 bytes an image. ``num_threads`` changes nothing but the time.

    Errors: ``Invalid`` where no image is left, or too few for a single unit.
    """
    desk = desk or Memory()
    if spec.planner == "novelai" and (images.repeats != 1).any():
        detail = "novelai takes every image once, and the map says how often they come"
        raise Invalid("planner", detail, "Use planner: line, or put the map without its num_repeats column")
    survey = Survey(spec, images, valid_rows, desk, num_threads)
    survey.run()
    groups = survey.sorter.groups(survey.keys, survey.counts)
    summary = new_summary(spec, images, survey.sorter, groups, survey.pruned)
    order = desk.array("order", int(groups.counts.sum()), np.uint32)
    _sort(survey, groups, summary, order)
    about = {"num_images": images.num_images, "pruned": survey.pruned, **summary.to_json()}
    return Prepared(groups, order, about)


def _sort(survey: Survey, groups: Groups, summary: Summary, order: NDArray[np.uint32]) -> None:
    """The second pass, a counting sort: each chunk knows from the first where its rows go, so that it does not matter
    in which order, or how often, they are written."""
    begins: list[_I64] = []
    ends = groups.starts
    for keys, counts in survey.chunks:
        at = np.searchsorted(groups.keys, keys)
        begins.append(ends[at])
        ends[at] += counts

    def fill(chunk: int) -> Summary:
        part = survey.part(chunk)
        rows, at, sizes = survey.by_group(chunk)
        numbers = (rows + part.start).astype(np.uint32)
        begin = 0
        for first, size in zip(begins[chunk].tolist(), sizes.tolist(), strict=True):
            order[first : first + size] = numbers[begin : begin + size]
            begin += size
        of = survey.images.read(part.start, part.stop)
        found = summary.blank()
        found.add(of.widths[rows], of.heights[rows], at, sizes)
        return found

    first = 0
    if "sorted" in survey.state:
        first = int(survey.state["sorted"][0])
        summary.restore(survey.state)
    for done, found in enumerate(
        chunked_map.in_order(fill, range(first, survey.num_chunks), survey.num_threads), first + 1
    ):
        summary.merge(found)
        num = np.array([done])
        survey.desk.keep(lambda num=num: {**survey.arrays(), **summary.arrays(), "sorted": num})  # type: ignore[misc]
        survey.desk.tell(0.5 + 0.5 * done / survey.num_chunks)


def new_summary(
    spec: PlanSpec, images: Images, sorter: Sorter, groups: Groups, pruned: dict[str, int]
) -> Summary:
    """What sums up these images. Raises ``Invalid`` where they make no epoch."""
    if not len(groups.keys):
        raise none_left(pruned, spec.frame_buckets, images)
    portions = Portions.of(sorter, groups, spec.num_buckets)
    flows: list[tuple[int, int, int]] = []
    if spec.planner == "line":
        _check_units(spec, portions, may_come=bool((groups.samples * groups.counts >= 1).any()))
        flows = layout_of(spec, portions.cuts(spec.seed, 0).counts).flows()
    return Summary(spec.targets, spec.aspects, portions, flows)


def layout_of(spec: PlanSpec, counts: _I64) -> Layout:
    """The ``line`` planner's layout of ``counts`` int64[B] samples."""
    return POLICIES[spec.tails](counts, spec.batch_sizes * spec.lockstep, _edges(spec))


def in_service(spec: PlanSpec, portions: Portions) -> NDArray[np.bool_]:
    """bool[B]: False where the ``line`` planner serves no place of the bucket in any epoch (``tails.may_serve``)."""
    return may_serve(
        spec.tails, portions.least(), portions.most(), spec.batch_sizes * spec.lockstep, _edges(spec)
    )


def _edges(spec: PlanSpec) -> list[int]:
    return [section.first for section in spec.sections] + [spec.num_buckets]


def least_units(spec: PlanSpec, portions: Portions) -> int:
    """Units that every epoch of the ``line`` planner has at least."""
    if portions.is_steady:
        return int(layout_of(spec, portions.least()).num_units.sum())
    units = spec.batch_sizes * spec.lockstep
    num = remainders.least_units(spec.tails, portions.least(), units, _edges(spec))
    return max(num, int(portions.least_together > 0)) if spec.tails == "pad" else num


def _check_units(spec: PlanSpec, portions: Portions, may_come: bool) -> None:
    """Raise ``Invalid`` where an epoch may have no unit. ``may_come``: whether each would have an image if all lengths
    kept all of their clips."""
    if least_units(spec, portions) > 0:
        return
    if not portions.least_together:
        detail = f"an epoch asks for {portions.samples.sum():.3g} images, and may have none"
        if may_come:
            hint = "Let a length keep more of its clips: give it a larger keep_prob, or 1"
            raise Invalid("frame_buckets", f"keep_prob is so small that {detail}", hint)
        raise Invalid("num_repeats", detail, "Let images come oftener, or plan more of them")
    counts = portions.least()
    num_samples = int(counts.sum())
    small, large = int(spec.batch_sizes.min()), int(spec.batch_sizes.max())
    unit = spec.lockstep * small
    batch = f"batch_size {small}" if small == large else f"batch sizes from {small} on"
    what = f"a unit is lockstep {spec.lockstep} x {batch} = {unit} images"
    field = spec.batch_size.field if isinstance(spec.batch_size, Budget) else "batch_size"
    if num_samples >= unit:
        if spec.tails == "drop" and least_units(replace(spec, tails="spill"), portions):
            raise Invalid("tails", f"{what}, and no bucket holds as many", "Use tails: spill or pad")
        which = "no bucket holds" if spec.tails == "drop" else "no tier or length is sure to hold"
        raise Invalid("tails", f"{what}, and {which} as many", "Use tails: pad")
    # drop takes no image from one bucket to another, and spill none from one section
    most = int(counts.max() if spec.tails == "drop" else np.add.reduceat(counts, _edges(spec)[:-1]).max())
    smaller = f"lockstep x batch_size may be at most {most}" if most else "Plan more images"
    if isinstance(spec.batch_size, Budget):
        limit = _largest_limit(spec, portions)
        smaller = f"It may be at most {limit:,}" if limit else "Plan more images, take a smaller lockstep"
    raise Invalid(field, f"{what}, and only {num_samples} are assigned", f"{smaller}, or use tails: pad")


def _largest_limit(spec: PlanSpec, portions: Portions) -> int | None:
    """A lower budget that does, the largest but where more would do again; None where none does."""
    budget = spec.batch_size
    assert isinstance(budget, Budget)

    def does(limit: int) -> bool:
        return least_units(replace(spec, batch_size=budget._replace(limit=limit)), portions) > 0

    low, high = spec.least_limit, budget.limit
    if low >= high or not does(low):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if does(middle) else (low, middle)
    return low


def check_world_size(planner: Planner, world_size: int) -> None:
    """Raise ``Invalid`` where an epoch has no step for so many ranks."""
    num = planner.least_batches(world_size)
    if num < world_size:
        detail = f"{world_size} ranks, and an epoch has {'' if planner.is_steady else 'at least '}{num} "
        detail += "batch" if num == 1 else "batches"
        sure = "" if planner.is_steady else ", the number that every epoch is sure to have"
        raise Invalid("world_size", detail, f"It may be at most {num}{sure}")


def new_planner(
    spec: PlanSpec,
    prepared: Prepared,
    images: Images,
    int_ids: NDArray[np.int64] | None = None,
    checkpoints: MutableMapping[tuple[int, int], bytes] | None = None,
) -> Planner:
    """The planner of prepared rows. ``novelai`` needs ``int_ids`` int64 of every row, and keeps its generators' states
    in ``checkpoints``."""
    groups = prepared.groups
    sorter = Sorter(spec, images)
    portions = Portions.of(sorter, groups, spec.num_buckets)
    if spec.planner == "novelai":
        if int_ids is None:
            raise Invalid("planner", "novelai needs integer ids", "Use planner: line for string ids")
        assert isinstance(spec.batch_size, int)
        buckets = np.full(images.num_rows, -1, dtype=np.int32)
        buckets[prepared.order] = np.repeat(portions.buckets.astype(np.int32), groups.counts)
        return NovelaiPlanner(
            int_ids, buckets, spec.ladder, spec.batch_size, spec.seed, checkpoints=checkpoints
        )
    return LinePlanner(
        prepared.order,
        groups,
        portions,
        lambda counts: layout_of(spec, counts),
        batch_sizes=spec.batch_sizes,
        lockstep=spec.lockstep,
        seed=spec.seed,
        find=lambda row: prepared.find(sorter, images, row),
        largest_first=_largest_first(spec) if spec.first == "largest" else [],
        least_units=least_units(spec, portions),
    )


def _largest_first(spec: PlanSpec) -> list[list[int]]:
    """The targets of each distinct shape, the largest batch in pixels first."""
    shapes: dict[tuple[int, int, int], list[int]] = {}
    for target, (size, frames) in enumerate(zip(spec.targets, spec.target_frames.tolist(), strict=True)):
        shapes.setdefault((*size, frames), []).append(target)
    return sorted(shapes.values(), key=lambda targets: -int(spec.pixels[targets[0]]))
