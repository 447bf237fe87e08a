"""Advice: what of a plan would surprise, in words, with a remedy for each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.names import few
from bucketline_service.planning.line.remainders import Layout
from bucketline_service.planning.line.units import layout_of
from bucketline_service.planning.packing.packing import Packing
from bucketline_service.planning.plan_spec import Budget, PlanSpec
from bucketline_service.planning.planner_kinds import DEFAULT
from bucketline_service.spec.batch_sizes import MAX_BATCH_SIZE
from bucketline_service.spec.ladder_kinds import NativeLadder
from bucketline_service.spec.run_spec import PlanFields

MAX_SHARE = 0.05
"""Of the images that may be pruned, left out or repeated without a warning."""
MAX_EXTRA_CROP = 0.01
"""Of an image's pixels: what an epoch may crop more than the nearest buckets do."""
MAX_IMBALANCE = 1.05
_LEAVES = ("drop", "catch_all")
"""Policies that may leave out more than a unit, or never serve a bucket, where one that moves images would not."""

CODES = (
    *("pruned", "never_served", "left_out", "repeated", "crop", "imbalance"),
    *("unreachable_sizes", "shift_not_possible", "not_at_start"),
)
"""Codes of all warnings, in the order in which they are given."""

Stats = Mapping[str, Any]


class PlanWarning(NamedTuple):
    """``code``: of ``CODES``. ``message`` and ``remedy``: whole sentences."""

    code: str
    message: str
    remedy: str


class _Plan(NamedTuple):
    """``spec``: resolved. ``plan``: what follows from it, with the lockstep of epochs on ``world_size`` ranks.
    ``stats``: of epoch 0 on these, as ``epoch_stats`` has them. ``unreached``: the targets that no image reaches."""

    spec: PlanFields
    plan: PlanSpec
    stats: Stats
    unreached: Sequence[int]
    world_size: int

    @property
    def tails(self) -> str:
        """Those that the plan has: ``shift`` is not possible for all images."""
        return str(self.stats["tails"])

    @property
    def is_balanced(self) -> bool:
        return self.plan.steps == "balanced"

    @property
    def has_unfinished_step(self) -> bool:
        """Whether units do not end with a step, so that an epoch may leave out batches that fill none."""
        return self.plan.lockstep % self.world_size > 0

    @property
    def largest(self) -> int:
        """Images of the largest batch."""
        return int(max(each["batch_size"] for each in self.stats["buckets"] if each["num_batches"]))

    @property
    def unit(self) -> int:
        """Images of the largest unit, and of a step if units do not end with one."""
        return self.largest * (self.plan.lockstep + self.has_unfinished_step * self.world_size)

    @property
    def left_out_below(self) -> int:
        """Where remainders are moved, an epoch leaves out fewer images, however long it is: of each section fewer than
        a batch, with ``same_shape`` than a unit, and of the batches of all that are left fewer than a unit."""
        remainders = (len(self.plan.sections) - 1) * self.plan.multiple * self.largest
        return remainders + self.unit

    @property
    def moving(self) -> str:
        """The policy that serves all remainders, but one of each section, in other buckets."""
        return "shift" if self.is_balanced and not _hindrances(self) else "spill"

    @property
    def samples(self) -> NDArray[np.int64]:
        """int64[B]: of each bucket, those that epoch 0 asks for."""
        samples = [each["num_samples"] for each in self.stats["buckets"]][: self.plan.num_buckets]
        return np.rint(samples).astype(np.int64)

    def layout(self, tails: str) -> Layout:
        """Of epoch 0 with other ``tails``, before batches that do not fill a unit are left out."""
        return layout_of(replace(self.plan, tails=tails), self.samples)

    def has_step(self, layout: Layout) -> bool:
        """Whether an epoch of such a layout has a step of all ranks."""
        num_units = int(layout.num_batches.sum()) // self.plan.lockstep
        return num_units * self.plan.lockstep >= self.world_size

    @property
    def serves_all_if_moving(self) -> bool:
        """Whether, with remainders that are moved, there is a step, and no bucket that no epoch serves."""
        layout = self.layout("spill")
        return self.has_step(layout) and bool(
            layout.in_service(self.plan.num_buckets)[self.samples > 0].all()
        )


