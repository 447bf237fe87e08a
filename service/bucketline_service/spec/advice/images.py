"""Advice about images: those that are pruned, left out, never served or repeated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bucketline_service.names import few
from bucketline_service.planning.planner_kinds import DEFAULT
from bucketline_service.spec.advice.planned import LEAVES, MAX_SHARE, Planned, PlanWarning
from bucketline_service.spec.advice.words import part_of, sentence, set_to, size_of
from bucketline_service.spec.ladder_kinds import NativeLadder
from bucketline_service.spec.run_spec import PlanFields


def pruned(plan: Planned) -> PlanWarning | None:
    # images that valid_ids leaves out were named one by one
    by_reason = {reason: num for reason, num in plan.stats["pruned"].items() if num and reason != "valid_ids"}
    num_images = plan.stats["num_images"] - plan.stats["pruned"].get("valid_ids", 0)
    num = sum(by_reason.values())
    if num <= MAX_SHARE * num_images:
        return None
    reasons = sorted(by_reason, key=lambda reason: -by_reason[reason])
    main = reasons[0]
    why = f"all by {main}" if len(reasons) == 1 else f"{by_reason[main]:,} of them by {main}"
    remedies = []
    for reason in reasons:  # until what the others prune is no surprise
        if num <= MAX_SHARE * num_images:
            break
        remedies.append(_remedy_of(reason, plan.spec))
        num -= by_reason[reason]
    whole = sum(by_reason.values())
    message = f"{part_of(whole, num_images)} are pruned, {why}: no epoch serves them."
    return PlanWarning("pruned", message, " ".join(remedies))


def _remedy_of(reason: str, spec: PlanFields) -> str:
    """How fewer images are pruned for it."""
    if reason == "num_repeats":
        return (
            "Give these images a num_repeats above 0 in the map, or ignore its column: num_repeats_column=."
        )
    if reason == "num_frames":
        given = spec.frame_buckets or ()
        lengths = {each if isinstance(each, int) else each.num_frames for each in given}
        shorter = f" of fewer than {min(lengths - {1}):,} frames" if lengths - {1} else ""
        stills = "" if 1 in lengths else ", and 1 for still images"
        return f"Add to frame_buckets a length{shorter} for clips{stills}."
    if reason == "bucket_no_upscale" and isinstance(spec.ladder, NativeLadder):
        return f"Lower ladder.divisible (now {spec.ladder.divisible}): a side must have as many pixels."
    if reason == "bucket_no_upscale":
        return "Lower ladder.bucket_reso_steps: a side must have as many pixels; or set bucket_no_upscale to false."
    limit = f"assign.{reason} (now {getattr(spec.assign, reason):g})"
    if reason == "min_size":
        return f"Lower {limit} or leave it out."
    is_implied = reason in {field.removeprefix("assign.") for field in spec.planner_kind.defaults}
    way = f"Raise {limit}" if is_implied else f"Raise {limit} or leave it out"
    if isinstance(spec.ladder, NativeLadder):
        return f"{way}, or lower ladder.divisible (now {spec.ladder.divisible}), which crops less."
    return f"{way}, or use a ladder with sizes of the aspects that your images have."


def never_served(plan: Planned) -> PlanWarning | None:
    num = plan.stats["never_served"]
    if not num:
        return None
    buckets = [each for each in plan.stats["buckets"] if each["tail"]["never_served"]]
    are = "their bucket is" if len(buckets) == 1 else f"their {len(buckets):,} buckets are"
    sizes = few([f"{size_of(each)} with {each['tail']['never_served']:,}" for each in buckets])
    message = f"{part_of(num, plan.stats['num_samples'])} are served in no epoch: {are} too small ({sizes})."
    ways = []
    if plan.tails in LEAVES and plan.serves_all_if_moving:
        ways.append(f'set tails to "{plan.moving}", which serves them with those of the next aspects')
    else:  # what is too small as a whole section cannot go elsewhere
        ways.append('set tails to "pad", which repeats images so that every bucket is served')
        if plan.is_balanced:
            ways.append(f"{_short(plan, {})}, which serves them in a batch of their own")
    return PlanWarning("never_served", message, sentence([*ways, "use fewer sizes, or smaller batches"]))


def left_out(plan: Planned) -> PlanWarning | None:
    num, num_samples = plan.stats["dropped"], plan.stats["num_samples"]
    if num <= MAX_SHARE * num_samples:
        return None
    never = plan.stats["never_served"]
    which = "other ones each time" if not never else f"{never:,} of them every time"
    message = f"An epoch leaves out {part_of(num, num_samples)}, {which}: they fill no batch, or no step of all ranks."
    return PlanWarning("left_out", message, sentence(_ways_to_serve_more(plan)))


def _ways_to_serve_more(plan: Planned) -> list[str]:
    if not plan.spec.planner_kind.has_units:
        return ["use smaller batches or fewer ranks", f'use planner "{DEFAULT.name}" with last_step "fill"']
    whole_steps = {"lockstep": plan.world_size} if plan.has_unfinished_step else {}
    repeating: dict[str, Any] = {"tails": "pad", **({"last_step": "fill"} if plan.is_balanced else {})}
    if plan.tails == "short" or not _changes(plan, repeating):
        return [set_to(whole_steps)]  # none are left out but those whose batches do not fill a step
    moved = {"tails": plan.moving} if plan.tails in LEAVES else {}
    ways = []
    filling = _filling(plan, moved) if plan.is_balanced else None
    if filling:
        ways.append(f"{set_to({**filling, **whole_steps})}, which completes the last step with repeats")
    ways += _longer_or_smaller(plan, moved)
    if not filling:
        ways.append(f"{set_to({**_changes(plan, repeating), **whole_steps})}, which repeats images instead")
    if plan.is_balanced:
        ways.append(f"{_short(plan, whole_steps)} for a pass that must serve every image")
    return ways


def _short(plan: Planned, fields: Mapping[str, Any]) -> str:
    """To set ``tails: short``, which takes no ``last_step``, and other fields."""
    leave = " and leave last_step out" if plan.plan.last_step == "fill" else ""
    return f"{set_to({'tails': 'short', **fields})}{leave}"


def _filling(plan: Planned, moved: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields with which an epoch leaves out few enough because its last unit is filled, None where that alone does
    not help. ``moved``: those with which remainders are moved, where they are not."""
    most = MAX_SHARE * plan.stats["num_samples"]
    for fields in ({}, moved) if moved else ({},):
        if plan.layout("spill" if fields else plan.tails).left_out.sum() <= most:
            return _changes(plan, {**fields, "last_step": "fill"})
    return None


