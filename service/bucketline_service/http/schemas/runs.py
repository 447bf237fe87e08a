"""Runs, their ranks and their images, as they go out."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from bucketline_service.coordinator import RunSpec
from bucketline_service.http.schemas.shared import StateDictModel, WarningOut


class EpochProgress(BaseModel):
    activity: Literal["running", "waiting", "idle", "finished"] = Field(
        description="running: the slowest rank moves; waiting: ranks were seen in the last minute, but the slowest "
        "does not move; idle: no rank was seen in the last minute; finished: all epochs are done"
    )
    share: float = Field(description="share of the epoch's batches that are done, 0 to 1")
    steps_per_s: float | None = Field(
        description="of the slowest rank: the mean since its lease was taken until it was last seen; 0 if it has "
        "stopped; null before its first step"
    )
    left_s: float | None = Field(description="seconds until the end of the epoch at this rate")
    stuck_rank: int | None = Field(
        description="the slowest rank, if others are ahead of it and it has no worker or was not seen for a minute"
    )


class RunOut(BaseModel):
    run: str
    status: Literal["planning", "ready", "failed"]
    detail: str | None = Field(description="why it failed")
    progress: float | None = Field(description="share of planning that is done, 0 to 1")
    fingerprint: str
    spec: RunSpec = Field(description="with every default written out")
    map_digests: list[str] = Field(description="in the order of the maps in the spec")
    created_at: float = Field(description="Unix seconds")
    generation: int
    session: str | None
    world_size: int
    num_steps: int | None = Field(description="number of steps of the slowest rank's epoch")
    state: StateDictModel | None = Field(description="the state dict at the slowest rank's cursor")
    last_seen: float | None = Field(description="when any rank was last seen, in Unix seconds, exact to 10")
    epoch_progress: EpochProgress | None = Field(description="null unless the status is ready")
    warnings: list[WarningOut] | None = Field(
        description="what of the plan would surprise, on the present number of ranks; null until that is known; a list "
        "of runs computes none"
    )


class DamagedRunOut(BaseModel):
    """A run in a list whose record in the store is damaged: what cannot be read is null."""

    run: str
    status: Literal["failed"]
    detail: str = Field(description="what is damaged, and what to do")
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
    warnings: None


class RunsOut(BaseModel):
    runs: list[RunOut | DamagedRunOut]


class RankOut(BaseModel):
    rank: int
    epoch: int
    step: int
    holder: str | None
    last_seen: float | None = Field(description="Unix seconds, exact to 10")
    steps_behind: int = Field(description="steps behind the leader")
    batches_per_s: float | None = Field(description="mean since the lease was taken")


class RanksOut(BaseModel):
    ranks: list[RankOut]


class _Fitted(BaseModel):
    """How an image is fitted to ``width`` x ``height``."""

    width: int
    height: int
    resize_width: int = Field(description="pixels the image is scaled to before the crop")
    resize_height: int
    crop_left: int = Field(description="pixels cut off at the left of the scaled image")
    crop_top: int
    crop_loss: float = Field(description="share of the image that is cut off")


class Nearest(_Fitted):
    """The bucket nearest to an image, and how the image is fitted to it."""

    bucket: int = Field(description="with packs, the image's length, 0 for the longest")
    aspect_error: float = Field(description="difference of the aspects")
    length: int | None = Field(None, description="tokens of that length; only with packs")


class Coming(_Fitted):
    """One occurrence of an image in an epoch. ``step`` and ``rank`` are null if another generation has served it, or
    if it is in the batches that do not fill a last step of all ranks."""

    step: int | None
    rank: int | None
    position: int = Field(description="position of its batch in the epoch's stream")
    slot: int = Field(description="index of the image in its batch")
    bucket: int = Field(
        description="the bucket that serves it; not the image's own if it is spilled. With packs, the length of its "
        "slot, 0 for the longest"
    )
    kind: int | None = Field(None, description="of the pack; only with packs")
    length: int | None = Field(None, description="tokens of its slot; only with packs")
    repeat: bool = Field(description="whether it is repeated to fill a batch")


class Way(BaseModel):
    bucket: int
    num_samples: float = Field(description="how often an epoch has the image here, in expectation")


class ImageOut(BaseModel):
    id: int | str
    map: str
    width: int
    height: int
    num_frames: int | None = Field(description="null if the run has no frame_buckets")
    aspect: float
    bucket: int | None = Field(
        description="where it is, in the highest of its tiers; with tails: shift perhaps not the nearest"
    )
    buckets: list[Way] = Field(description="all buckets that may serve it")
    pruned: str | None = Field(description="why the image has no bucket")
    nearest: Nearest | None = Field(
        description="with packs: the image's own size; null if it is too small or too long for any"
    )
    epoch: int
    served: list[Coming] = Field(description="its occurrences in the epoch")
    left_out: Literal["not_drawn", "small_bucket", "tail", "last_step"] | None = Field(
        description="why it is served less often than planned, as in the ledger; not_drawn: it is served less than "
        "once per epoch, and not in this one"
    )
