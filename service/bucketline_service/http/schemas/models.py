"""What comes in and what goes out, for validation and for OpenAPI. Field names are the contract's (DESIGN 6)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

import orjson
from fastapi import Path, Response
from pydantic import BaseModel, ConfigDict, Field

from bucketline_service import names
from bucketline_service.coordinator import RunSpec
from bucketline_service.events import KEPT_EVENTS
from bucketline_service.http.browser_headers import DATA
from bucketline_service.planning.plan_spec import MAX_LOCKSTEP
from bucketline_service.planning.planner import MAX_EPOCH
from bucketline_service.runs.batch_documents import INCLUDES, Include
from bucketline_service.runs.delivery import NextRequest
from bucketline_service.runs.resume import StateDict as State
from bucketline_service.runs.sharding import MAX_COUNT
from bucketline_service.store.port import MAX_LEASE, MAX_WORLD_SIZE
from bucketline_service.store.port import Cursor as StoreCursor

Epoch = Annotated[int, Field(strict=True, ge=0, le=MAX_EPOCH)]
Step = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
NumBatches = Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]
WorldSize = Annotated[int, Field(strict=True, ge=1, le=MAX_WORLD_SIZE)]
Lockstep = Annotated[int, Field(strict=True, ge=1, le=MAX_LOCKSTEP)]
GenerationId = Annotated[str, Field(min_length=1, max_length=64, pattern="^[0-9A-Za-z]+$")]
Label = Annotated[str, Field(min_length=1, max_length=256)]
# for OpenAPI alone: check_name tells what would do, which a pattern does not
_NAME = {"pattern": f"^{names.PATTERN}$"}
MapPath = Annotated[str, Path(description="name of the map", json_schema_extra=_NAME)]
RunPath = Annotated[str, Path(description="name of the run", json_schema_extra=_NAME)]
RankPath = Annotated[int, Path(ge=0, lt=MAX_WORLD_SIZE, description="the rank, below the run's world size")]


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
    """What a checkpoint keeps. ``offset``: batches of the epoch's stream that the whole job has consumed;
    ``lockstep``: with which that is laid out, the spec's where it is not there."""

    run: str
    fingerprint: str
    epoch: Epoch
    step: Step
    offset: Step
    world_size: WorldSize
    lockstep: Lockstep | None = None
    start: GenerationId | None = Field(None, description="id of the generation in which it was saved")

    def to_state(self) -> State:
        return cast(State, self.model_dump(exclude_none=True))


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
    lease: Annotated[int, Field(strict=True, ge=0, le=MAX_LEASE)] = Field(
        description="as the lease's answer has it"
    )
    generation: Annotated[int, Field(strict=True, ge=1, lt=2**53)] | None = Field(
        None, description="of the lease"
    )
    generation_id: GenerationId | None = Field(
        None, description="of the lease; lets a store that has lost the lease be told of it"
    )
    ack: Ack | None = Field(None, description="the last step finished")
    begin: Cursor | None = Field(None, alias="from", description="first step wanted; the cursor unless given")
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


