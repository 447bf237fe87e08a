"""Advice about packs."""

from __future__ import annotations

import math

from bucketline_service.planning.packing.packing import Packing
from bucketline_service.spec.advice.planned import MAX_IMBALANCE, MAX_SHARE, Planned, PlanWarning
from bucketline_service.spec.advice.words import part_of, sentence, set_to

_LONGER = "which makes an epoch longer"


def left_out_of_packs(plan: Planned) -> PlanWarning | None:
    num, num_samples = plan.stats["dropped"], plan.stats["num_samples"]
    if num <= MAX_SHARE * num_samples:
        return None
    packs, most = _packing(plan).packs, 0.9 * MAX_SHARE  # one in 200 may have no slot all the same
    no_slot = num_samples - int(packs.slots.sum())
    message = f"An epoch leaves out {part_of(num, num_samples)}, other ones each time: "
    if 2 * no_slot > num:
        message += (
            "images are asked for a fraction of a time, and packs hold as many as every epoch asks for."
        )
    else:
        message += f"its {plan.stats['num_batches']:,} packs are few, and those that fill no step of "
        message += f"{plan.world_size:,} ranks are left out."
    # an epoch may leave out all packs of a step but one, of more images than the mean
    times = 1.25 * plan.world_size / (most * packs.num_packs)
    if no_slot <= MAX_SHARE / 5 * num_samples:
        return PlanWarning("left_out", message, sentence(_more_packs(plan, times)))
    # less than one of each length and number of repeats, however long an epoch is
    times = max(times, 2 * no_slot / (most * num_samples))
    longer = {"num_repeats": plan.spec.times * math.ceil(times)}
    return PlanWarning("left_out", message, sentence([f"{set_to(longer)}, {_LONGER}"]))


def imbalance_of_packs(plan: Planned) -> PlanWarning | None:
    imbalance = plan.stats["step_imbalance"]
    if imbalance <= MAX_IMBALANCE:
        return None
    message = f"Ranks wait for each other: the slowest of {plan.world_size:,} has {imbalance:.3f} times the mean cost "
    message += f"of a step, because an epoch has only {plan.stats['num_batches']:,} packs of "
    message += f"{plan.stats['num_shapes']:,} kinds."
    # with more packs there are hardly more steps of several kinds, but in an epoch of few steps chance has a say
    times = 2 * (1 + 2 / plan.stats["num_steps"]) * (imbalance - 1) / (MAX_IMBALANCE - 1)
    return PlanWarning("imbalance", message, sentence(_more_packs(plan, max(times, 2))))


def _more_packs(plan: Planned, times: float) -> list[str]:
    """How an epoch has so many times as many packs for each rank."""
    packing, world_size = _packing(plan), plan.world_size
    whole_steps = {"lockstep": world_size} if plan.plan.lockstep != world_size else {}
    if whole_steps and times <= 1:
        return [set_to(whole_steps)]
    more = max(math.ceil(times), 2)
    ways = []
    if (max_tokens := packing.packs.max_tokens // more) >= packing.lengths[0]:
        ways.append(
            f"{set_to({'pack.max_tokens': max_tokens, **whole_steps})}, for smaller packs, but more of them"
        )
    fields = {"num_repeats": plan.spec.times * more, **whole_steps}
    ways.append(f"{set_to(fields)}, {_LONGER}")
    if not whole_steps and world_size >= more:
        ways.append(f"use {world_size // more:,} ranks")
    return ways


def _packing(plan: Planned) -> Packing:
    packing = plan.plan.packing
    assert packing is not None
    return packing
