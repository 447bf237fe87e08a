"""Advice about sizes and steps: crop, ranks that wait, sizes that no image reaches."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from bucketline_service.names import few
from bucketline_service.planning.line.units import layout_of
from bucketline_service.planning.plan_spec import Budget
from bucketline_service.planning.planner_kinds import DEFAULT
from bucketline_service.spec.advice.planned import (
    MAX_EXTRA_CROP,
    MAX_IMBALANCE,
    Planned,
    PlanWarning,
    hindrances,
    like_shift,
)
from bucketline_service.spec.advice.words import sentence, set_to, size_of
from bucketline_service.spec.batch_sizes import MAX_BATCH_SIZE


def crop(plan: Planned) -> PlanWarning | None:
    served, nearest = plan.stats["crop_loss_served"], plan.stats["crop_loss"]["mean"]
    if served - nearest <= MAX_EXTRA_CROP:
        return None
    message = (
        f"Images lose {served:.1%} of their pixels as they are served, but {nearest:.1%} in their own buckets"
    )
    if num := plan.stats["spilled"]:
        message += f": an epoch serves {num:,} images in another one"
    elif num := plan.stats["moved"]:
        message += f": {num:,} images were moved to another one"
    ways = []
    if not plan.spec.planner_kind.has_units:
        ways.append(f'use planner "{DEFAULT.name}"')
    elif not plan.is_balanced:
        ways.append(
            'set steps to "balanced" and leave tails out, with which far fewer images leave their own'
        )
    elif plan.spec.tails != "shift" and plan.moving == "shift":
        ways.append('set tails to "shift", which moves the images that lose the least')
    if plan.spec.planner_kind.has_units and plan.tails != "pad":
        ways.append('set tails to "pad", which serves each image in its own bucket and repeats some')
    fewer = (
        "use fewer sizes or smaller batches"
        if plan.is_balanced
        else "use fewer sizes, smaller batches or fewer ranks"
    )
    return PlanWarning("crop", f"{message}.", sentence([*ways, fewer]))


def imbalance(plan: Planned) -> PlanWarning | None:
    imbalance = plan.stats["step_imbalance"]
    if imbalance <= MAX_IMBALANCE:
        return None
    message = f"Ranks wait for each other: the slowest of {plan.world_size:,} has {imbalance:.3f} times the mean cost "
    message += "of a step."
    if not plan.spec.planner_kind.has_units:
        return PlanWarning("imbalance", message, f'Use planner "{DEFAULT.name}".')
    whole_steps = {"lockstep": plan.world_size} if plan.has_unfinished_step else {}
    ways = []
    if not plan.is_balanced:
        ways.append(f"{set_to(whole_steps)}, so that a step has one size")
    ways += _like_batches(plan)
    if plan.is_balanced and _may_have_one_shape(plan):
        fields = {"steps": "same_shape", **whole_steps}
        ways.append(
            f"{set_to(fields)} and leave tails and last_step out, where one shape at a step is worth its crop"
        )
    return PlanWarning("imbalance", message, sentence(ways or ["use fewer ranks"]))


def _like_batches(plan: Planned) -> list[str]:
    """How batches cost about the same, where there are enough of these for a step."""
    of, is_served = plan.plan, [each["num_batches"] > 0 for each in plan.stats["buckets"]]
    given, is_of_pixels = of.batch_size, plan.spec.cost.kind == "pixels"
    if isinstance(given, Budget) and (is_of_pixels or given.is_of_cost):
        return ["raise the budget, of which whole images then fill more"]
    budget = Budget(
        "max_pixels_per_batch" if is_of_pixels else "max_cost_per_batch",
        0.0,
        most=MAX_BATCH_SIZE,
        is_of_cost=not is_of_pixels,
    )
    # one image of the largest size, which may be one that no image has, must have room
    least = float(replace(of, batch_size=1).costs.max())
    for limit in (max(least, float(of.costs[is_served].max())), least):
        alike = replace(of, batch_size=budget._replace(limit=limit), tails=like_shift(plan.tails))
        if plan.has_step(layout_of(alike, plan.samples)):
            value = int(limit) if limit.is_integer() else limit
            instead = given.field if isinstance(given, Budget) else "batch_size"
            return [f"give {budget.field} {value} instead of {instead}, so that batches cost about the same"]
    return []


def _may_have_one_shape(plan: Planned) -> bool:
    """Whether some section has the images of a unit whose batches have one shape."""
    of_sections = np.add.reduceat(plan.samples, [section.first for section in plan.plan.sections])
    lockstep = plan.world_size if plan.has_unfinished_step else plan.plan.lockstep
    return bool(of_sections.max() >= lockstep * plan.largest)


def unreachable_sizes(plan: Planned) -> PlanWarning | None:
    all_sizes = plan.stats["buckets"]
    found = [all_sizes[target] for target in plan.unreached]
    num = sum(each["num_images"] for each in found)
    if num < sum(each["num_images"] for each in all_sizes) and not plan.spec.ladder.lists_sizes:
        # that some images are scaled up is how ladders of one area work; that all of them are is not meant
        num, found = 0, [each for each in found if not each["num_batches"] and not each["num_images"]]
    if not found:
        return None
    found.sort(key=lambda each: (each["width"] * each["height"], each["width"]))
    lengths = {each["num_frames"] for each in all_sizes if each["num_images"]}
    empty_lengths = sorted({each["num_frames"] for each in found} - lengths)
    size = "as wide, as high and as long as" if plan.spec.frame_buckets else "as wide and as high as"
    how_many = "any" if len(found) == len(all_sizes) else f"{len(found):,}"
    message = f"No image is {size} {how_many} of the ladder's {len(all_sizes):,} sizes "
    message += f"({few([size_of(each) for each in found])}), "
    message += f"to which {num:,} images are scaled up." if num else "which stay empty."
    if empty_lengths:
        remedy = f"Leave {few([str(each) for each in empty_lengths])} out of frame_buckets."
        return PlanWarning("unreachable_sizes", message, remedy)
    ways = [plan.spec.ladder.smaller] if plan.spec.ladder.smaller else []
    if plan.spec.planner_kind.has_units:
        side = math.isqrt(max(each["width"] * each["height"] for each in all_sizes))
        kohya = f'{{"kind": "kohya", "resolution": {side}, "bucket_no_upscale": true}}'
        ways.append(f"use the ladder {kohya}, which scales no image up")
    return PlanWarning("unreachable_sizes", message, sentence(ways))


def shift_not_possible(plan: Planned) -> PlanWarning | None:
    # on other ranks, boundaries that were moved for units of one shape make none: epochs are laid out anew
    is_laid_anew = not plan.is_balanced and plan.plan.lockstep != plan.spec.lockstep
    if plan.spec.tails == plan.tails or is_laid_anew:
        return None
    message = f'With this spec and these maps, tails "{plan.spec.tails}" is not possible; the plan has tails '
    message += f'"{plan.tails}".'
    # with none in the spec it is the maps' own repeats, or so many buckets of such large batches that it takes too long
    found = hindrances(plan) or [
        "a map in which all images have the same whole num_repeats, or smaller batches or fewer sizes"
    ]
    ways = " and ".join(found)
    return PlanWarning(
        "shift_not_possible", message, f'Use {ways}; or tails "{plan.tails}", which is what it has.'
    )
