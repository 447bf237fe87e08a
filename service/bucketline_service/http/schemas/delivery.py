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
    """The last step that the rank has finished, as its batch names it. All earlier steps count as finished."""


class SessionIn(Strict):
    session: Label = Field(
        description="the caller's name for this start of the job; a repeat changes nothing"
    )
    world_size: WorldSize | None = Field(
        None, description="number of ranks from now on, by default unchanged"
    )
    resume: Literal["cursor", "start"] | StateDictModel = Field(
        "cursor",
        description="cursor: at the slowest rank's cursor; start: at epoch 0; or a checkpoint's state dict",
    )


class LeaseIn(Strict):
    holder: Label = Field(description="name of the caller; the same holder gets the same lease")
    session: Label | None = Field(None, description="refuse unless this is the run's current session")


class NextIn(Strict):
    lease: Annotated[int, Field(strict=True, ge=0, le=MAX_LEASE)] = Field(description="as returned by lease")
    generation: Annotated[int, Field(strict=True, ge=1, lt=2**53)] | None = Field(
        None, description="of the lease, as returned by lease"
    )
    generation_id: GenerationIdField | None = Field(
        None, description="of the lease, as returned by lease; restores a lease that the store has lost"
    )
    ack: Ack | None = Field(None, description="the last finished step")
    begin: CursorModel | None = Field(None, alias="from", description="the first step, by default the cursor")
    count: NumBatches = Field(1, description="number of batches")
    include: list[Include] | None = Field(
        None, max_length=len(INCLUDES), description="what batches include in addition"
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
    bucket: int | None = Field(None, description="index in the run's ladder; missing in a pack")
    width: int | None = Field(None, description="of the bucket, in pixels; missing in a pack")
    height: int | None = Field(None, description="of the bucket, in pixels; missing in a pack")
    kind: int | None = Field(None, description="in a pack: the number of its kind")
    sizes: list[tuple[int, int]] | None = Field(
        None, description="in a pack: (width, height) in pixels to which each image is brought"
    )
    lengths: list[int] | None = Field(
        None, description="in a pack: tokens that are reserved for each image, which may have fewer"
    )
    num_frames: int | list[int] | None = Field(
        None,
        description="frames of each clip, in a pack one number for each; only if the run has frame_buckets",
    )
    ids: list[int] | list[str] | list[int | str]
    maps: list[str] | None = Field(None, description="the map of each id; only if the run has several maps")
    repeats: list[bool] | None = Field(
        None, description="whether each id is a repeat; only if one is, to fill a batch"
    )
    original_sizes: list[tuple[int, int]] | None = Field(
        None, description="(width, height) of each id in the map; with include original_size"
    )
    resize_sizes: list[tuple[int, int]] | None = Field(
        None, description="(width, height) to scale each image to before the crop; with include crop"
    )
    crop_left_tops: list[tuple[int, int]] | None = Field(
        None,
        description="(left, top) of the crop of width x height from the middle of the scaled image; with include crop",
    )


class Batches(BaseModel):
    batches: list[BatchOut]
    num_steps: int = Field(description="number of steps of the epoch that was asked for")


_GENERATION_ID = "random for each start of the job; null if an older release began the generation"


class NextOut(BaseModel):
    generation_id: str | None = Field(description=_GENERATION_ID)
    batches: list[BatchOut]
    cursor: CursorModel
    num_steps: int = Field(description="number of steps of the cursor's epoch")
    done: bool = Field(description="whether no batch follows")


class Origin(BaseModel):
    """Where the generation began: in epoch ``origin.epoch``, step s of rank r is stream position
    ``offset + (s - origin.step) * world_size + r``; in all others ``s * world_size + r``."""

    origin: CursorModel
    offset: int
    origin_lockstep: int | None = Field(
        description="lockstep of the stream of epoch origin.epoch; null with planner novelai, which has none"
    )
    lockstep: int | None = Field(description="lockstep of all other epochs")
    fingerprint: str


class SessionOut(Origin):
    generation: int
    generation_id: str | None = Field(description=_GENERATION_ID)
    world_size: int
    cursor: CursorModel
    num_steps: int
    left_out_batches: int = Field(
        description="batches of this epoch that do not fill a last step of all ranks"
    )
    mixed_steps: int = Field(description="steps of this epoch that may have more than one resolution")
    rolled_over_batches: int | None = Field(
        description="batches that the state dict left of its epoch, if this start begins with the next one; else null"
    )


class LeaseOut(Origin):
    lease: int
    generation: int
    generation_id: str | None = Field(description=_GENERATION_ID)
    cursor: CursorModel
    world_size: int
    num_steps: int
