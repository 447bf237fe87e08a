"""Everything that a plan depends on besides the images."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning.batch_cost import BatchCost, PixelCost, Shapes, most_images
from bucketline_service.planning.buckets.assignment import SameAspect
from bucketline_service.planning.buckets.ladder_generators import Ladder, Size
from bucketline_service.planning.buckets.no_upscale import NoUpscale
from bucketline_service.planning.buckets.pruning import Limits
from bucketline_service.planning.packing.packing import Packing

Steps = Literal["balanced", "same_shape"]
LastStep = Literal["drop", "fill"]

_I64 = NDArray[np.int64]
MAX_LOCKSTEP = 1 << 20
"""Batches."""
_MAX_PIXELS = 2**53
"""Of a batch, so that sums of them are exact."""


class Budget(NamedTuple):
    """A batch size for each target: as many images as fit. ``field``: the name of the limit in the run spec. An image
    takes ``ceil(frames / frame_stride) * ceil(width / stride) * ceil(height / stride)``: pixels where both are 1. With
    ``is_of_cost`` the limit is one of the plan's cost. Sizes are rounded down to a multiple of ``multiple_of`` and held
    between ``least`` and ``most``."""

    field: str
    limit: float
    stride: int = 1
    frame_stride: int = 1
    least: int = 1
    most: int = 1
    multiple_of: int = 1
    is_of_cost: bool = False


class FrameBucket(NamedTuple):
    """A length of clips. ``keep`` [T]: of the clips that are assigned to each tier, the share that it takes in an
    epoch."""

    num_frames: int
    keep: tuple[float, ...]


class MapShare(NamedTuple):
    """How often the images of a map come: each ``repeats`` times as often as it says itself, or, with ``weight``, so
    often that the map's share of the epoch is its weight's share of all weights."""

    repeats: float = 1.0
    weight: float | None = None


class Section(NamedTuple):
    """One tier at one length: ``first`` is the index of its first bucket."""

    first: int
    ladder: Ladder
    frames: int
    tier: int
    num_frames: int
    keep: float


class Share(NamedTuple):
    """One tier at one length, as an image's class has it: ``first``: the first of its buckets; ``keep``: of the images
    that are assigned to it, the share that it takes in an epoch."""

    first: int
    keep: float


@dataclass(frozen=True)
class PlanSpec:
    """``planner``: a name in ``planner_kinds.PLANNERS``; ``tails``: one in ``remainders.POLICIES``. ``tiers``: a ladder
    for each base resolution, lowest first, in order of aspect unless the planner keeps the ladder's own order.
    ``no_upscale``: what chooses among the only tier's buckets, in place of the nearest aspect. ``same_aspect``: which
    of several buckets of one aspect in a tier; ``first`` where no tier has several. ``batch_size``: images, what they
    may take together, or the packs that they fill: with packs there are no tiers and no tails, and nothing that has a
    size for each bucket or target; a bucket is a length of slot then, the longest first. ``cost``: what batches are
    compared by. Lengths in pixels; ``lockstep`` in batches; ``seed`` in [0, 2**32). Buckets are numbered section by
    section: by length, then tier, then as in its ladder.

    ``steps``: a unit of ``lockstep`` batches has one shape, or batches of about one cost. ``last_step``: the batches
    that do not fill the last unit are left out, or it is filled with repeats."""

    planner: str
    tiers: tuple[Ladder, ...]
    batch_size: int | Budget | Packing
    seed: int
    lockstep: int
    tails: str
    metric: Literal["log", "abs"] = "log"
    max_ar_error: float | None = None
    max_crop_loss: float | None = None
    min_size: int | None = None
    choose: Literal["highest", "every"] = "highest"
    frame_buckets: tuple[FrameBucket, ...] = ()
    first: Literal["largest"] | None = None
    maps: tuple[MapShare, ...] = (MapShare(),)
    no_upscale: NoUpscale | None = None
    same_aspect: SameAspect = "first"
    cost: BatchCost = field(default_factory=PixelCost)
    steps: Steps = "same_shape"
    last_step: LastStep = "drop"

    @property
    def multiple(self) -> int:
        """Batches that the number of each target's is a multiple of: where units have one shape, those of a unit."""
        return self.lockstep if self.steps == "same_shape" else 1

    @property
    def packing(self) -> Packing | None:
        """With packs: them."""
        return self.batch_size if isinstance(self.batch_size, Packing) else None

    @property
    def ladder(self) -> Ladder:
        """That of the lowest tier, which is the only one of most."""
        return self.tiers[0]

    @cached_property
    def sections(self) -> list[Section]:
        lengths = self.frame_buckets or (FrameBucket(1, (1.0,) * len(self.tiers)),)
        found: list[Section] = []
        first = 0
        for frames, length in enumerate(lengths):
            for tier, ladder in enumerate(self.tiers):
                found.append(Section(first, ladder, frames, tier, length.num_frames, length.keep[tier]))
                first += len(ladder)
        return found

    @cached_property
    def num_buckets(self) -> int:
        if self.packing is not None:
            return self.packing.num_buckets
        return sum(len(section.ladder) for section in self.sections)

    @property
    def tier_sizes(self) -> list[int]:
        """Buckets of each tier, at one length of clips; with packs all buckets are one tier."""
        return [len(ladder) for ladder in self.tiers] or [self.num_buckets]

    @cached_property
    def shares(self) -> list[list[Share]]:
        """[length][tier]. Packs hold clips of all lengths."""
        if self.packing is not None:
            return [[Share(0, length.keep[0])] for length in self.frame_buckets] or [[Share(0, 1.0)]]
        num = len(self.tiers)
        found = [Share(section.first, section.keep) for section in self.sections]
        return [found[begin : begin + num] for begin in range(0, len(found), num)]

    @property
    def limits(self) -> Limits:
        """Of the images that the plan prunes."""
        return Limits(self.metric, self.max_ar_error, self.max_crop_loss, self.min_size)

    @cached_property
    def aspects(self) -> NDArray[np.float64]:
        """float64[B]: what images are compared with."""
        return np.concatenate([section.ladder.aspects for section in self.sections])

    @cached_property
    def targets(self) -> list[Size]:
        """(width, height) of every bucket that batches are drawn from; a catch-all stands last."""
        sizes = [size for section in self.sections for size in section.ladder.sizes]
        return [*sizes, self.ladder.base] if self.tails == "catch_all" else sizes

    @cached_property
    def target_frames(self) -> _I64:
        """int64[G]: frames of each target."""
        frames = [section.num_frames for section in self.sections for _ in range(len(section.ladder))]
        return np.array(frames + [1] * (self.tails == "catch_all"), dtype=np.int64)

    @cached_property
    def _shapes(self) -> Shapes:
        """[G] of each target."""
        width, height = np.array(self.targets, dtype=np.int64).T
        return Shapes(width, height, self.target_frames)

    @cached_property
    def _least_takes(self) -> _I64 | NDArray[np.float64]:
        """[G]: what the smallest batch that each target may have takes of the budget."""
        budget = self.batch_size
        assert isinstance(budget, Budget)
        if budget.is_of_cost:
            return self.cost.of(self._shapes, np.full(len(self.targets), self._least_images, dtype=np.int64))
        return self._tokens * self._least_images

    @property
    def _least_images(self) -> int:
        """That a batch must have."""
        assert isinstance(self.batch_size, Budget)
        multiple_of = self.batch_size.multiple_of
        return -(-max(self.batch_size.least, 1) // multiple_of) * multiple_of

    @property
    def _tokens(self) -> _I64:
        """int64[G]: what an image of each target takes of a budget that is not one of cost."""
        assert isinstance(self.batch_size, Budget)
        width, height, frames = self._shapes
        stride = self.batch_size.stride
        tokens: _I64 = -(-width // stride) * -(-height // stride)
        return tokens * -(-frames // self.batch_size.frame_stride)

    @property
    def least_limit(self) -> float:
        """Of the budget: the lowest that holds a batch of every target."""
        limit: float = self._least_takes.max().item()
        return limit

    @cached_property
    def batch_sizes(self) -> _I64:
        """int64[G]: images a batch of each target. Raises ``Invalid`` where the budget does not hold one."""
        budget = self.batch_size
        assert not isinstance(budget, Packing)
        areas = np.array(self.targets, dtype=np.float64).prod(axis=1) * self.target_frames
        largest = int(np.argmax(areas))
        if areas[largest] * (budget if isinstance(budget, int) else 1) >= _MAX_PIXELS:
            detail = f"a batch of {self._shape(largest)} has more pixels than can be counted"
            raise Invalid("frame_buckets", detail, "Use shorter clips, or smaller batches and buckets")
        if isinstance(budget, int):
            return np.full(len(self.targets), budget, dtype=np.int64)
        most = np.minimum(budget.most, _MAX_PIXELS // areas).astype(np.int64)
        if budget.is_of_cost:
            num_images = most_images(self.cost, self._shapes, budget.limit, most)
        else:
            num_images = np.minimum(int(budget.limit) // self._tokens, most)
        sizes: _I64 = num_images // budget.multiple_of * budget.multiple_of
        least = self._least_images
        at = int(np.argmax(self._least_takes))  # where fewest fit
        if sizes[at] < least:
            images = "1 image" if least == 1 else f"{least} images"
            detail = f"{budget.limit:,} is too small for the {images} that a batch must have"
            hint = f"Use at least {self.least_limit:,}, or smaller buckets"
            raise Invalid(budget.field, f"{detail} at {self._shape(at)}", hint)
        return sizes

    def _shape(self, target: int) -> str:
        width, height = self.targets[target]
        frames = f" x {self.target_frames[target]} frames" if self.frame_buckets else ""
        return f"{width} x {height}{frames}"

    @cached_property
    def most_images(self) -> int:
        """Of a batch."""
        if self.packing is not None:
            return int(self.packing.packs.kinds.sum(axis=1).max(initial=0))
        return int(self.batch_sizes.max())

    @cached_property
    def pixels(self) -> _I64:
        """int64[G]: pixels of a batch of each target, those of all frames."""
        areas: _I64 = np.array(self.targets, dtype=np.int64).prod(axis=1)
        return areas * self.target_frames * self.batch_sizes

    @cached_property
    def costs(self) -> NDArray[np.float64]:
        """float64[G]: ``cost`` of a batch of each target; its pixels, unless the run has another cost. With packs
        float64[J], of a pack of each kind."""
        if self.packing is not None:
            lengths = self.packing.packs.lengths.astype(np.float64)
            return self.packing.packs.kinds @ self.cost.of_lengths(lengths)
        return self.cost.of(self._shapes, self.batch_sizes)
