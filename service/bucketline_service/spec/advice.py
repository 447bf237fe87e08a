"""Advice: what of a plan would surprise, in words, with a remedy for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bucketline_service.names import few
from bucketline_service.planning.planner_kinds import DEFAULT
from bucketline_service.spec.run_spec import PlanFields

MAX_SHARE = 0.05
"""Of the images that may be pruned, left out or repeated without a warning."""
MAX_EXTRA_CROP = 0.01
"""Of an image's pixels: what an epoch may crop more than the nearest buckets do."""
MAX_IMBALANCE = 1.05
_MOVES = "spill"
"""The policy of remainders that serves them in other buckets."""
_KEEPS = "pad"
"""The policy that serves each image in its own bucket."""
_LEAVES = ("drop", "catch_all")
"""Policies that may leave out more than a unit, or never serve a bucket, where ``_MOVES`` would not."""

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
    """``spec``: resolved. ``stats``: of epoch 0 on ``world_size`` ranks, as ``epoch_stats`` has them. ``unreached``:
    the targets that no image reaches."""

    spec: PlanFields
    stats: Stats
    unreached: Sequence[int]
    world_size: int

    @property
    def is_one_section(self) -> bool:
        """Whether images may move between any two buckets."""
        return not self.spec.ladder.is_of_tiers and self.spec.frame_buckets is None

    @property
    def unit(self) -> int:
        """Images of the largest unit, and of a step if units do not end with one: where remainders are moved, an epoch
        leaves out fewer."""
        largest = max(each["batch_size"] for each in self.stats["buckets"] if each["num_batches"])
        lockstep = self.spec.lockstep or self.world_size
        return int(largest * (lockstep + (self.world_size if lockstep % self.world_size else 0)))


def plan_warnings(
    spec: PlanFields, stats: Stats, unreached: Sequence[int], world_size: int
) -> list[PlanWarning]:
    """What of the plan of a resolved spec would surprise, on ``world_size`` ranks. ``stats``: its ``epoch_stats`` of
    epoch 0; ``unreached``: its ``unreached_sizes``."""
    plan = _Plan(spec, stats, unreached, world_size)
    return [found for rule in _RULES if (found := rule(plan)) is not None]


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
    if reason == "bucket_no_upscale":
        return "Lower ladder.bucket_reso_steps: a side must have as many pixels; or set bucket_no_upscale to false."
    limit = f"assign.{reason} (now {getattr(spec.assign, reason):g})"
    if reason == "min_size":
        return f"Lower {limit} or leave it out."
    is_implied = reason in {field.removeprefix("assign.") for field in spec.planner_kind.defaults}
    way = f"Raise {limit}" if is_implied else f"Raise {limit} or leave it out"
    return f"{way}, or use a ladder with sizes of the aspects that your images have."


def _never_served(plan: _Plan) -> PlanWarning | None:
    num = plan.stats["never_served"]
    if not num:
        return None
    buckets = [each for each in plan.stats["buckets"] if each["tail"]["never_served"]]
    are = "their bucket is" if len(buckets) == 1 else f"their {len(buckets):,} buckets are"
    sizes = few([f"{_size(each)} with {each['tail']['never_served']:,}" for each in buckets])
    message = f"{_part(num, plan.stats['num_samples'])} are served in no epoch: {are} too small ({sizes})."
    if plan.is_one_section and plan.stats["tails"] in _LEAVES:
        remedy = f'Set tails to "{_MOVES}", which serves them with those of the next aspects'
    else:
        remedy = 'Set tails to "pad", which repeats images so that every bucket is served'
    return PlanWarning("never_served", message, f"{remedy}; or use fewer sizes, or smaller batches.")


def _left_out(plan: _Plan) -> PlanWarning | None:
    num, num_samples = plan.stats["dropped"], plan.stats["num_samples"]
    if num <= MAX_SHARE * num_samples:
        return None
    never = plan.stats["never_served"]
    which = "other ones each time" if not never else f"{never:,} of them every time"
    message = f"An epoch leaves out {_part(num, num_samples)}, {which}: they do not fill a step of all ranks."
    return PlanWarning("left_out", message, _sentence(_ways_to_serve_more(plan)))


def _ways_to_serve_more(plan: _Plan) -> list[str]:
    spec, num_samples, unit = plan.spec, plan.stats["num_samples"], plan.unit
    if not spec.planner_kind.has_units:
        return ["use smaller batches or fewer ranks", f'planner "{DEFAULT.name}"']
    if plan.stats["tails"] == "pad":  # none but batches that do not fill a step
        return [f"set lockstep to {plan.world_size}"]
    ways = []
    if plan.is_one_section:
        # with remainders that are moved, fewer than a unit are left out, however long the epoch is
        moved = f'set tails to "{_MOVES}"' if plan.stats["tails"] in _LEAVES else ""
        times = math.ceil(unit / (MAX_SHARE * num_samples))
        if moved and times == 1:
            ways.append(moved)
        if times > 1 and spec.num_repeats is not None:
            longer = f"set num_repeats to {spec.num_repeats * times:g}, which makes an epoch longer"
            ways.append(f"{moved} and {longer}" if moved else longer)
        most = math.floor(MAX_SHARE * num_samples)
        if times > 1 and most:
            fewer = f"use smaller batches or fewer ranks, for {most:,} images a unit instead of {unit:,}"
            ways.append(f"{moved} and {fewer}" if moved else fewer)
    return [*ways, 'set tails to "pad", which repeats images instead']


