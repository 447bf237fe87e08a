"""The units of the ``line`` planner's epochs, as a plan spec has them: how many there are, and whether there is one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning.line import remainders
from bucketline_service.planning.line.batch_kinds import Dealing
from bucketline_service.planning.line.dealt_batches import DealtBatches
from bucketline_service.planning.line.dealt_packs import DealtPacks
from bucketline_service.planning.line.remainders import POLICIES, Layout, may_serve
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.packing.packing import Packing
from bucketline_service.planning.plan_spec import Budget, PlanSpec

_I64 = NDArray[np.int64]


def layout_of(spec: PlanSpec, counts: _I64) -> Layout:
    """The ``line`` planner's layout of ``counts`` int64[B] samples."""
    return POLICIES[spec.tails](counts, spec.batch_sizes, spec.multiple, _edges(spec))


def dealing_of(spec: PlanSpec, counts: _I64) -> Dealing:
    """What epochs of ``counts`` int64[B] samples deal."""
    if spec.packing is not None:
        packs = spec.packing.packs
        num_units, numbers = _units_of(spec, packs.num_packs), _pack_numbers(spec.packing)
        return DealtPacks(packs, counts, num_units, spec.lockstep, spec.costs, numbers)
    layout = layout_of(spec, counts)
    num_units = _units_of(spec, int(layout.num_batches.sum()))
    return DealtBatches(layout, num_units, spec.lockstep, spec.costs, shape_numbers(spec))


def in_service(spec: PlanSpec, quotas: SampleQuotas) -> NDArray[np.bool_]:
    """bool[B]: False where ``line`` serves no place of the bucket in any epoch (``remainders.may_serve``). Packs leave
    out no length in every epoch."""
    if spec.packing is not None:
        return quotas.most() > 0
    return may_serve(spec.tails, quotas.least(), quotas.most(), spec.batch_sizes, spec.multiple, _edges(spec))


def _edges(spec: PlanSpec) -> list[int]:
    return [section.first for section in spec.sections] + [spec.num_buckets]


def least_units(spec: PlanSpec, quotas: SampleQuotas) -> int:
    """Units that every epoch of the ``line`` planner has at least."""
    return _units_of(spec, _least_batches(spec, quotas))


