"""What comes in and what goes out, for validation and for OpenAPI. Field names are the contract's (DESIGN 6)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from fastapi import Path, Response
from pydantic import BaseModel, ConfigDict, Field

from bucketline_service.coordinator.deal import MAX_COUNT, MAX_EPOCH
from bucketline_service.state.port import LEASE_STRIDE
from bucketline_service.state.port import Cursor as StoreCursor

Epoch = Annotated[int, Field(strict=True, ge=0, le=MAX_EPOCH)]
Step = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
Count = Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]
WorldSize = Annotated[int, Field(strict=True, ge=1, le=LEASE_STRIDE)]
Label = Annotated[str, Field(min_length=1, max_length=256)]
RankPath = Annotated[int, Path(ge=0, lt=LEASE_STRIDE)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Cursor(_In):
    """The first step that is not finished."""

    epoch: Epoch
    step: Step

    def to_store(self) -> StoreCursor:
        return StoreCursor(self.epoch, self.step)


class Ack(Cursor):
    """The last step that the rank has finished, as it stands in its batch; all before it count as done."""


class StateDict(_In):
    """What a checkpoint keeps. ``offset``: batches of the epoch's stream that the whole job has consumed."""

    run: str
    fingerprint: str
    epoch: Epoch
    step: Step
    offset: Step
    world_size: WorldSize


class SessionIn(_In):
    session: Label = Field(
        description="the caller's name for this start of the job; a repeat changes nothing"
    )
    world_size: WorldSize | None = Field(None, description="ranks from now on; as it was unless given")
    resume: Literal["cursor", "start"] | StateDict = Field(
        "cursor", description="the slowest rank's cursor, epoch 0, or a checkpoint's state dict"
    )


class LeaseIn(_In):
    holder: Label = Field(description="who asks; the same holder gets the same lease back")
    session: Label | None = Field(None, description="refuse unless this is the run's present session")


class NextIn(_In):
    lease: Annotated[int, Field(strict=True, ge=0, lt=2**53)]
    generation: Annotated[int, Field(strict=True, ge=1, lt=2**53)] | None = Field(
        None, description="of the lease; lets a store that has lost the lease be told of it"
    )
    ack: Ack | None = Field(None, description="the last step finished")
    begin: Cursor | None = Field(None, alias="from", description="first step wanted; the cursor unless given")
    count: Count = 1


class UriIn(_In):
    """A map that the coordinator reads itself, from under an allowed root."""

    uri: Annotated[str, Field(min_length=1, max_length=4096)]
    format: str | None = Field(
        None, description="csv, jsonl, parquet, arrow, npz or pickle; from the suffix unless given"
    )


class Batch(BaseModel):
    epoch: int
    step: int
    rank: int
    bucket: int
    width: int
    height: int
    ids: list[int] | list[str]
    repeats: list[bool] | None = Field(None, description="only where an id comes a further time in its epoch")


class Batches(BaseModel):
    batches: list[Batch]


class NextOut(BaseModel):
    batches: list[Batch]
    cursor: Cursor
    num_steps: int = Field(description="of the cursor's epoch")
    done: bool = Field(description="no batch follows these")


class Origin(BaseModel):
    """Where the generation began: in epoch ``origin.epoch``, step s of rank r is stream position
    ``offset + (s - origin.step) * world_size + r``; in all others ``s * world_size + r``."""

    origin: Cursor
    offset: int
    fingerprint: str


class SessionOut(Origin):
    generation: int
    world_size: int
    cursor: Cursor
    num_steps: int
    left_out_batches: int = Field(description="of this epoch: they do not fill a last step of all ranks")
    mixed_steps: int = Field(description="of this epoch: steps that may hold more than one resolution")


class LeaseOut(Origin):
    lease: int
    generation: int
    cursor: Cursor
    world_size: int
    num_steps: int


class MapOut(BaseModel):
    map: str
    digest: str
    num_images: int
    id_kind: Literal["int64", "string"]


class MapsOut(BaseModel):
    maps: list[MapOut]


class MapDetail(MapOut):
    histogram: dict[str, Any] = Field(description="of sizes and of aspects")


class RunOut(BaseModel):
    run: str
    status: Literal["planning", "ready", "failed"]
    detail: str | None = Field(description="why it failed")
    fingerprint: str
    spec: dict[str, Any] = Field(description="with every default written out")
    map_digest: str
    created_at: float = Field(description="Unix seconds")
    generation: int
    session: str | None
    world_size: int
    num_steps: int | None = Field(description="of the slowest rank's epoch")
    state: StateDict | None = Field(description="the state dict at the slowest rank's cursor")


class RunsOut(BaseModel):
    runs: list[RunOut]


class Spread(BaseModel):
    mean: float
    median: float
    p95: float
    max: float


class Tail(BaseModel):
    """Images of a bucket that its own whole units do not hold, in an epoch."""

    num_images: int
    spilled: list[dict[str, int]] = Field(description="(bucket, num_images): served by another bucket")
    left_out: int
    repeated: int
    never_served: int = Field(
        description="of those left out: the bucket is smaller than a unit in every epoch"
    )


class BucketStats(BaseModel):
    bucket: int
    width: int
    height: int
    aspect: float
    num_images: int
    batch_size: int
    num_batches: int
    crop_loss: dict[str, float] | None = Field(description="mean and max over the bucket's images")
    crop_loss_served: float | None = Field(
        description="mean over what the bucket serves, spilled images included"
    )
    tail: Tail


class StatsOut(BaseModel):
    run: str
    fingerprint: str
    planner: str
    tails: str
    epoch: int
    world_size: int
    lockstep: int | None
    num_images: int
    num_assigned: int
    pruned: dict[str, int] = Field(description="by reason")
    aspect_error: Spread
    crop_loss: Spread
    crop_loss_served: float
    num_batches: int
    num_steps: int
    dropped: int = Field(description="images left out an epoch, undealt batches included")
    repeated: int
    never_served: int
    mixed_steps: int
    buckets: list[BucketStats]


class RankOut(BaseModel):
    rank: int
    epoch: int
    step: int
    holder: str | None
    last_seen: float | None = Field(description="Unix seconds, exact to 10")
    steps_behind: int = Field(description="the leader")
    batches_per_s: float | None = Field(description="mean since the lease was taken")


class RanksOut(BaseModel):
    ranks: list[RankOut]


class ImageOut(BaseModel):
    id: int | str
    width: int
    height: int
    aspect: float
    bucket: int | None
    pruned: str | None = Field(description="why the image has no bucket")
    nearest: dict[str, float] = Field(description="the nearest bucket, and what fitting the image to it does")
    epoch: int
    served: list[dict[str, Any]] = Field(description="each coming: step, rank, bucket served at, repeat")


class Status(BaseModel):
    status: str


def as_json(content: Any, status: int = 200) -> Response:
    """Answers skip validation: they are ours, and the tests hold them against these models."""
    return Response(orjson.dumps(content), status, media_type="application/json")