def _repeated(plan: _Plan) -> PlanWarning | None:
    num, num_samples = plan.stats["repeated"], plan.stats["num_samples"]
    if num <= MAX_SHARE * num_samples:
        return None
    message = (
        f"An epoch repeats images {num:,} times to fill batches, which is {num / num_samples:.1%} of the "
    )
    message += f"{num_samples:,} that it is asked for."
    ways = []
    if plan.is_one_section and plan.unit <= num_samples:
        ways.append(f'set tails to "{_MOVES}", which repeats none')
    # each bucket repeats fewer than a unit
    most = math.floor(
        MAX_SHARE * num_samples / sum(1 for each in plan.stats["buckets"] if each["num_batches"])
    )
    fewer = f", for {most:,} images a unit instead of {plan.unit:,}" if most else ""
    return PlanWarning("repeated", message, _sentence([*ways, f"use smaller batches or fewer ranks{fewer}"]))


def _crop(plan: _Plan) -> PlanWarning | None:
    served, nearest = plan.stats["crop_loss_served"], plan.stats["crop_loss"]["mean"]
    if served - nearest <= MAX_EXTRA_CROP:
        return None
    message = (
        f"Images lose {served:.1%} of their pixels as they are served, but {nearest:.1%} in their own buckets"
    )
    if num := plan.stats["spilled"]:
        message += f": an epoch serves {num:,} images in another one"
    if not plan.spec.planner_kind.has_units:
        remedy = f'Use planner "{DEFAULT.name}"'
    elif num:
        remedy = f'Set tails to "{_KEEPS}", which serves each image in its own bucket'
    else:
        remedy = f'Set tails to "{_MOVES}"'
    return PlanWarning(
        "crop", f"{message}.", f"{remedy}; or use fewer sizes, smaller batches or fewer ranks."
    )


def _imbalance(plan: _Plan) -> PlanWarning | None:
    imbalance = plan.stats["step_imbalance"]
    if imbalance <= MAX_IMBALANCE:
        return None
    message = f"Ranks wait for each other: the slowest of {plan.world_size:,} has {imbalance:.3f} times the mean work "
    message += "of a step."
    spec, shape = plan.spec, plan.stats["largest_shape"]
    ways = []
    if not spec.planner_kind.has_units:
        ways.append(f'use planner "{DEFAULT.name}"')
    elif spec.lockstep is not None and spec.lockstep % plan.world_size:
        ways.append(f"set lockstep to {plan.world_size}, so that a step has one size")
    if spec.planner_kind.has_units and spec.batch_size is not None:
        pixels = shape["width"] * shape["height"] * (shape["num_frames"] or 1) * spec.batch_size
        ways.append(
            f"give max_pixels_per_batch {pixels} instead of batch_size, so that batches cost about the same"
        )
    elif spec.planner_kind.has_units:
        ways.append("raise the budget, of which whole images then fill more")
    return PlanWarning("imbalance", message, _sentence(ways))


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
    spec, used = plan.spec, plan.stats["tails"]
    if spec.tails == used:
        return None
    message = (
        f'tails "{spec.tails}" is not possible with this spec and these maps; the plan has tails "{used}".'
    )
    ways = []
    if spec.num_repeats is not None and not spec.num_repeats.is_integer():
        ways.append(f"num_repeats {math.ceil(spec.num_repeats)}, a whole number")
    if spec.ladder.rule is not None:
        ways.append("a ladder without bucket_no_upscale, whose sizes have an order of aspect")
    if any(not isinstance(each, int) and each.keep_prob != 1.0 for each in spec.frame_buckets or ()):
        ways.append("keep_prob 1")
    if ways:
        remedy = f'Use {" and ".join(ways)}; or tails "{used}", which is what it has.'
    else:
        remedy = (
            f'Use whole num_repeats in spec and map, and no weight; or tails "{used}", which is what it has.'
        )
    return PlanWarning("shift_not_possible", message, remedy)


_RULES: tuple[Callable[[_Plan], PlanWarning | None], ...] = (
    *(_pruned, _never_served, _left_out, _repeated, _crop, _imbalance),
    *(_unreachable_sizes, _shift_not_possible),
)


def _sentence(ways: Sequence[str]) -> str:
    """Of several ways to do it."""
    text = "; or ".join(ways)
    return f"{text[0].upper()}{text[1:]}."


def _part(num: int, whole: int) -> str:
    """``37 of 500 images (7.4%)``."""
    return f"{num:,} of {whole:,} images ({num / whole:.1%})"


def _size(bucket: Mapping[str, Any]) -> str:
    frames = f"x{bucket['num_frames']}" if bucket["num_frames"] else ""
    return f"{bucket['width']}x{bucket['height']}{frames}"