def _units_of(spec: PlanSpec, num_batches: int) -> int:
    """Units of an epoch that has so many batches or packs."""
    is_filled = spec.last_step == "fill" or spec.tails == "short"
    return -(-num_batches // spec.lockstep) if is_filled else num_batches // spec.lockstep


def _least_batches(spec: PlanSpec, quotas: SampleQuotas) -> int:
    """Batches that every epoch has at least, before those that fill no unit are left out."""
    if spec.packing is not None:
        return spec.packing.packs.num_packs
    if quotas.is_steady:
        return int(layout_of(spec, quotas.least()).num_batches.sum())
    num = remainders.least_batches(spec.tails, quotas.least(), spec.batch_sizes, spec.multiple, _edges(spec))
    return max(num, spec.multiple * int(quotas.least_together > 0)) if spec.tails == "pad" else num


def check_units(spec: PlanSpec, quotas: SampleQuotas, may_come: bool) -> None:
    """Raise ``Invalid`` where an epoch may have no unit. ``may_come``: whether each would have an image if all lengths
    kept all of their clips."""
    if least_units(spec, quotas) > 0:
        return
    if not quotas.least_together:
        detail = f"an epoch asks for {quotas.samples.sum():.3g} images, and so may have none"
        if may_come:
            hint = "Let a length keep more of its clips: give it a larger keep_prob, or 1"
            raise Invalid("frame_buckets", f"keep_prob is so small that {detail}", hint)
        raise Invalid("num_repeats", detail, "Raise num_repeats, or plan more images")
    if spec.packing is not None:
        raise _too_few_packs(spec, spec.packing)
    raise _too_few_batches(spec, quotas) if spec.steps == "balanced" else _too_few_units(spec, quotas)


def _too_few_packs(spec: PlanSpec, packing: Packing) -> Invalid:
    packs = packing.packs
    num, most = packs.num_packs, packs.max_tokens
    have = f"{num} {'pack' if num == 1 else 'packs'} of {most:,} tokens"
    detail = f"a unit is lockstep {spec.lockstep} packs, but an epoch has only {have}"
    # that many packs are not quite full
    enough = int(packs.slots @ packs.lengths * 3 / 4) // spec.lockstep
    if enough >= packing.lengths[0]:
        return Invalid("pack.max_tokens", detail, f"Use at most {enough:,}, fewer ranks, or plan more images")
    ranks = f"at most {num} {'rank' if num == 1 else 'ranks'}" if num else "fewer ranks"
    return Invalid("pack", detail, f"Use {ranks}, or a lockstep as small, or plan more images")


def _too_few_batches(spec: PlanSpec, quotas: SampleQuotas) -> Invalid:
    num = _least_batches(spec, quotas)
    small, large = int(spec.batch_sizes.min()), int(spec.batch_sizes.max())
    batch = f"batch_size {small}" if small == large else f"{small} to {large} images"
    have = f"an epoch has only {num} whole {'batch' if num == 1 else 'batches'}"
    most = _largest_batches(spec, quotas)
    hints = [
        f"It may be at most {_written(most)}"
        if most
        else "Use fewer ranks or a smaller lockstep, or plan more images"
    ]
    if num and spec.last_step == "drop":
        hints.append("use last_step: fill")
    elif spec.tails != "pad":
        # one batch of each bucket that has images: those may be fewer than a step has
        is_enough = spec.last_step == "fill" or least_units(replace(spec, tails="pad"), quotas) > 0
        hints.append(f"use tails: pad{'' if is_enough else ' with last_step: fill'}")
    detail = f"a unit is lockstep {spec.lockstep} x {batch}, but {have}"
    return Invalid(_field(spec), detail, ", or ".join(hints))


def _too_few_units(spec: PlanSpec, quotas: SampleQuotas) -> Invalid:
    counts = quotas.least()
    num_samples = int(counts.sum())
    small, large = int(spec.batch_sizes.min()), int(spec.batch_sizes.max())
    unit = spec.lockstep * small
    batch = f"batch_size {small}" if small == large else f"batch sizes from {small} up"
    what = f"a unit is lockstep {spec.lockstep} x {batch} = {unit} images"
    if num_samples >= unit:
        if spec.tails == "drop" and least_units(replace(spec, tails="spill"), quotas):
            return Invalid("tails", f"{what}, but no bucket has as many", "Use tails: spill or pad")
        which = "no bucket has" if spec.tails == "drop" else "no tier or length is certain to have"
        return Invalid("tails", f"{what}, but {which} as many", "Use tails: pad")
    # drop takes no image from one bucket to another, and spill none from one section
    most = int(counts.max() if spec.tails == "drop" else np.add.reduceat(counts, _edges(spec)[:-1]).max())
    smaller = f"lockstep x batch_size may be at most {most}" if most else "Plan more images"
    if isinstance(spec.batch_size, Budget):
        limit = _largest_batches(spec, quotas)
        smaller = (
            f"It may be at most {_written(limit)}" if limit else "Plan more images, use a smaller lockstep"
        )
    return Invalid(
        _field(spec), f"{what}, but only {num_samples} are assigned", f"{smaller}, or use tails: pad"
    )


def _written(limit: float) -> str:
    """To six digits where it is no whole number, and never more than it is."""
    return f"{limit:,}" if isinstance(limit, int) else f"{limit * (1 - 5e-7):,.6g}"


def _field(spec: PlanSpec) -> str:
    """Of the spec: what makes batches as large as they are."""
    return spec.batch_size.field if isinstance(spec.batch_size, Budget) else "batch_size"


def _largest_batches(spec: PlanSpec, quotas: SampleQuotas) -> float | None:
    """A lower budget or batch size that does, None where none is sure to. The largest, but where more would do again,
    or where a budget may move images to buckets of larger batches. A budget of cost, not a whole number, is found to a
    millionth of what was given."""
    given = spec.batch_size
    assert not isinstance(given, Packing)
    # images that are moved for batches of one size are moved otherwise for another, or not at all, and then spill
    may_shift = spec.tails == "shift" or (spec.tails == "spill" and isinstance(given, Budget))
    spec = replace(spec, tails="spill") if spec.tails == "shift" else spec

    def does(limit: float) -> bool:
        batch_size = given._replace(limit=limit) if isinstance(given, Budget) else int(limit)
        of = replace(spec, batch_size=batch_size)
        is_sure = not may_shift or _units_of(of, _least_shifted(of, quotas)) > 0
        return is_sure and least_units(of, quotas) > 0

    low, high = (spec.least_limit, given.limit) if isinstance(given, Budget) else (1, given)
    if low >= high or not does(low):
        return None
    is_of_cost = isinstance(given, Budget) and given.is_of_cost
    step = high * 1e-6 if is_of_cost else 1
    while high - low > step:
        middle = (low + high) / 2 if is_of_cost else (low + high) // 2
        low, high = (middle, high) if does(middle) else (low, middle)
    return low


def _least_shifted(spec: PlanSpec, quotas: SampleQuotas) -> int:
    """Batches that there are at least, whichever images are moved: a section leaves out less than a unit of a bucket.
    It may be one that has no images now, because these were moved for other batch sizes."""
    edges = _edges(spec)[:-1]
    totals = np.add.reduceat(quotas.least(), edges)
    largest = np.maximum.reduceat(spec.batch_sizes * spec.multiple, edges)
    return spec.multiple * int((totals // largest).sum())


def shape_numbers(spec: PlanSpec) -> _I64:
    """int64[G]: equal where targets have one shape; ascending, the largest batch in pixels first."""
    shapes: dict[tuple[int, int, int], list[int]] = {}
    for target, (size, frames) in enumerate(zip(spec.targets, spec.target_frames.tolist(), strict=True)):
        shapes.setdefault((*size, frames), []).append(target)
    found = np.empty(len(spec.targets), dtype=np.int64)
    ordered = sorted(shapes.values(), key=lambda targets: -int(spec.pixels[targets[0]]))
    for number, targets in enumerate(ordered):
        found[targets] = number
    return found


def _pack_numbers(packing: Packing) -> _I64:
    """int64[J]: of each kind of pack, those with the most tokens first, of these those with the longest slots."""
    packs = packing.packs
    numbers = np.empty(len(packs.kinds), dtype=np.int64)
    # kinds with the longest slots come first as they are
    numbers[np.argsort(-(packs.kinds @ packs.lengths), kind="stable")] = np.arange(len(numbers))
    return numbers
