"""The run spec: what users write (DESIGN 6), with its defaults, and how it becomes a plan spec."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    StrictInt,
    StrictStr,
    Tag,
)
from pydantic_core import PydanticCustomError

from bucketline_service.coordinator.deal import MAX_EPOCH
from bucketline_service.errors import Invalid
from bucketline_service.planning import ladder as ladders
from bucketline_service.planning.build import VERSION, PlanSpec
from bucketline_service.planning.fitted import fitted
from bucketline_service.planning.ladder import MAX_BUCKETS, MAX_SIDE, Ladder
from bucketline_service.planning.presets import preset
from bucketline_service.state.port import MAX_WORLD_SIZE

MAX_BATCH_SIZE = 65_536
MAX_LOCKSTEP = 1 << 20
NOVELAI_MAX_AR_ERROR = 4.0

Pixels = Annotated[int, Field(strict=True, ge=1)]
Size = tuple[Pixels, Pixels]
Aspect = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NumBuckets = Annotated[int, Field(strict=True, ge=1, le=MAX_BUCKETS)]
_T = TypeVar("_T")
_P = TypeVar("_P", bound="PlanFields")
_Some = Annotated[list[_T], Field(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NovelaiLadder(_Model):
    """The ladder of NovelAI's BucketManager: the largest bucket for each width and height within the area of
    ``max_size``."""

    kind: Literal["novelai"] = "novelai"
    max_size: Size = Field((768, 512), description="(width, height) whose area no bucket exceeds")
    divisible: Pixels = Field(64, description="sides are min_dim plus multiples of this")
    min_dim: Pixels = Field(256, description="the shortest side")
    dim_limit: Pixels = Field(1024, description="the longest side")
    base_res: Size = Field((512, 512), description="(width, height) of the catch-all bucket")

    def build(self) -> Ladder:
        return ladders.novelai(self.max_size, self.divisible, self.min_dim, self.dim_limit, self.base_res)


class KohyaLadder(_Model):
    """The ladder of kohya-ss/sd-scripts' ``--enable_bucket``."""

    kind: Literal["kohya"]
    resolution: Pixels | Size = Field(
        (512, 512), description="a side, or (width, height); its area is the buckets'"
    )
    min_bucket_reso: Pixels = 256
    max_bucket_reso: Pixels = 1024
    bucket_reso_steps: Pixels = 64

    def build(self) -> Ladder:
        return ladders.kohya(
            self.resolution, self.min_bucket_reso, self.max_bucket_reso, self.bucket_reso_steps
        )


class ExplicitLadder(_Model):
    """Just these sizes."""

    kind: Literal["explicit"]
    sizes: list[Size] = Field(min_length=1, description="(width, height) of each bucket")

    def build(self) -> Ladder:
        return ladders.explicit(self.sizes)


class GeometricLadder(_Model):
    """The aspect-ratio buckets of tdrussell/diffusion-pipe: evenly spaced in the logarithm, about equal in area."""

    kind: Literal["geometric"]
    min_ar: Aspect = Field(0.5, description="the least aspect, width / height")
    max_ar: Aspect = Field(2.0, description="the largest aspect")
    num_ar_buckets: NumBuckets = Field(7, description="buckets from min_ar to max_ar")
    base_res: Pixels | Size = Field(
        (512, 512), description="a side, or (width, height), whose area is the buckets'"
    )
    divisible: Pixels = Field(32, description="sides are rounded to multiples of this")

    def build(self) -> Ladder:
        return ladders.geometric(self.min_ar, self.max_ar, self.num_ar_buckets, self.base_res, self.divisible)


class PresetLadder(_Model):
    """A published table of sizes, by name."""

    kind: Literal["preset"]
    name: Literal["sd15", "sdxl", "pixart-512", "pixart-1024"]

    def build(self) -> Ladder:
        return preset(self.name)