def _like_shift(tails: str) -> str:
    """Tails that serve as many images where the plan has others: which images move is not known before it is made."""
    return "spill" if tails == "shift" else tails


def plan_warnings(
    spec: PlanFields, plan: PlanSpec, stats: Stats, unreached: Sequence[int], world_size: int
) -> list[PlanWarning]:
    """What of the plan of a resolved spec would surprise, on ``world_size`` ranks. ``plan``: the plan spec, with the
    lockstep of these ranks; ``stats``: the ``epoch_stats`` of epoch 0; ``unreached``: the ``unreached_sizes``."""
    of = _Plan(spec, plan, stats, unreached, world_size)
    rules = _RULES if plan.packing is None else _RULES_OF_PACKS
    return [found for rule in rules if (found := rule(of)) is not None]


def not_at_start(epoch: int, step: int) -> PlanWarning:
    """Of a run that exists, one of whose ranks is at this place already."""
    return PlanWarning(
        "not_at_start",
        f"The run exists and was trained on: a rank is at epoch {epoch}, step {step:,}. A job that does not say where "
        "it starts goes on from there.",
        'Start the job with begin(None), or a session with "resume": "start", to train from the first step; with a '
        "checkpoint's state to resume. Or put the spec under another name.",
    )


def _pruned(plan: _Plan) -> PlanWarning | None:
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
    message = f"{_part(whole, num_images)} are pruned, {why}: no epoch serves them."
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


def _never_served(plan: _Plan) -> PlanWarning | None:
    num = plan.stats["never_served"]
    if not num:
        return None
    buckets = [each for each in plan.stats["buckets"] if each["tail"]["never_served"]]
    are = "their bucket is" if len(buckets) == 1 else f"their {len(buckets):,} buckets are"
    sizes = few([f"{_size(each)} with {each['tail']['never_served']:,}" for each in buckets])
    message = f"{_part(num, plan.stats['num_samples'])} are served in no epoch: {are} too small ({sizes})."
    ways = []
    if plan.tails in _LEAVES and plan.serves_all_if_moving:
        ways.append(f'set tails to "{plan.moving}", which serves them with those of the next aspects')
    else:  # what is too small as a whole section cannot go elsewhere
        ways.append('set tails to "pad", which repeats images so that every bucket is served')
        if plan.is_balanced:
            ways.append(f"{_short(plan, {})}, which serves them in a batch of their own")
    return PlanWarning("never_served", message, _sentence([*ways, "use fewer sizes, or smaller batches"]))


def _left_out(plan: _Plan) -> PlanWarning | None:
    num, num_samples = plan.stats["dropped"], plan.stats["num_samples"]
    if num <= MAX_SHARE * num_samples:
        return None
    never = plan.stats["never_served"]
    which = "other ones each time" if not never else f"{never:,} of them every time"
    message = f"An epoch leaves out {_part(num, num_samples)}, {which}: they fill no batch, or no step of all ranks."
    return PlanWarning("left_out", message, _sentence(_ways_to_serve_more(plan)))


def _left_out_of_packs(plan: _Plan) -> PlanWarning | None:
    num, num_samples = plan.stats["dropped"], plan.stats["num_samples"]
    if num <= MAX_SHARE * num_samples:
        return None
    packs = plan.stats["num_batches"]
    message = f"An epoch leaves out {_part(num, num_samples)}, other ones each time: its {packs:,} packs are few, and "
    message += f"those that fill no step of {plan.world_size:,} ranks are left out."
    # an epoch may leave out all packs of a step but one, of more images than the mean, and one in 200 has no slot
    times = 1.25 * plan.world_size / (0.9 * MAX_SHARE * _packing(plan).packs.num_packs)
    return PlanWarning("left_out", message, _sentence(_more_packs(plan, times)))


