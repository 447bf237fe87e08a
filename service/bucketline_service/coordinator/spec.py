"""The run spec: what users write (DESIGN 6), with its defaults, and how it becomes a plan spec."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, StrictInt, StrictStr

from bucketline_service.coordinator.deal import MAX_EPOCH
from bucketline_service.coordinator.ladders import AnyLadder, FittedLadder, NovelaiLadder, SpecModel
from bucketline_service.errors import Invalid
from bucketline_service.planning import ladder as ladders
from bucketline_service.planning.build import VERSION, PlanSpec
from bucketline_service.planning.ladder import MAX_SIDE
from bucketline_service.state.port import MAX_WORLD_SIZE

MAX_BATCH_SIZE = 65_536
MAX_LOCKSTEP = 1 << 20
NOVELAI_MAX_AR_ERROR = 4.0

_T = TypeVar("_T")
_P = TypeVar("_P", bound="PlanFields")
_Some = Annotated[list[_T], Field(min_length=1)]


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


class _OfMap(SpecModel):
    map: str = Field(description="name of the resolution map")


class PlanFields(SpecModel):
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