def _longer_or_smaller(plan: Planned, moved: Mapping[str, Any]) -> list[str]:
    """What makes the images that an epoch leaves out a smaller share of it."""
    spec, num_samples = plan.spec, plan.stats["num_samples"]
    moves = f"{set_to(moved)} and " if moved else ""
    times = math.ceil(plan.left_out_below / (MAX_SHARE * num_samples))
    ways = []
    if moved and times == 1:
        ways.append(set_to(moved))
    if times > 1 and spec.num_repeats is not None:
        ways.append(f"{moves}set num_repeats to {spec.num_repeats * times:g}, which makes an epoch longer")
    most = math.floor(MAX_SHARE * num_samples)
    if times > 1 and most and len(plan.plan.sections) == 1:
        ways.append(
            f"{moves}use smaller batches or fewer ranks, for {most:,} images a unit instead of {plan.unit:,}"
        )
    return ways


def _changes(plan: Planned, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``fields`` that the plan has otherwise."""
    now = {"tails": plan.tails, "last_step": plan.plan.last_step, "lockstep": plan.plan.lockstep}
    return {name: value for name, value in fields.items() if now[name] != value}


def repeated(plan: Planned) -> PlanWarning | None:
    num, num_samples = plan.stats["repeated"], plan.stats["num_samples"]
    if num <= MAX_SHARE * num_samples:
        return None
    message = (
        f"An epoch repeats images {num:,} times to fill batches, which is {num / num_samples:.1%} of the "
    )
    message += f"{num_samples:,} that it is asked for."
    ways = []
    fills, pads = plan.plan.last_step == "fill", plan.tails == "pad"
    if fills and plan.layout(plan.tails).repeated.sum() <= MAX_SHARE * num_samples:
        if plan.has_step(plan.layout(plan.tails)):
            ways.append(f"{set_to({'last_step': 'drop'})}, which leaves out what does not fill a step")
    elif plan.serves_all_if_moving:
        fields = _changes(plan, {"tails": plan.moving, "last_step": "drop"})
        ways.append(f"{set_to(fields)}, which repeats none")
    num_buckets = sum(1 for each in plan.stats["buckets"] if each["num_batches"])
    if not plan.is_balanced:  # each bucket repeats fewer than a unit
        ways.append(f"use smaller batches or fewer ranks{_for_units(plan, num_buckets)}")
    elif not fills:  # each bucket repeats fewer than a batch
        most = math.floor(MAX_SHARE * num_samples / num_buckets)
        ways.append(f"use smaller batches{f', of at most {most:,} images' if most else ''}")
    else:
        ways.append(f"use smaller batches or fewer ranks{'' if pads else _for_units(plan, 1)}")
    return PlanWarning("repeated", message, sentence(ways))


def _for_units(plan: Planned, num: int) -> str:
    """How large units may be, so that ``num`` of them have no more images than may be repeated."""
    most = math.floor(MAX_SHARE * plan.stats["num_samples"] / num)
    return f", for {most:,} images a unit instead of {plan.unit:,}" if most else ""