class FittedLadder(_Model):
    """The sizes that lose the least of this map's images by cropping."""

    kind: Literal["fitted"]
    num_buckets: NumBuckets = Field(16, description="at most so many buckets")
    max_size: Size = Field((768, 512), description="(width, height) whose area no bucket exceeds")
    divisible: Pixels = Field(64, description="sides are multiples of this")
    min_dim: Pixels = Field(256, description="the shortest side")
    dim_limit: Pixels = Field(1024, description="the longest side")
    min_fill: Annotated[float, Field(strict=True, ge=0, le=1)] = Field(
        0.75, description="the least share of max_size's area, but for the longest bucket of a side"
    )

    def fit(
        self,
        widths: NDArray[np.uint32],
        heights: NDArray[np.uint32],
        counts: NDArray[np.int64] | None = None,
    ) -> list[tuple[int, int]]:
        """(width, height) of each bucket, for images of these sizes; ``counts``: how many of each."""
        return fitted(
            widths,
            heights,
            self.num_buckets,
            self.max_size,
            self.divisible,
            self.min_dim,
            self.dim_limit,
            self.min_fill,
            counts,
        ).sizes


_KINDS: dict[str, type[_Model]] = {
    "novelai": NovelaiLadder,
    "kohya": KohyaLadder,
    "geometric": GeometricLadder,
    "preset": PresetLadder,
    "fitted": FittedLadder,
    "explicit": ExplicitLadder,
}
_DEFAULT_KIND = "novelai"


def _kind(given: Any) -> Any:
    return given.get("kind", _DEFAULT_KIND) if isinstance(given, dict) else getattr(given, "kind", None)


def _check_kind(given: Any) -> Any:
    """Refuse what no kind of ladder can be, in words that help; the union's own would name its parts."""
    if isinstance(given, _Model):
        return given
    if not isinstance(given, dict):
        example = '{"kind": "kohya", "resolution": 512}'
        raise PydanticCustomError("ladder", "a ladder is an object, e.g. {example}", {"example": example})
    kind = _kind(given)
    if not isinstance(kind, str) or kind not in _KINDS:
        about = {"given": repr(kind)[:80], "kinds": ", ".join(_KINDS)}
        raise PydanticCustomError("ladder", "kind {given} is none of {kinds}", about)
    for name in given if "kind" not in given else ():
        owners = [each for each, model in _KINDS.items() if name in model.model_fields]
        if owners and _DEFAULT_KIND not in owners:
            about = {"name": name, "owners": " and ".join(owners), "owner": owners[0]}
            raise PydanticCustomError("ladder", '{name} is of kind {owners}: say "kind": "{owner}"', about)
    return given


AnyLadder = Annotated[
    Annotated[NovelaiLadder, Tag("novelai")]
    | Annotated[KohyaLadder, Tag("kohya")]
    | Annotated[GeometricLadder, Tag("geometric")]
    | Annotated[PresetLadder, Tag("preset")]
    | Annotated[FittedLadder, Tag("fitted")]
    | Annotated[ExplicitLadder, Tag("explicit")],
    Discriminator(_kind),
    BeforeValidator(_check_kind),
]


class AssignSpec(_Model):
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


class _OfMap(_Model):
    map: str = Field(description="name of the resolution map")


