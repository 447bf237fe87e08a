"""The run spec: what users write (DESIGN 6), with its defaults, and how it becomes a plan spec."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import Field, PositiveInt, StrictInt, StrictStr

from bucketline_service.coordinator.deal import MAX_EPOCH
from bucketline_service.coordinator.ladders import (
    AnyLadder,
    FittedLadder,
    KohyaLadder,
    NovelaiLadder,
    SpecModel,
    TiersLadder,
)
from bucketline_service.errors import Invalid
from bucketline_service.planning import ladder as ladders
from bucketline_service.planning.build import VERSION
from bucketline_service.planning.images import Part
from bucketline_service.planning.ladder import MAX_SIDE, Ladder
from bucketline_service.planning.limits import Limits
from bucketline_service.planning.no_upscale import NoUpscale, needed
from bucketline_service.planning.spec import Budget, FrameBucket, MapShare, PlanSpec
from bucketline_service.state.port import MAX_WORLD_SIZE

MAX_BATCH_SIZE = 65_536
MAX_LOCKSTEP = 1 << 20
MAX_REPEATS = 10_000
MAX_MAPS = 256
MAX_WEIGHT = 1e9
NOVELAI_MAX_AR_ERROR = 4.0

_T = TypeVar("_T")
_P = TypeVar("_P", bound="PlanFields")
_R = TypeVar("_R", bound="Repeats")
_M = TypeVar("_M", bound="MapSpec")
_B = TypeVar("_B", bound="BatchSizes")
_Probability = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]
_Some = Annotated[list[_T], Field(min_length=1)]
_Limit = Annotated[int, Field(strict=True, ge=1, lt=2**53)]


class AssignSpec(SpecModel):
    """How an image finds its bucket, and which images are pruned."""

    metric: Literal["log", "abs"] | None = Field(
        None, description="nearest aspect by ratio (log, the default) or by difference (abs, as NovelAI's)"
    )
    max_ar_error: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = Field(
        None, description="prune where the aspect error is this or more"
    )
    max_crop_loss: Annotated[float, Field(strict=True, ge=0, le=1)] | None = Field(
        None, description="prune where more of the image is cropped"
    )
    min_size: Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE)] | None = Field(
        None, description="prune where the shorter side has fewer pixels"
    )


NumRepeats = Annotated[float, Field(strict=True, gt=0, le=MAX_REPEATS, allow_inf_nan=False)]
ValidIds = _Some[StrictInt] | _Some[StrictStr] | str
NumImages = Annotated[int, Field(strict=True, ge=1, le=MAX_BATCH_SIZE)]


class FrameBucketSpec(SpecModel):
    """A length of clips."""

    num_frames: Annotated[int, Field(strict=True, ge=1, lt=2**31)]
    keep_prob: _Probability | _Some[_Probability] = Field(
        1.0,
        description="of the clips that come here, the share that an epoch takes, one number or one for each tier from "
        "the lowest on; the others go to the next lower tier that they fill, or are left out",
    )


class Repeats(SpecModel):
    """How often the images of a map come in an epoch."""

    num_repeats: NumRepeats | None = Field(
        None,
        description="times that each image comes in an epoch, 1 unless given; 1.5: every second one twice",
    )
    repeats: Annotated[float, Field(strict=True, ge=0, lt=MAX_REPEATS, allow_inf_nan=False)] | None = Field(
        None, description="further times, as SimpleTuner counts: 0 is once. Not with num_repeats"
    )
    valid_ids: ValidIds | None = Field(
        None, description="only these ids of the map: a list, or the name of a map whose ids count"
    )

    @property
    def times(self) -> float:
        return self.num_repeats or 1.0

    def counted(self: _R, field: str) -> _R:
        """With ``num_repeats`` written out. ``field``: what the two stand in."""
        if self.repeats is None:
            return self.model_copy(update={"num_repeats": self.times})
        if self.num_repeats is not None:
            raise Invalid(
                f"{field}repeats", "num_repeats is given as well", "Give one: repeats 0 is num_repeats 1"
            )
        return self.model_copy(update={"num_repeats": self.repeats + 1.0, "repeats": None})


class MapSpec(Repeats):
    """One of several maps of a run."""

    map: str = Field(description="name of the resolution map")
    weight: Annotated[float, Field(strict=True, gt=0, le=MAX_WEIGHT, allow_inf_nan=False)] | None = Field(
        None,
        description="the map's share of the epoch, over the sum of all weights; all maps have one, or none",
    )

    def counted(self: _M, field: str) -> _M:
        return self if self.weight is not None else super().counted(field)


class _OfMap(SpecModel):
    map: str | None = Field(None, description="name of the resolution map")
    maps: Annotated[list[MapSpec], Field(min_length=1, max_length=MAX_MAPS)] | None = Field(
        None, description="instead of map: several"
    )


class BatchSizes(SpecModel):
    """How many images a batch has: a number, or for each bucket as many as a budget holds."""

    batch_size: NumImages | None = Field(None, description="images a batch; or give a budget")
    max_pixels_per_batch: _Limit | None = Field(
        None, description="for each bucket as many images as have no more pixels, those of all frames"
    )
    max_tokens_per_batch: _Limit | None = Field(
        None, description="for each bucket as many images as have no more tokens of the latent"
    )
    latent_stride: Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE)] | None = Field(
        None, description="pixels of a side of a token; 16 unless given: a stride of 8 and patches of 2"
    )
    latent_frame_stride: Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE)] | None = Field(
        None, description="frames of a token; 1 unless given"
    )
    min_batch_size: NumImages | None = Field(
        None, description="of a budget; where it holds fewer the spec is refused"
    )
    max_batch_size: NumImages | None = Field(None, description="of a budget; no bucket has more")
    batch_size_multiple: NumImages | None = Field(
        None, description="of a budget; sizes are rounded down to one of it"
    )

    def with_sizes(self: _B) -> _B:
        """With a budget's defaults written out. Raises ``Invalid`` where not one of the three is given, or something
        that does not go with it."""
        given = [name for name in ("batch_size", *_BUDGETS) if getattr(self, name) is not None]
        if len(given) != 1:
            what = " and ".join(given) + " are given" if given else "is missing"
            hint = "Give batch_size, or one budget: max_pixels_per_batch or max_tokens_per_batch"
            raise Invalid("batch_size", what, hint)
        told = {}
        for name, (owners, default) in _OF_BUDGETS.items():
            if given[0] in owners:
                told[name] = default if getattr(self, name) is None else getattr(self, name)
            elif getattr(self, name) is not None:
                raise Invalid(name, f"does not go with {given[0]}", f"It goes with {' or '.join(owners)}")
        if told and told["min_batch_size"] > told["max_batch_size"]:
            detail = f"{told['min_batch_size']} is more than max_batch_size {told['max_batch_size']}"
            raise Invalid("min_batch_size", detail, "Take no more than that")
        if told and told["max_batch_size"] % (multiple := told["batch_size_multiple"]) > (
            told["max_batch_size"] - told["min_batch_size"]
        ):
            detail = f"no multiple of {multiple} lies between min_batch_size "
            detail += f"{told['min_batch_size']} and max_batch_size {told['max_batch_size']}"
            raise Invalid("batch_size_multiple", detail, "Take a divisor of max_batch_size")
        return self.model_copy(update=told)

    @property
    def sizes(self) -> int | Budget:
        """Of a spec with its defaults written out."""
        if self.batch_size is not None:
            return self.batch_size
        field = "max_tokens_per_batch" if self.max_pixels_per_batch is None else "max_pixels_per_batch"
        return Budget(
            field,
            self.max_pixels_per_batch or self.max_tokens_per_batch or 0,
            self.latent_stride or 1,
            self.latent_frame_stride or 1,
            self.min_batch_size or 1,
            self.max_batch_size or MAX_BATCH_SIZE,
            self.batch_size_multiple or 1,
        )


_BUDGETS = ("max_pixels_per_batch", "max_tokens_per_batch")
_OF_BUDGETS = {  # what goes with which, and what it is unless given
    "latent_stride": (("max_tokens_per_batch",), 16),
    "latent_frame_stride": (("max_tokens_per_batch",), 1),
    "min_batch_size": (_BUDGETS, 1),
    "max_batch_size": (_BUDGETS, MAX_BATCH_SIZE),
    "batch_size_multiple": (_BUDGETS, 1),
}


class PlanFields(BatchSizes, Repeats):
    """How images are planned. All but ``world_size`` and ``batch_size`` or a budget have defaults."""

    world_size: Annotated[int, Field(strict=True, ge=1, le=MAX_WORLD_SIZE)] = Field(
        description="ranks, as in torch.distributed"
    )
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = Field(42, description="of all that is random")
    planner: Literal["line", "novelai"] = "line"
    lockstep: Annotated[int, Field(strict=True, ge=1, le=MAX_LOCKSTEP)] | None = Field(
        None,
        description="consecutive batches of one bucket; world_size unless given, so that steps have one shape",
    )
    tails: Literal["spill", "pad", "drop", "catch_all"] | None = Field(
        None, description="what becomes of images that do not fill a unit: spill unless given"
    )
    ladder: AnyLadder = Field(default_factory=lambda: NovelaiLadder())
    assign: AssignSpec = Field(default_factory=lambda: AssignSpec())
    frame_buckets: _Some[Annotated[int, Field(strict=True, ge=1, lt=2**31)] | FrameBucketSpec] | None = Field(
        None,
        description="lengths of clips in frames: each goes to the longest that it fills, and a batch has one. 1 is for "
        "stills alone. Without it all are stills",
    )
    gradient_accumulation_steps: Annotated[int, Field(strict=True, ge=1, le=MAX_LOCKSTEP)] | None = Field(
        None,
        description="steps of one shape on all ranks: lockstep is world_size times it. Not with lockstep",
    )
    first: Literal["largest"] | None = Field(
        None,
        description="epoch 0 begins with a unit of each distinct shape, the largest batch first, so that what runs out "
        "of memory does so at step 0",
    )
    epochs: Annotated[PositiveInt, Field(strict=True, lt=MAX_EPOCH)] | None = Field(
        None, description="end after so many; without it a run goes on for ever"
    )

    def resolved(self: _P) -> _P:
        """The same spec with every default written out, which is how it is kept and compared. Raises ``Invalid``."""
        spec = self.counted("").with_sizes()
        if self.planner == "novelai":
            return spec._novelai()
        metric = self.assign.metric or "log"
        if self.lockstep and self.gradient_accumulation_steps:
            hint = "Give one: lockstep is world_size times gradient_accumulation_steps"
            raise Invalid("lockstep", "gradient_accumulation_steps is given as well", hint)
        lockstep = self.lockstep or self.world_size * (self.gradient_accumulation_steps or 1)
        if lockstep > MAX_LOCKSTEP:
            detail = f"world_size {self.world_size} times it is {lockstep}"
            raise Invalid("gradient_accumulation_steps", detail, f"Lockstep may be at most {MAX_LOCKSTEP}")
        spec._check_sections()
        return spec.model_copy(
            update={
                "gradient_accumulation_steps": None,
                "lockstep": lockstep,
                "tails": self.tails or "spill",
                "assign": self.assign.model_copy(update={"metric": metric}),
            }
        )

    def _check_sections(self) -> None:
        """Tiers and lengths may not be mixed, which a catch-all would do."""
        for field, is_given in (
            ("ladder.kind", self.ladder.kind == "tiers"),
            ("frame_buckets", self.frame_buckets),
        ):
            if is_given and self.tails == "catch_all":
                detail = "catch_all gathers the tails of all buckets in one, and these must not be mixed"
                raise Invalid(field, detail, "Use tails: spill, pad or drop")

    def _lengths(self, num_tiers: int) -> tuple[FrameBucket, ...]:
        """From the shortest on. Raises ``Invalid`` where one is there twice, or not one number is there for a tier."""
        found: dict[int, FrameBucket] = {}
        for index, given in enumerate(self.frame_buckets or ()):
            bucket = FrameBucketSpec(num_frames=given) if isinstance(given, int) else given
            field = f"frame_buckets.{index}"
            keep = bucket.keep_prob
            listed = tuple(keep) if isinstance(keep, list) else (keep,) * num_tiers
            if len(listed) != num_tiers:
                detail = f"{len(listed)} numbers are given for {num_tiers} tiers"
                raise Invalid(
                    f"{field}.keep_prob", detail, "Give one for each tier, from the lowest on, or one number"
                )
            if bucket.num_frames in found:
                raise Invalid(
                    field, f"{bucket.num_frames} frames are there more than once", "Give each length once"
                )
            found[bucket.num_frames] = FrameBucket(bucket.num_frames, listed)
        return tuple(found[length] for length in sorted(found))

    def _novelai(self: _P) -> _P:
        """What the planner implies; anything else is refused rather than ignored."""
        wants = {
            "ladder.kind": (self.ladder.kind, "novelai"),
            "tails": (self.tails, "catch_all"),
            "assign.metric": (self.assign.metric, "abs"),
            "assign.max_crop_loss": (self.assign.max_crop_loss, None),
            "assign.min_size": (self.assign.min_size, None),
            "lockstep": (self.lockstep, None),
            "gradient_accumulation_steps": (self.gradient_accumulation_steps, None),
            "frame_buckets": (self.frame_buckets, None),
            "first": (self.first, None),
            "max_pixels_per_batch": (self.max_pixels_per_batch, None),
            "max_tokens_per_batch": (self.max_tokens_per_batch, None),
            "num_repeats": (self.num_repeats, 1.0),
        }
        for field, (given, implied) in wants.items():
            if given is not None and given != implied:
                only = f"Leave it out, or say {implied}" if implied else "Leave it out"
                raise Invalid(field, f"planner novelai does not do {given!r}", f"{only}; planner line does")
        error = self.assign.max_ar_error or NOVELAI_MAX_AR_ERROR
        assign = self.assign.model_copy(update={"metric": "abs", "max_ar_error": error})
        return self.model_copy(update={"tails": "catch_all", "assign": assign})

    @property
    def is_fitted(self) -> bool:
        """Whether the ladder hangs on the images."""
        return isinstance(self.ladder, FittedLadder) or self._no_upscale is not None

    @property
    def _no_upscale(self) -> NoUpscale | None:
        return self.ladder.rule if isinstance(self.ladder, KohyaLadder) else None

    @property
    def _limits(self) -> Limits:
        about = self.assign
        assert about.metric is not None
        return Limits(about.metric, about.max_ar_error, about.max_crop_loss, about.min_size)

    def fit(self, parts: Sequence[Part]) -> list[tuple[int, int]] | None:
        """(width, height) of each bucket where the ladder hangs on the images; None where it does not. Of a resolved
        spec. ``parts``: the images, or their distinct sizes. Raises ``Invalid`` where these can not be met."""
        if not self.is_fitted:
            return None
        widths, heights = (
            np.concatenate([getattr(part, side) for part in parts]) for side in ("widths", "heights")
        )
        if self._no_upscale is not None:
            return needed(self._no_upscale, widths, heights, self._limits)
        assert isinstance(self.ladder, FittedLadder)
        counts = [
            np.ones(len(part.widths), np.int64) if part.counts is None else part.counts for part in parts
        ]
        return self.ladder.fit(widths, heights, np.concatenate(counts))

    def plan_spec(
        self, fitted_sizes: Iterable[Sequence[int]] | None = None, maps: Sequence[MapSpec] = ()
    ) -> PlanSpec:
        """Of a resolved spec, with what ``fit`` chose. ``maps``: several; unless given, one. Raises ``Invalid`` naming
        the field that yields no bucket or no batch."""
        assert self.tails is not None
        assert self.assign.metric is not None
        tiers = self._tiers(fitted_sizes)
        times = self.times
        shares = [MapShare(each.times * times, each.weight) for each in maps] or [MapShare(times)]
        plan = PlanSpec(
            planner=self.planner,
            tiers=tiers if self.planner == "novelai" else tuple(ladder.by_aspect() for ladder in tiers),
            batch_size=self.sizes,
            seed=self.seed,
            lockstep=self.lockstep or 1,
            tails=self.tails,
            metric=self.assign.metric,
            max_ar_error=self.assign.max_ar_error,
            max_crop_loss=self.assign.max_crop_loss,
            min_size=self.assign.min_size,
            choose=self.ladder.choose if isinstance(self.ladder, TiersLadder) else "highest",
            frame_buckets=self._lengths(len(tiers)),
            first=self.first,
            maps=tuple(shares),
            no_upscale=self._no_upscale,
        )
        # asked for here, that a budget that holds no batch is refused before anything is built
        assert len(plan.batch_sizes)
        return plan

    def _tiers(self, fitted_sizes: Iterable[Sequence[int]] | None) -> tuple[Ladder, ...]:
        if isinstance(self.ladder, TiersLadder):
            return tuple(self.ladder.build())
        if isinstance(self.ladder, FittedLadder) or self._no_upscale is not None:
            assert fitted_sizes is not None, "such a ladder has the sizes that were found for its images"
            return (ladders.explicit(fitted_sizes),)
        return (self.ladder.build(),)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class RunSpec(PlanFields, _OfMap):  # in this order ``map`` is the first field
    """One training job. All but ``map`` or ``maps``, ``world_size`` and ``batch_size`` or a budget have defaults."""

    def resolved(self) -> RunSpec:
        check_maps(self.map, self.maps, self.valid_ids)
        spec = super().resolved()
        if self.maps is None:
            return spec
        if self.planner == "novelai":
            raise Invalid("maps", "planner novelai takes one map", "Say map, or take planner: line")
        maps = [each.counted(f"maps.{index}.") for index, each in enumerate(self.maps)]
        return spec.model_copy(update={"maps": maps})

    @property
    def sources(self) -> list[MapSpec]:
        """Of a resolved spec all maps that it draws on, one or several, each with its valid ids."""
        return self.maps or [MapSpec(map=self.map or "", valid_ids=self.valid_ids)]


def check_maps(one: str | None, several: Sequence[MapSpec] | None, valid_ids: object) -> None:
    """Raise ``Invalid`` unless there is one map or several, and what goes with them."""
    if (one is None) == (several is None):
        raise Invalid(
            "map", "one of map and maps is to be given", 'Say "map": "name", or "maps": [{"map": "name"}, …]'
        )
    if several is None:
        return
    names = [each.map for each in several]
    for index, each in enumerate(several):
        if names.index(each.map) != index:
            raise Invalid(f"maps.{index}.map", f"{each.map!r} is there more than once", "Give each map once")
        if each.weight is None and any(other.weight is not None for other in several):
            raise Invalid(
                f"maps.{index}.weight", "is missing, and other maps have one", "Give all a weight, or none"
            )
        if each.weight is not None and (each.num_repeats is not None or each.repeats is not None):
            raise Invalid(
                f"maps.{index}.weight", "num_repeats is given as well", "The weight says how often they come"
            )
    if valid_ids is not None:
        raise Invalid("valid_ids", "does not say of which map", "Give it inside maps, to each map its own")


def fingerprint(plan: PlanSpec, map_digests: Sequence[str], valid_digests: Sequence[str | None]) -> str:
    """64 hex digits that two plans share if they give the same batches. The world size is not part of it: the same
    plan is dealt to any number of ranks."""
    parts = {
        "version": VERSION,
        "planner": plan.planner,
        "maps": list(map_digests),
        "valid_ids": list(valid_digests),
        "shares": [list(share) for share in plan.maps],
        "tiers": [[ladder.sizes, ladder.aspects.tolist()] for ladder in plan.tiers],
        "choose": plan.choose,
        "targets": plan.targets,
        "frame_buckets": [list(bucket) for bucket in plan.frame_buckets],
        "batch_sizes": plan.batch_sizes.tolist(),
        "seed": plan.seed,
        "lockstep": plan.lockstep,
        "tails": plan.tails,
        "first": plan.first,
        "no_upscale": plan.no_upscale,
        "assign": [plan.metric, plan.max_ar_error, plan.max_crop_loss, plan.min_size],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def ids_digest(ids: list[int] | list[str]) -> str:
    """Of ``valid_ids`` as a set: order and repetition do not matter."""
    unique = sorted(set(ids), key=lambda image_id: (isinstance(image_id, str), image_id))
    return hashlib.sha256(json.dumps(unique).encode()).hexdigest()
