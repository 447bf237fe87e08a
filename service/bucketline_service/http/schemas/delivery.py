"""Sessions, leases and ``next``: what comes in and what goes out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from bucketline_service.http.schemas.shared import (
    CursorModel,
    GenerationIdField,
    Label,
    NumBatches,
    StateDictModel,
    Strict,
    WorldSize,
)
from bucketline_service.runs.batch_documents import INCLUDES, Include
from bucketline_service.runs.delivery import NextRequest
from bucketline_service.store.port import MAX_LEASE


class Ack(CursorModel):
    """The last step that the rank has finished, as it stands in its batch; all before it count as done."""


class SessionIn(Strict):
    session: Label = Field(
        description="the caller's name for this start of the job; a repeat changes nothing"
    )
    world_size: WorldSize | None = Field(None, description="ranks from now on; as it was unless given")
    resume: Literal["cursor", "start"] | StateDictModel = Field(
        "cursor", description="the slowest rank's cursor, epoch 0, or a checkpoint's state dict"
    )


class LeaseIn(Strict):
    holder: Label = Field(description="who asks; the same holder gets the same lease back")
    session: Label | None = Field(None, description="refuse unless this is the run's present session")


class NextIn(Strict):
    lease: Annotated[int, Field(strict=True, ge=0, le=MAX_LEASE)] = Field(
        description="as the lease's answer has it"
    )
    generation: Annotated[int, Field(strict=True, ge=1, lt=2**53)] | None = Field(
        None, description="of the lease"
    )
    generation_id: GenerationIdField | None = Field(
        None, description="of the lease; lets a store that has lost the lease be told of it"
    )
    ack: Ack | None = Field(None, description="the last step finished")
    begin: CursorModel | None = Field(
        None, alias="from", description="first step wanted; the cursor unless given"
    )
    count: NumBatches = Field(1, description="batches wanted")
    include: list[Include] | None = Field(
        None, max_length=len(INCLUDES), description="what batches are to tell besides"
    )

    def to_request(self, rank: int) -> NextRequest:
        return NextRequest(
            rank,
            self.lease,
            self.generation,
            self.generation_id,
            self.ack.to_store() if self.ack else None,
            self.begin.to_store() if self.begin else None,
            self.count,
            frozenset(self.include or ()),
        )


class BatchOut(BaseModel):
    epoch: int
    step: int
    rank: int
    bucket: int
    width: int
    height: int
    num_frames: int | None = Field(None, description="of each clip; only where the run has frame_buckets")
    ids: list[int] | list[str] | list[int | str]
    maps: list[str] | None = Field(None, description="of each id; only where the run has several maps")
    repeats: list[bool] | None = Field(
        None, description="only where an id comes oftener in its epoch than asked for, to fill a tail"
    )
    original_sizes: list[tuple[int, int]] | None = Field(
        None, description="(width, height) of each id as the map has it; where original_size is included"
    )
    resize_sizes: list[tuple[int, int]] | None = Field(
        None, description="(width, height) to scale each to before the crop; where crop is included"
    )
    crop_left_tops: list[tuple[int, int]] | None = Field(
        None,
        description="(left, top) in the scaled image of the width x height that are then cut out of its middle; where "
        "crop is included",
    )


class Batches(BaseModel):
    batches: list[BatchOut]


_GENERATION_ID = "drawn at random for each start of the job; null for one that older releases began without"


class NextOut(BaseModel):
    generation_id: str | None = Field(description=_GENERATION_ID)
    batches: list[BatchOut]
    cursor: CursorModel
    num_steps: int = Field(description="of the cursor's epoch")
    done: bool = Field(description="no batch follows these")


class Origin(BaseModel):
    """Where the generation began: in epoch ``origin.epoch``, step s of rank r is stream position
    ``offset + (s - origin.step) * world_size + r``; in all others ``s * world_size + r``."""

    origin: CursorModel
    offset: int
    origin_lockstep: int | None = Field(
        description="with which the stream of epoch origin.epoch is laid out; null: planner novelai has none"
    )
    lockstep: int | None = Field(description="of every other epoch")
    fingerprint: str


class SessionOut(Origin):
    generation: int
    generation_id: str | None = Field(description=_GENERATION_ID)
    world_size: int
    cursor: CursorModel
    num_steps: int
    left_out_batches: int = Field(description="of this epoch: they do not fill a last step of all ranks")
    mixed_steps: int = Field(description="of this epoch: steps that may hold more than one resolution")
    rolled_over_batches: int | None = Field(
        description="what the state dict left of its epoch, where this start began with the epoch after it; else null"
    )


class LeaseOut(Origin):
    lease: int
    generation: int
    generation_id: str | None = Field(description=_GENERATION_ID)
    cursor: CursorModel
    world_size: int
    num_steps: int