class PlanFields(_Model):
    """How the images of a map are planned. All but ``world_size`` and ``batch_size`` have defaults."""

    world_size: Annotated[int, Field(strict=True, ge=1, le=MAX_WORLD_SIZE)] = Field(
        description="ranks, as in torch.distributed"
    )
    batch_size: Annotated[int, Field(strict=True, ge=1, le=MAX_BATCH_SIZE)] = Field(
        description="images a batch"
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
    valid_ids: _Some[StrictInt] | _Some[StrictStr] | str | None = Field(
        None, description="only these ids of the map: a list, or the name of a map whose ids count"
    )
    epochs: Annotated[PositiveInt, Field(strict=True, lt=MAX_EPOCH)] | None = Field(
        None, description="end after so many; without it a run goes on for ever"
    )

    def resolved(self: _P) -> _P:
        """The same spec with every default written out, which is how it is kept and compared. Raises ``Invalid``."""
        if self.planner == "novelai":
            return self._novelai()
        metric = self.assign.metric or "log"
        return self.model_copy(
            update={
                "lockstep": self.lockstep or self.world_size,
                "tails": self.tails or "spill",
                "assign": self.assign.model_copy(update={"metric": metric}),
            }
        )

    def _novelai(self: _P) -> _P:
        """What the planner implies; anything else is refused rather than ignored."""
        wants = {
            "ladder.kind": (self.ladder.kind, "novelai"),
            "tails": (self.tails, "catch_all"),
            "assign.metric": (self.assign.metric, "abs"),
            "assign.max_crop_loss": (self.assign.max_crop_loss, None),
            "assign.min_size": (self.assign.min_size, None),
            "lockstep": (self.lockstep, None),
        }
        for field, (given, implied) in wants.items():
            if given is not None and given != implied:
                only = f"Leave it out, or say {implied}" if implied else "Leave it out"
                raise Invalid(field, f"planner novelai does not do {given!r}", f"{only}; planner line does")
        error = self.assign.max_ar_error or NOVELAI_MAX_AR_ERROR
        assign = self.assign.model_copy(update={"metric": "abs", "max_ar_error": error})
        return self.model_copy(update={"tails": "catch_all", "assign": assign})

    def fit(
        self,
        widths: NDArray[np.uint32],
        heights: NDArray[np.uint32],
        counts: NDArray[np.int64] | None = None,
    ) -> list[tuple[int, int]] | None:
        """(width, height) of each bucket where the ladder is fitted to the images; None where it is not. ``counts``:
        how many images each of these sizes stands for, one unless given."""
        return self.ladder.fit(widths, heights, counts) if isinstance(self.ladder, FittedLadder) else None

    def plan_spec(self, fitted_sizes: Iterable[Sequence[int]] | None = None) -> PlanSpec:
        """Of a resolved spec, with what ``fit`` chose. Raises ``Invalid`` naming the ladder's field where it yields no
        bucket."""
        assert self.tails is not None
        assert self.assign.metric is not None
        if isinstance(self.ladder, FittedLadder):
            assert fitted_sizes is not None, "a fitted ladder has the sizes that were chosen for its images"
            ladder = ladders.explicit(fitted_sizes)
        else:
            ladder = self.ladder.build()
        return PlanSpec(
            planner=self.planner,
            ladder=ladder if self.planner == "novelai" else ladder.by_aspect(),
            batch_size=self.batch_size,
            seed=self.seed,
            lockstep=self.lockstep or 1,
            tails=self.tails,
            metric=self.assign.metric,
            max_ar_error=self.assign.max_ar_error,
            max_crop_loss=self.assign.max_crop_loss,
            min_size=self.assign.min_size,
        )

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class RunSpec(PlanFields, _OfMap):  # in this order ``map`` is the first field
    """One training job. All but ``map``, ``world_size`` and ``batch_size`` have defaults."""


def fingerprint(plan: PlanSpec, map_digest: str, valid_digest: str | None) -> str:
    """64 hex digits that two plans share if they give the same batches. The world size is not part of it: the same
    plan is dealt to any number of ranks."""
    parts = {
        "version": VERSION,
        "planner": plan.planner,
        "map": map_digest,
        "valid_ids": valid_digest,
        "ladder": [plan.targets, plan.ladder.aspects.tolist()],
        "batch_sizes": plan.batch_sizes.tolist(),
        "seed": plan.seed,
        "lockstep": plan.lockstep,
        "tails": plan.tails,
        "assign": [plan.metric, plan.max_ar_error, plan.max_crop_loss, plan.min_size],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def ids_digest(ids: list[int] | list[str]) -> str:
    """Of ``valid_ids`` as a set: order and repetition do not matter."""
    unique = sorted(set(ids), key=lambda image_id: (isinstance(image_id, str), image_id))
    return hashlib.sha256(json.dumps(unique).encode()).hexdigest()