def _imbalance_of_packs(plan: _Plan) -> PlanWarning | None:
    imbalance = plan.stats["step_imbalance"]
    if imbalance <= MAX_IMBALANCE:
        return None
    message = f"Ranks wait for each other: the slowest of {plan.world_size:,} has {imbalance:.3f} times the mean cost "
    message += f"of a step, because an epoch has only {plan.stats['num_batches']:,} packs of "
    message += f"{plan.stats['num_shapes']:,} kinds."
    # with more packs there are hardly more steps of several kinds; with few steps less is gained, hence twice as many
    times = 2 * (imbalance - 1) / (MAX_IMBALANCE - 1)
    return PlanWarning("imbalance", message, _sentence(_more_packs(plan, max(times, 2))))


def _more_packs(plan: _Plan, times: float) -> list[str]:
    """How an epoch has so many times as many packs for each rank."""
    packing, world_size = _packing(plan), plan.world_size
    whole_steps = {"lockstep": world_size} if plan.plan.lockstep != world_size else {}
    if whole_steps and times <= 1:
        return [_set(whole_steps)]
    more = max(math.ceil(times), 2)
    ways = []
    if (max_tokens := packing.packs.max_tokens // more) >= packing.lengths[0]:
        ways.append(
            f"{_set({'pack.max_tokens': max_tokens, **whole_steps})}, for smaller packs, but more of them"
        )
    fields = {"num_repeats": plan.spec.times * more, **whole_steps}
    ways.append(f"{_set(fields)}, which makes an epoch longer")
    if not whole_steps and world_size >= more:
        ways.append(f"use {world_size // more:,} ranks")
    return ways


def _packing(plan: _Plan) -> Packing:
    packing = plan.plan.packing
    assert packing is not None
    return packing


def _ways_to_serve_more(plan: _Plan) -> list[str]:
    if not plan.spec.planner_kind.has_units:
        return ["use smaller batches or fewer ranks", f'use planner "{DEFAULT.name}" with last_step "fill"']
    whole_steps = {"lockstep": plan.world_size} if plan.has_unfinished_step else {}
    repeating: dict[str, Any] = {"tails": "pad", **({"last_step": "fill"} if plan.is_balanced else {})}
    if plan.tails == "short" or not _changes(plan, repeating):
        return [_set(whole_steps)]  # none are left out but those whose batches do not fill a step
    moved = {"tails": plan.moving} if plan.tails in _LEAVES else {}
    ways = []
    filling = _filling(plan, moved) if plan.is_balanced else None
    if filling:
        ways.append(f"{_set({**filling, **whole_steps})}, which completes the last step with repeats")
    ways += _longer_or_smaller(plan, moved)
    if not filling:
        ways.append(f"{_set({**_changes(plan, repeating), **whole_steps})}, which repeats images instead")
    if plan.is_balanced:
        ways.append(f"{_short(plan, whole_steps)} for a pass that must serve every image")
    return ways


def _short(plan: _Plan, fields: Mapping[str, Any]) -> str:
    """To set ``tails: short``, which takes no ``last_step``, and other fields."""
    leave = " and leave last_step out" if plan.plan.last_step == "fill" else ""
    return f"{_set({'tails': 'short', **fields})}{leave}"


def _filling(plan: _Plan, moved: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields with which an epoch leaves out few enough because its last unit is filled, None where that alone does
    not help. ``moved``: those with which remainders are moved, where they are not."""
    most = MAX_SHARE * plan.stats["num_samples"]
    for fields in ({}, moved) if moved else ({},):
        if plan.layout("spill" if fields else plan.tails).left_out.sum() <= most:
            return _changes(plan, {**fields, "last_step": "fill"})
    return None


def _longer_or_smaller(plan: _Plan, moved: Mapping[str, Any]) -> list[str]:
    """What makes the images that an epoch leaves out a smaller share of it."""
    spec, num_samples = plan.spec, plan.stats["num_samples"]
    moves = f"{_set(moved)} and " if moved else ""
    times = math.ceil(plan.left_out_below / (MAX_SHARE * num_samples))
    ways = []
    if moved and times == 1:
        ways.append(_set(moved))
    if times > 1 and spec.num_repeats is not None:
        ways.append(f"{moves}set num_repeats to {spec.num_repeats * times:g}, which makes an epoch longer")
    most = math.floor(MAX_SHARE * num_samples)
    if times > 1 and most and len(plan.plan.sections) == 1:
        ways.append(
            f"{moves}use smaller batches or fewer ranks, for {most:,} images a unit instead of {plan.unit:,}"
        )
    return ways


def _changes(plan: _Plan, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``fields`` that the plan has otherwise."""
    now = {"tails": plan.tails, "last_step": plan.plan.last_step, "lockstep": plan.plan.lockstep}
    return {name: value for name, value in fields.items() if now[name] != value}


def _repeated(plan: _Plan) -> PlanWarning | None:
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
            ways.append(f"{_set({'last_step': 'drop'})}, which leaves out what does not fill a step")
    elif plan.serves_all_if_moving:
        fields = _changes(plan, {"tails": plan.moving, "last_step": "drop"})
        ways.append(f"{_set(fields)}, which repeats none")
    num_buckets = sum(1 for each in plan.stats["buckets"] if each["num_batches"])
    if not plan.is_balanced:  # each bucket repeats fewer than a unit
        ways.append(f"use smaller batches or fewer ranks{_for_units(plan, num_buckets)}")
    elif not fills:  # each bucket repeats fewer than a batch
        most = math.floor(MAX_SHARE * num_samples / num_buckets)
        ways.append(f"use smaller batches{f', of at most {most:,} images' if most else ''}")
    else:
        ways.append(f"use smaller batches or fewer ranks{'' if pads else _for_units(plan, 1)}")
    return PlanWarning("repeated", message, _sentence(ways))


def _for_units(plan: _Plan, num: int) -> str:
    """How large units may be, so that ``num`` of them have no more images than may be repeated."""
    most = math.floor(MAX_SHARE * plan.stats["num_samples"] / num)
    return f", for {most:,} images a unit instead of {plan.unit:,}" if most else ""


def _crop(plan: _Plan) -> PlanWarning | None:
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
    return PlanWarning("crop", f"{message}.", _sentence([*ways, fewer]))


def _imbalance(plan: _Plan) -> PlanWarning | None:
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
        ways.append(f"{_set(whole_steps)}, so that a step has one size")
    ways += _like_batches(plan)
    if plan.is_balanced and _may_have_one_shape(plan):
        fields = {"steps": "same_shape", **whole_steps}
        ways.append(
            f"{_set(fields)} and leave tails and last_step out, where one shape at a step is worth its crop"
        )
    return PlanWarning("imbalance", message, _sentence(ways or ["use fewer ranks"]))


def _like_batches(plan: _Plan) -> list[str]:
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
        alike = replace(of, batch_size=budget._replace(limit=limit), tails=_like_shift(plan.tails))
        if plan.has_step(layout_of(alike, plan.samples)):
            value = int(limit) if limit.is_integer() else limit
            instead = given.field if isinstance(given, Budget) else "batch_size"
            return [f"give {budget.field} {value} instead of {instead}, so that batches cost about the same"]
    return []


def _may_have_one_shape(plan: _Plan) -> bool:
    """Whether some section has the images of a unit whose batches have one shape."""
    of_sections = np.add.reduceat(plan.samples, [section.first for section in plan.plan.sections])
    lockstep = plan.world_size if plan.has_unfinished_step else plan.plan.lockstep
    return bool(of_sections.max() >= lockstep * plan.largest)


def _unreachable_sizes(plan: _Plan) -> PlanWarning | None:
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
    message += f"({few([_size(each) for each in found])}), "
    message += f"to which {num:,} images are scaled up." if num else "which stay empty."
    if empty_lengths:
        remedy = f"Leave {few([str(each) for each in empty_lengths])} out of frame_buckets."
        return PlanWarning("unreachable_sizes", message, remedy)
    ways = [plan.spec.ladder.smaller] if plan.spec.ladder.smaller else []
    if plan.spec.planner_kind.has_units:
        side = math.isqrt(max(each["width"] * each["height"] for each in all_sizes))
        kohya = f'{{"kind": "kohya", "resolution": {side}, "bucket_no_upscale": true}}'
        ways.append(f"use the ladder {kohya}, which scales no image up")
    return PlanWarning("unreachable_sizes", message, _sentence(ways))


def _shift_not_possible(plan: _Plan) -> PlanWarning | None:
    # on other ranks, boundaries that were moved for units of one shape make none: epochs are laid out anew
    is_laid_anew = not plan.is_balanced and plan.plan.lockstep != plan.spec.lockstep
    if plan.spec.tails == plan.tails or is_laid_anew:
        return None
    message = f'With this spec and these maps, tails "{plan.spec.tails}" is not possible; the plan has tails '
    message += f'"{plan.tails}".'
    # with none in the spec it is the maps' own repeats, or so many buckets of such large batches that it takes too long
    found = _hindrances(plan) or [
        "a map in which all images have the same whole num_repeats, or smaller batches or fewer sizes"
    ]
    ways = " and ".join(found)
    return PlanWarning(
        "shift_not_possible", message, f'Use {ways}; or tails "{plan.tails}", which is what it has.'
    )


def _hindrances(plan: _Plan) -> list[str]:
    """What in the spec may make ``shift`` impossible, as what to use instead."""
    spec, of = plan.spec, plan.plan
    found = []
    if of.no_upscale is not None:
        found.append("a ladder without bucket_no_upscale, whose sizes have an order of aspect")
    if any(share.weight is not None for share in of.maps):
        found.append("num_repeats instead of a weight for each map")
    elif any(not share.repeats.is_integer() for share in of.maps):
        if not spec.times.is_integer():
            found.append(f"num_repeats {math.ceil(spec.times)}, a whole number")
        if any(not round(share.repeats / spec.times, 9).is_integer() for share in of.maps):
            found.append("a whole num_repeats for each of the maps")
    if any(keep < 1.0 for length in of.frame_buckets for keep in length.keep):
        found.append("keep_prob 1")
    return found


_RULES: tuple[Callable[[_Plan], PlanWarning | None], ...] = (
    *(_pruned, _never_served, _left_out, _repeated, _crop, _imbalance),
    *(_unreachable_sizes, _shift_not_possible),
)


_RULES_OF_PACKS = (_pruned, _left_out_of_packs, _imbalance_of_packs)


def _sentence(ways: Sequence[str]) -> str:
    """Of several ways to do it."""
    text = "; or ".join(ways)
    return f"{text[0].upper()}{text[1:]}."


def _set(fields: Mapping[str, Any]) -> str:
    """``set tails to "pad" and lockstep to 8``."""
    *first, last = [f"{name} to {_json(value)}" for name, value in fields.items()]
    return f"set {' and '.join([', '.join(first), last] if first else [last])}"


def _json(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _part(num: int, whole: int) -> str:
    """``37 of 500 images (7.4%)``."""
    return f"{num:,} of {whole:,} images ({num / whole:.1%})"


def _size(bucket: Mapping[str, Any]) -> str:
    frames = f"x{bucket['num_frames']}" if bucket["num_frames"] else ""
    return f"{bucket['width']}x{bucket['height']}{frames}"
