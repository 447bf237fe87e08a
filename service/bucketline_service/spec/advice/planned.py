"""A plan as the rules of advice see it, and the borders beyond which it surprises."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.line.remainders import Layout
from bucketline_service.planning.line.units import layout_of
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.spec.run_spec import PlanFields

MAX_SHARE = 0.05
"""Of the images that may be pruned, left out or repeated without a warning."""
MAX_EXTRA_CROP = 0.01
"""Of an image's pixels: what an epoch may crop more than the nearest buckets do."""
MAX_IMBALANCE = 1.05
LEAVES = ("drop", "catch_all")
"""Policies that may leave out more than a unit, or never serve a bucket, where one that moves images would not."""

Stats = Mapping[str, Any]


class PlanWarning(NamedTuple):
    """``code``: of ``CODES``. ``message`` and ``remedy``: whole sentences."""

    code: str
    message: str
    remedy: str


class Planned(NamedTuple):
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
        return "shift" if self.is_balanced and not hindrances(self) else "spill"

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


def like_shift(tails: str) -> str:
    """Tails that serve as many images where the plan has others: which images move is not known before it is made."""
    return "spill" if tails == "shift" else tails


def hindrances(plan: Planned) -> list[str]:
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
