"""Advice: what of a plan would surprise, in words, with a remedy for each.

A rule takes a plan (``planned.py``) and gives a warning, or None where there is none. The rules are in ``images``,
``steps`` and ``packs``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.spec.advice.images import left_out, never_served, pruned, repeated
from bucketline_service.spec.advice.packs import imbalance_of_packs, left_out_of_packs
from bucketline_service.spec.advice.planned import Planned, PlanWarning, Stats
from bucketline_service.spec.advice.steps import crop, imbalance, shift_not_possible, unreachable_sizes
from bucketline_service.spec.run_spec import PlanFields

__all__ = ["CODES", "PlanWarning", "not_at_start", "plan_warnings"]

CODES = (
    *("pruned", "never_served", "left_out", "repeated", "crop", "imbalance"),
    *("unreachable_sizes", "shift_not_possible", "not_at_start"),
)
"""Codes of all warnings, in the order in which they are given."""


def plan_warnings(
    spec: PlanFields, plan: PlanSpec, stats: Stats, unreached: Sequence[int], world_size: int
) -> list[PlanWarning]:
    """What of the plan of a resolved spec would surprise, on ``world_size`` ranks. ``plan``: the plan spec, with the
    lockstep of these ranks; ``stats``: the ``epoch_stats`` of epoch 0; ``unreached``: the ``unreached_sizes``."""
    of = Planned(spec, plan, stats, unreached, world_size)
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


_RULES: tuple[Callable[[Planned], PlanWarning | None], ...] = (
    *(pruned, never_served, left_out, repeated, crop, imbalance),
    *(unreachable_sizes, shift_not_possible),
)
_RULES_OF_PACKS = (pruned, left_out_of_packs, imbalance_of_packs)
