"""The run spec: the fields that users write, their defaults, and the plan spec that follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import Field, PositiveInt

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets import ladder_generators as ladders
from bucketline_service.planning.buckets.assignment import SameAspect
from bucketline_service.planning.buckets.ladder_generators import MAX_BUCKETS, MAX_SIDE, Ladder
from bucketline_service.planning.buckets.pruning import Limits
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.line.fit_packs import fit_packs
from bucketline_service.planning.line.image_classes import expected_samples
from bucketline_service.planning.line.remainders import POLICIES
from bucketline_service.planning.packing.pack_kinds import PackKinds
from bucketline_service.planning.packing.packing import Packing
from bucketline_service.planning.plan_spec import (
    MAX_LOCKSTEP,
    Budget,
    FrameBucket,
    LastStep,
    MapShare,
    PlanSpec,
    Steps,
)
from bucketline_service.planning.planner_kinds import DEFAULT, PLANNERS, PlannerKind
from bucketline_service.planning.planner_port import MAX_EPOCH
from bucketline_service.spec.batch_cost import COSTS, AnyCost, PixelsCostSpec
from bucketline_service.spec.batch_sizes import BatchSizes, NumFrames
from bucketline_service.spec.ladder_kinds import (
    DEFAULT_LADDER,
    MAX_TIERS,
    AnyLadder,
    NativeLadder,
    SpecModel,
)
from bucketline_service.spec.maps import MAX_MAPS, MapSpec, Repeats, check_maps
from bucketline_service.store.port import MAX_WORLD_SIZE

_P = TypeVar("_P", bound="PlanFields")
_M = TypeVar("_M", bound=SpecModel)
_Probability = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]

if TYPE_CHECKING:
    _PlannerName = str
    _Tails = str
else:
    _PlannerName = Literal[tuple(PLANNERS)]
    _Tails = Literal[tuple(POLICIES)]
_OfTiers = Annotated[list[_Probability], Field(min_length=1, max_length=MAX_TIERS)]


Fitted = list[tuple[int, int]] | PackKinds | None
"""What of a plan was found for its images: (width, height) of each bucket, or the packs; None where nothing was."""


class AssignSpec(SpecModel):
    """How an image finds its bucket, and which images are pruned."""

    metric: Literal["log", "abs"] | None = Field(
        None,
        description="the nearest aspect is found by ratio (log) or by difference (abs, as in NovelAI's code)",
    )
    max_ar_error: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = Field(
        None, description="prune images whose aspect error is this or more"
    )
    max_crop_loss: Annotated[float, Field(strict=True, ge=0, le=1)] | None = Field(
        None, description="prune images of which a larger share would be cropped away"
    )
    min_size: Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE)] | None = Field(
        None, description="prune images whose shorter side has fewer pixels"
    )


class FrameBucketSpec(SpecModel):
    """A length of clips."""

    num_frames: NumFrames = Field(description="frames of each clip in a batch")
    keep_prob: _Probability | _OfTiers = Field(
        1.0,
        description="the share of the clips of this length that an epoch uses: one number, or one per tier, the lowest "
        "first; the others are assigned to the next lower tier that they fill, or left out",
    )


_FrameBuckets = Annotated[
    list[NumFrames | FrameBucketSpec], Field(min_length=1, max_length=MAX_BUCKETS, fail_fast=True)
]


class _OfMap(SpecModel):
    map: str | None = Field(None, description="name of the resolution map")
    maps: Annotated[list[MapSpec], Field(min_length=1, max_length=MAX_MAPS)] | None = Field(
        None, description="instead of map: several maps"
    )


class PlanFields(BatchSizes, Repeats):
    """How images are planned. All but ``world_size`` and ``batch_size`` or a budget have defaults."""

    world_size: Annotated[int, Field(strict=True, ge=1, le=MAX_WORLD_SIZE)] = Field(
        description="number of ranks, as in torch.distributed"
    )
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = Field(
        42, description="seed of all random choices"
    )
    planner: _PlannerName = Field(DEFAULT.name, description="the algorithm that plans the epochs")
    lockstep: Annotated[int, Field(strict=True, ge=1, le=MAX_LOCKSTEP)] | None = Field(
        None,
        description="consecutive batches that the planner shuffles as a unit: of about the same cost, or with "
        "same_shape of one bucket",
    )
    steps: Steps | None = Field(
        None,
        description="what the batches of one step have in common: about the same cost (balanced), or the same shape "
        "(same_shape)",
    )
    tails: _Tails | None = Field(
        None,
        description="what becomes of the images that do not fill a batch; with same_shape, a unit. The default is "
        "spill with same_shape",
    )
    last_step: LastStep | None = Field(
        None,
        description="with balanced steps: the batches that do not fill the last unit are left out (drop), or the unit "
        "is filled with repeats (fill)",
    )
    ladder: AnyLadder = Field(default_factory=lambda: DEFAULT_LADDER(), description="which buckets exist")
    assign: AssignSpec = Field(
        default_factory=lambda: AssignSpec(),
        description="how an image finds its bucket, and which images are pruned",
    )
    frame_buckets: _FrameBuckets | None = Field(
        None,
        description="lengths of clips in frames: each clip is assigned to the longest that it fills, and a batch has "
        "one length. 1 is for still images only. Without it, all images are stills",
    )
    gradient_accumulation_steps: Annotated[int, Field(strict=True, ge=1, le=MAX_LOCKSTEP)] | None = Field(
        None,
        description="with same_shape: consecutive steps that have the same shape, so that lockstep becomes world_size "
        "times it. It changes nothing with balanced steps. It cannot be given together with lockstep",
    )
    cost: AnyCost = Field(
        default_factory=lambda: PixelsCostSpec(), description="what batches are compared by"
    )
    first: Literal["largest"] | None = Field(
        None,
        description="epoch 0 begins with units that have a batch of each distinct shape, the largest batch first, so "
        "that a job that runs out of memory does so at step 0",
    )
    epochs: Annotated[PositiveInt, Field(strict=True, lt=MAX_EPOCH)] | None = Field(
        None, description="the run ends after this many epochs; without it, it never ends"
    )

    def resolved(self: _P) -> _P:
        """The same spec with every default written out, which is how it is stored and compared. Raises ``Invalid``."""
        self._check_native()
        spec = self.counted("").with_sizes()
        self.ladder.check()
        kind = self.planner_kind
        spec = spec._with_implied(kind, self.repeats)
        if kind.has_units:
            spec = (spec._with_packs() if self.pack else spec._with_steps())._with_lockstep()
        spec._check_sections()
        assign = spec.assign.model_copy(update={"metric": spec.assign.metric or "log"})
        return spec.model_copy(update={"assign": assign})

    def _check_native(self) -> None:
        """Raise ``Invalid`` unless images keep their own sizes just where they are packed."""
        if self.pack and not self.ladder.is_native:
            hint = 'Use it with ladder: native, or {"kind": "native", "max_pixels": …}'
            raise Invalid("pack", "holds images at their own sizes, not at those of buckets", hint)
        if self.ladder.is_native and not self.pack:
            detail = f"{self.ladder.kind} has no buckets, so that a batch is a pack"
            raise Invalid("ladder.kind", detail, 'Give "pack": {"max_tokens": …} in place of the batch size')

    def _with_packs(self: _P) -> _P:
        if self.tails is not None:
            hint = "Leave it out: all lengths share the packs, and no bucket has a remainder"
            raise Invalid("tails", "has no effect with pack", hint)
        if self.steps == "same_shape":
            hint = "Leave it out: nearly all steps have packs of one kind"
            raise Invalid("steps", "same_shape is not supported with pack", hint)
        if self.last_step == "fill":
            hint = "Leave it out, or use drop"
            raise Invalid("last_step", "fill is not supported with pack, which repeats no image", hint)
        if not self.cost.knows_packs:
            others = " or ".join(kind for kind, model in COSTS.items() if model.knows_packs)
            detail = (
                f"{self.cost.kind} is not supported with pack: a pack has not one shape that could be timed"
            )
            raise Invalid("cost.kind", detail, f"Use {others}")
        return self.model_copy(update={"steps": "balanced", "last_step": "drop"})

    def _with_steps(self: _P) -> _P:
        steps = self.steps or "balanced"
        if self.tails == "short":
            return self._with_short(steps)
        if steps == "balanced":
            told = {"steps": steps, "tails": self.tails or "shift", "last_step": self.last_step or "drop"}
            return self.model_copy(update=told)
        if self.last_step is not None:
            detail = "has no effect with steps: same_shape, whose tails are in whole units"
            raise Invalid("last_step", detail, "Leave it out, or use tails: pad")
        return self.model_copy(update={"steps": steps, "tails": self.tails or "spill"})

    def _with_short(self: _P, steps: str) -> _P:
        if steps != "balanced":
            detail = "short batches stand beside others at a step, so that it has no one shape"
            raise Invalid("tails", detail, "Use it with steps: balanced")
        if self.last_step is not None:
            hint = "Leave it out: empty batches fill the last step"
            raise Invalid("last_step", "has no effect with tails: short", hint)
        return self.model_copy(update={"steps": steps})

    def _with_lockstep(self: _P) -> _P:
        if self.lockstep and self.gradient_accumulation_steps:
            hint = "Give one: lockstep is world_size times gradient_accumulation_steps"
            raise Invalid("lockstep", "must not be given together with gradient_accumulation_steps", hint)
        # an optimizer that adds up gradients does not need them to be of one shape
        times = (self.gradient_accumulation_steps or 1) if self.steps == "same_shape" else 1
        lockstep = self.lockstep or self.world_size * times
        if lockstep > MAX_LOCKSTEP:
            detail = f"times world_size {self.world_size} must be at most {MAX_LOCKSTEP}, got {lockstep}"
            raise Invalid("gradient_accumulation_steps", detail, "Use fewer steps, or fewer ranks")
        return self.model_copy(update={"gradient_accumulation_steps": None, "lockstep": lockstep})

    def _check_sections(self) -> None:
        """Raise ``Invalid`` for a catch-all that would mix tiers or lengths of clips."""
        for field, is_given in (
            ("ladder.kind", self.ladder.is_of_tiers),
            ("frame_buckets", self.frame_buckets),
        ):
            if is_given and self.tails == "catch_all":
                detail = "tails: catch_all gathers the remainders of all buckets in one, but these must not be mixed"
                others = ", ".join(name for name in POLICIES if name != self.tails)
                raise Invalid(field, detail, f"Use tails: {others}")

    def _lengths(self, num_tiers: int) -> tuple[FrameBucket, ...]:
        """Shortest first. Raises ``Invalid`` for a duplicate, or unless ``keep_prob`` has a number for each tier."""
        found: dict[int, FrameBucket] = {}
        for index, given in enumerate(self.frame_buckets or ()):
            bucket = FrameBucketSpec(num_frames=given) if isinstance(given, int) else given
            field = f"frame_buckets.{index}"
            keep = bucket.keep_prob
            listed = tuple(keep) if isinstance(keep, list) else (keep,) * num_tiers
            if len(listed) != num_tiers:
                detail = f"must have one number for each of {num_tiers} "
                detail += f"{'tier' if num_tiers == 1 else 'tiers'}, got {len(listed)}"
                raise Invalid(
                    f"{field}.keep_prob", detail, "Give them from the lowest tier up, or one number"
                )
            if bucket.num_frames in found:
                detail = f"length {bucket.num_frames} is listed more than once"
                raise Invalid(field, detail, "Give each length once")
            found[bucket.num_frames] = FrameBucket(bucket.num_frames, listed)
        return tuple(found[length] for length in sorted(found))

    def _with_implied(self: _P, kind: PlannerKind, repeats: float | None) -> _P:
        """With what the planner implies written out. Raises ``Invalid`` for anything else, rather than ignore it.
        ``repeats``: the field as the user wrote it."""
        wanted = [(field, _at(self, field), implied) for field, implied in kind.implies.items()]
        # name the field that the user wrote: a resolved spec has num_repeats alone
        if not kind.takes_repeats:
            wrote_repeats = repeats is not None
            wanted.append(
                ("repeats", repeats, 0.0) if wrote_repeats else ("num_repeats", self.num_repeats, 1.0)
            )
        for field, given, implied in wanted:
            if given is not None and given != implied:
                only = "Leave it out" if implied is None else f"Leave it out, or use {_written(implied)}"
                detail = f"planner {kind.name} does not support {_written(given)}"
                raise Invalid(field, detail, f"{only}; planner {DEFAULT.name} supports it")
        spec = self
        for field, value in (*kind.implies.items(), *kind.defaults.items()):
            if _at(spec, field) is None:
                spec = _with(spec, field, value)
        return spec

    @property
    def planner_kind(self) -> PlannerKind:
        return PLANNERS[self.planner]

    def check_several_maps(self) -> None:
        """Raise ``Invalid`` where the planner takes one map only."""
        if not self.planner_kind.takes_several_maps:
            hint = f"Give map, or use planner: {DEFAULT.name}"
            raise Invalid("maps", f"planner {self.planner} takes one map", hint)

    @property
    def is_fitted(self) -> bool:
        """Whether the buckets depend on the images."""
        return self.ladder.depends_on_images

    @property
    def _limits(self) -> Limits:
        about = self.assign
        assert about.metric is not None
        return Limits(about.metric, about.max_ar_error, about.max_crop_loss, about.min_size)

    def fit(self, parts: Sequence[Part], maps: Sequence[MapSpec] = ()) -> Fitted:
        """What depends on the images: (width, height) of each bucket, or the packs; otherwise None. Of a resolved
        spec. ``parts``: the images, or their distinct sizes, of each map; ``maps``: as for ``plan_spec``. An image
        counts as often as an epoch asks for it. Raises ``Invalid`` if they cannot be met."""
        if not self.is_fitted:
            return None
        widths, heights = (
            np.concatenate([getattr(part, side) for part in parts]) for side in ("widths", "heights")
        )
        lengths = self._lengths(num_tiers=1)
        samples = expected_samples(parts, self._shares(maps, len(parts)), lengths, self.assign.min_size)
        if isinstance(self.ladder, NativeLadder):
            plan = self._plan_spec(self._packing(None), (), maps)
            return fit_packs(plan, Images(parts), samples, self.ladder.num_lengths)
        return self.ladder.fit(widths, heights, samples, self._limits)

    def _shares(self, maps: Sequence[MapSpec], num_maps: int = 1) -> list[MapShare]:
        """The shares of ``maps``, or of ``num_maps`` maps whose images are served equally often."""
        times = self.times
        return [MapShare(each.times * times, each.weight) for each in maps] or [MapShare(times)] * num_maps

    def plan_spec(self, fitted: Fitted = None, maps: Sequence[MapSpec] = ()) -> PlanSpec:
        """Of a resolved spec, with what ``fit`` chose. ``maps``: several; unless given, one. Raises ``Invalid`` naming
        the field that yields no bucket or no batch."""
        if self.pack:
            assert isinstance(fitted, PackKinds), "a run of packs has those that were found for its images"
            return self._plan_spec(self._packing(fitted), (), maps)
        plan = self._plan_spec(self.sizes, self._tiers(fitted), maps)
        # computed here, so that a budget that holds no batch is refused before anything is built
        assert len(plan.batch_sizes)
        return plan

    def _plan_spec(
        self, batch_size: int | Budget | Packing, tiers: tuple[Ladder, ...], maps: Sequence[MapSpec]
    ) -> PlanSpec:
        assert self.assign.metric is not None
        return PlanSpec(
            planner=self.planner,
            tiers=tiers
            if self.planner_kind.keeps_ladder_order
            else tuple(ladder.by_aspect() for ladder in tiers),
            batch_size=batch_size,
            seed=self.seed,
            lockstep=self.lockstep or 1,
            tails=self.tails or "drop",
            metric=self.assign.metric,
            max_ar_error=self.assign.max_ar_error,
            max_crop_loss=self.assign.max_crop_loss,
            min_size=self.assign.min_size,
            choose=self.ladder.choice,
            frame_buckets=self._lengths(len(tiers) or 1),
            first=self.first,
            maps=tuple(self._shares(maps)),
            no_upscale=self.ladder.rule,
            same_aspect=self._same_aspect(tiers),
            steps=self.steps or "same_shape",
            last_step=self.last_step or "drop",
            cost=self.cost.build(),
        )

    def _packing(self, packs: PackKinds | None) -> Packing:
        """``packs``: None before they are found."""
        assert self.pack is not None
        assert isinstance(self.ladder, NativeLadder)
        packs = packs or PackKinds.none(self.pack.max_tokens)
        return Packing(self.ladder.sizes(), self.pack.frame_stride, packs)

    def _tiers(self, fitted: Fitted) -> tuple[Ladder, ...]:
        if self.ladder.depends_on_images:
            assert isinstance(fitted, list), "such a ladder has the sizes that were found for its images"
            return (ladders.explicit(fitted),)
        return self.ladder.tiers()

    def _same_aspect(self, tiers: Iterable[Ladder]) -> SameAspect:
        """``first`` wherever there is nothing to choose: such plans are the same as before there was a choice."""
        is_chosen = self.planner_kind.keeps_ladder_order or self.ladder.rule is not None
        has_choice = not is_chosen and any(ladder.has_equal_aspects for ladder in tiers)
        return "largest_filled" if has_choice else "first"

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def _written(value: object) -> str:
    """A value as a user would write it."""
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _at(spec: SpecModel, field: str) -> Any:
    """The value of a field, ``assign.metric``."""
    return reduce(getattr, field.split("."), spec)


def _with(spec: _M, field: str, value: object) -> _M:
    """The same spec with one field changed."""
    name, _, rest = field.partition(".")
    return spec.model_copy(update={name: _with(getattr(spec, name), rest, value) if rest else value})


_WITH_CHANGED_DEFAULT = ("steps", "tails", "last_step", "cost")
"""Fields whose default another release had otherwise."""


class RunSpec(PlanFields, _OfMap):  # in this order ``map`` is the first field
    """One training job. All but ``map`` or ``maps``, ``world_size`` and ``batch_size`` or a budget have defaults."""

    def resolved(self) -> RunSpec:
        check_maps(self.map, self.maps, self.valid_ids)
        spec = super().resolved()
        if self.maps is None:
            return spec
        spec.check_several_maps()
        maps = [each.counted(f"maps.{index}.") for index, each in enumerate(self.maps)]
        return spec.model_copy(update={"maps": maps})

    def resolved_as(self, other: RunSpec) -> RunSpec:
        """Resolved, where what was left out is as another resolved spec has it. Raises ``Invalid``."""
        left_out = {name: getattr(other, name) for name in _WITH_CHANGED_DEFAULT if self.leaves_out(name)}
        return self.model_copy(update=left_out).resolved()

    def leaves_out(self, field: str) -> bool:
        """Of a spec as it was given: whether it leaves a field to a default that another release had otherwise."""
        is_given = field in self.model_fields_set and getattr(self, field) is not None
        return field in _WITH_CHANGED_DEFAULT and not is_given

    @property
    def sources(self) -> list[MapSpec]:
        """Of a resolved spec all maps that it draws on, one or several, each with its valid ids."""
        return self.maps or [MapSpec(map=self.map or "", valid_ids=self.valid_ids)]
