"""Models and types of fields that several resources share."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from bucketline_service import names
from bucketline_service.planning.plan_spec import MAX_LOCKSTEP
from bucketline_service.planning.planner_port import MAX_EPOCH
from bucketline_service.runs.resume import StateDict
from bucketline_service.runs.sharding import MAX_COUNT
from bucketline_service.spec.advice import CODES
from bucketline_service.store.port import MAX_WORLD_SIZE, Cursor

Epoch = Annotated[int, Field(strict=True, ge=0, le=MAX_EPOCH)]
Step = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
NumBatches = Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]
WorldSize = Annotated[int, Field(strict=True, ge=1, le=MAX_WORLD_SIZE)]
Lockstep = Annotated[int, Field(strict=True, ge=1, le=MAX_LOCKSTEP)]
GenerationIdField = Annotated[str, Field(min_length=1, max_length=64, pattern="^[0-9A-Za-z]+$")]
Label = Annotated[str, Field(min_length=1, max_length=256)]
# only for OpenAPI: the error of check_name is more helpful than that of a pattern
_NAME = {"pattern": f"^{names.PATTERN}$"}
MapPath = Annotated[str, Path(description="name of the map", json_schema_extra=_NAME)]
RunPath = Annotated[str, Path(description="name of the run", json_schema_extra=_NAME)]
RankPath = Annotated[int, Path(ge=0, lt=MAX_WORLD_SIZE, description="the rank, below the run's world size")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class WarningOut(BaseModel):
    """Something of a plan that would surprise."""

    code: Literal[CODES]  # type: ignore[valid-type]
    message: str = Field(description="what is so, with numbers")
    remedy: str = Field(description="what to change if it is not meant")


class CursorModel(Strict):
    """The first step that is not finished."""

    epoch: Epoch
    step: Step

    def to_store(self) -> Cursor:
        return Cursor(self.epoch, self.step)


class StateDictModel(Strict):
    """What a checkpoint stores. ``offset``: batches of the epoch's stream that the whole job has consumed.
    ``lockstep``: that of the stream, by default the spec's."""

    run: str
    fingerprint: str
    epoch: Epoch
    step: Step
    offset: Step
    world_size: WorldSize
    lockstep: Lockstep | None = None
    start: GenerationIdField | None = Field(None, description="id of the generation that saved it")

    def to_state(self) -> StateDict:
        return cast(StateDict, self.model_dump(exclude_none=True))