class UriIn(_In):
    """A map that the coordinator reads itself, from under an allowed root."""

    uri: Annotated[str, Field(min_length=1, max_length=4096)]
    format: str | None = Field(
        None, description="csv, jsonl, parquet, arrow, npz or pickle; from the suffix unless given"
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
    cursor: Cursor
    num_steps: int = Field(description="of the cursor's epoch")
    done: bool = Field(description="no batch follows these")


class Origin(BaseModel):
    """Where the generation began: in epoch ``origin.epoch``, step s of rank r is stream position
    ``offset + (s - origin.step) * world_size + r``; in all others ``s * world_size + r``."""

    origin: Cursor
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
    cursor: Cursor
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
    cursor: Cursor
    world_size: int
    num_steps: int


class NumRepeats(BaseModel):
    min: float
    max: float
    total: float = Field(description="the sum over all images: as many come in an epoch")


class NumFrames(BaseModel):
    min: int
    max: int


class MapOut(BaseModel):
    map: str
    digest: str
    num_images: int
    id_kind: Literal["int64", "string"]
    num_repeats: NumRepeats | None = Field(description="how often images come an epoch; null: each once")
    num_frames: NumFrames | None = Field(description="lengths of videos; null: all are still images")


class MapPutOut(MapOut):
    notes: list[str] = Field(
        default=[],
        description="how columns were read that could have been meant otherwise, where there are such",
    )
    num_skipped: int | None = Field(
        None, description="rows without a size that were left out; only with skip_missing_sizes"
    )


class MapsOut(BaseModel):
    maps: list[MapOut]


class Range(BaseModel):
    min_px: int
    max_px: int


class SizeHistogram(BaseModel):
    """``num_images[i][j]``: images with a width in [edges_px[i], edges_px[i + 1]) and a height in
    [edges_px[j], edges_px[j + 1])."""

    axes: list[Literal["width", "height"]]
    edges_px: list[int]
    num_images: list[list[int]]


class AspectHistogram(BaseModel):
    """``num_images[k]``: images whose width / height is in [edges[k], edges[k + 1]); the first and the last also hold
    what lies beyond."""

    axis: Literal["width / height"]
    edges: list[float]
    num_images: list[int]


class Histogram(BaseModel):
    width: Range
    height: Range
    size: SizeHistogram
    aspect: AspectHistogram


class MapDetail(MapOut):
    histogram: Histogram


class EpochProgress(BaseModel):
    activity: Literal["running", "waiting", "idle", "finished"] = Field(
        description="running: the slowest rank moves; waiting: ranks were seen in the last minute, but the slowest "
        "does not move; idle: no rank was seen in the last minute; finished: all epochs are done"
    )
    share: float = Field(description="of the epoch's batches that are done, 0 to 1")
    steps_per_s: float | None = Field(
        description="of the slowest rank: the mean since its lease was taken until it was last seen; 0 where it has "
        "stopped; null before its first step"
    )
    left_s: float | None = Field(description="seconds until the end of the epoch at this rate")
    stuck_rank: int | None = Field(
        description="the slowest rank, where others are ahead of it and it has no worker or was not seen for a minute"
    )


class RunOut(BaseModel):
    run: str
    status: Literal["planning", "ready", "failed"]
    detail: str | None = Field(description="why it failed")
    progress: float | None = Field(description="while it is planned: the share that is done, 0 to 1")
    fingerprint: str
    spec: RunSpec = Field(description="with every default written out")
    map_digests: list[str] = Field(description="in the order of the maps in the spec")
    created_at: float = Field(description="Unix seconds")
    generation: int
    session: str | None
    world_size: int
    num_steps: int | None = Field(description="of the slowest rank's epoch")
    state: StateDict | None = Field(description="the state dict at the slowest rank's cursor")
    last_seen: float | None = Field(description="when any rank was last heard of, Unix seconds, exact to 10")
    epoch_progress: EpochProgress | None = Field(description="null unless the status is ready")


class DamagedRunOut(BaseModel):
    """A run in a list whose record in the store is damaged: null is what cannot be read."""

    run: str
    status: Literal["failed"]
    detail: str = Field(description="what is damaged, and what would do")
    progress: None
    fingerprint: str | None
    spec: RunSpec | None
    map_digests: list[str] | None
    created_at: float | None
    generation: int | None
    session: str | None
    world_size: int | None
    num_steps: None
    state: None
    last_seen: None
    epoch_progress: None


class RunsOut(BaseModel):
    runs: list[RunOut | DamagedRunOut]


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


class _Fitted(BaseModel):
    """What fitting an image to ``width`` x ``height`` does."""

    width: int
    height: int
    resize_width: int = Field(description="pixels the image is scaled to before the crop")
    resize_height: int
    crop_left: int = Field(description="pixels cut off at the left of the scaled image")
    crop_top: int
    crop_loss: float = Field(description="the share of the image that is cut off")


class Nearest(_Fitted):
    """The bucket nearest to an image, and what fitting the image to it does."""

    bucket: int
    aspect_error: float = Field(description="difference of the aspects")


class Coming(_Fitted):
    """One time that an image comes in an epoch. ``step`` and ``rank`` are null where another generation dealt it, or
    where it is in the rest that does not fill a step of all ranks."""

    step: int | None
    rank: int | None
    position: int = Field(description="of its batch in the epoch's stream")
    slot: int = Field(description="of the image in its batch")
    bucket: int = Field(description="served at; another than the image's own where it is spilled")
    repeat: bool = Field(description="oftener than asked for, to fill a tail")


class Way(BaseModel):
    bucket: int
    num_samples: float = Field(description="how often an epoch asks for the image here, in expectation")


class ImageOut(BaseModel):
    id: int | str
    map: str
    width: int
    height: int
    num_frames: int | None = Field(description="null where the run has no frame_buckets")
    aspect: float
    bucket: int | None = Field(description="its own, in the highest of its tiers")
    buckets: list[Way] = Field(description="all that it may come in")
    pruned: str | None = Field(description="why the image has no bucket")
    nearest: Nearest
    epoch: int
    served: list[Coming] = Field(description="each time that it comes in the epoch")
    left_out: Literal["not_drawn", "small_bucket", "tail", "last_step"] | None = Field(
        description="why it comes less often than it might, as in the ledger; not_drawn: it comes less than once an "
        "epoch, and this is not one of its epochs"
    )


class Status(BaseModel):
    status: str


class Health(Status):
    version: str


class Readiness(Status):
    store_risks: list[str] | None = Field(
        None,
        description="where there are any: why the store may lose what it has acknowledged, and what would do",
    )
    map_root: str | None = Field(
        None,
        description="where there is one: ready, or unavailable (runs go on whose maps are here, others wait)",
    )


class EventFields(BaseModel):
    """Which are there depends on the event."""

    version: str | None = Field(None, description="coordinator_started: of the coordinator")
    map: str | None = Field(None, description="map_put, map_deleted")
    num_images: int | None = Field(None, description="map_put")
    digest: str | None = Field(None, description="map_put")
    maps: str | None = Field(None, description="run_put: of the run, with commas between them")
    planner: str | None = Field(None, description="run_put")
    world_size: int | None = Field(None, description="run_put, session_begun")
    took_s: float | None = Field(None, description="run_planned: null where the plan was there already")
    session: str | None = Field(None, description="session_begun; fenced: the one that asked")
    generation: int | None = Field(
        None,
        description="session_begun, lease_given, fenced: the present one; store_lost_state: the lost one",
    )
    epoch: int | None = Field(None, description="session_begun, lease_adopted: of the cursor")
    step: int | None = Field(None, description="session_begun, lease_adopted: of the cursor")
    holder: str | None = Field(None, description="lease_given: the new one")
    num_ranks: int | None = Field(None, description="where one event tells of many ranks")
    lasted_s: float | None = Field(None, description="store_back: how long the store was gone")
    detail: str | None = Field(
        None, description="run_failed, store_unavailable, store_at_risk, map_root_unavailable: why"
    )


class EventOut(BaseModel):
    id: int = Field(description="larger than those of all that were told before")
    at: float = Field(description="Unix seconds; of several, the last")
    since: float = Field(description="Unix seconds; of several, the first")
    event: str = Field(json_schema_extra={"enum": [*KEPT_EVENTS]})
    run: str | None
    rank: int | None
    count: int = Field(description="how often it came; of a fence and the like, several may be told as one")
    fields: EventFields
    replica: str = Field(description="host of the coordinator that tells it")
    pid: int = Field(description="its process there")


class EventsOut(BaseModel):
    events: list[EventOut] = Field(description="newest first")


def as_json(content: Any, status: int = 200) -> Response:
    """Answers skip validation: they are ours, and the tests hold them against these models."""
    return Response(orjson.dumps(content), status, DATA, "application/json")


def as_list(documents: list[bytes]) -> orjson.Fragment:
    """Of documents that are JSON already."""
    return orjson.Fragment(b"[" + b",".join(documents) + b"]")
