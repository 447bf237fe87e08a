"""What plans cost: the stats of runs, and previews."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from bucketline_service.errors import Invalid
from bucketline_service.http.problems import Problem
from bucketline_service.http.routes.charts import FigureOut
from bucketline_service.http.schemas.shared import WarningOut
from bucketline_service.http.validation_errors import invalid_body
from bucketline_service.previews.side_by_side import MAX_SPECS
from bucketline_service.spec.maps import MAX_MAPS, MapSpec
from bucketline_service.spec.run_spec import PlanFields


class Spread(BaseModel):
    mean: float
    median: float
    p95: float
    max: float
    quantiles: list[float] | None = Field(
        None,
        description="evenly spaced, from the minimum to the maximum; missing if an older release planned the run",
    )


class Loss(BaseModel):
    mean: float
    max: float


class Spill(BaseModel):
    bucket: int
    num_images: int


class Tail(BaseModel):
    """The remainder: images of a bucket that fill none of its batches (with same_shape, units), in an epoch."""

    num_images: int
    spilled: list[Spill] = Field(description="served by other buckets")
    left_out: int
    repeated: int
    never_served: int = Field(
        description="those of left_out that no epoch serves: the bucket is smaller than a batch or unit"
    )


class BucketStats(BaseModel):
    bucket: int
    width: int
    height: int
    num_frames: int | None = Field(description="null if the run has no frame_buckets")
    aspect: float
    num_images: int = Field(description="images that this bucket may serve")
    num_samples: float = Field(description="how often an epoch has them here, repeats included")
    batch_size: int
    num_batches: int
    crop_loss: Loss | None = Field(description="distribution over the bucket's images")
    crop_loss_served: float | None = Field(
        description="mean over what the bucket serves, spilled images included"
    )
    tail: Tail


class Shape(BaseModel):
    width: int
    height: int
    num_frames: int | None = Field(description="null if the run has no frame_buckets")


class MapStats(BaseModel):
    map: str
    num_assigned: int
    num_samples: float = Field(description="how often an epoch has its images, repeats included")
    share: float = Field(description="share of all samples of an epoch")


class LengthStats(BaseModel):
    bucket: int
    length: int = Field(description="tokens of a slot")
    num_images: int = Field(description="images of this length")
    num_slots: int = Field(description="slots of this length in the epoch's packs")
    num_served: float = Field(
        description="images of this length that an epoch serves, as expected over epochs"
    )


class Slots(BaseModel):
    length: int
    num_slots: int


class PackKindStats(BaseModel):
    kind: int
    num_packs: int = Field(description="packs of this kind in the epoch")
    num_images: int = Field(description="slots of a pack")
    num_tokens: int = Field(description="tokens of all slots of a pack")
    slots: list[Slots] = Field(description="the longest first")


class PacksStats(BaseModel):
    """The packs of an epoch. ``full``, ``padding`` and ``unused`` are shares of all packs' tokens, and 1 together."""

    max_tokens: int
    num_kinds: int = Field(description="kinds of pack that the epoch has")
    full: float = Field(description="tokens of images")
    padding: float = Field(description="tokens of slots that their images have not")
    unused: float = Field(description="tokens in no slot")
    token_imbalance: float = Field(description="as step_imbalance, in tokens of slots")
    attention_imbalance: float = Field(description="as step_imbalance, in squared tokens of slots")
    mean_tokens: float = Field(description="of an image")
    mean_area_px: float = Field(description="pixels of an image, or of a clip's frame, as it is served")
    crop_loss_served: float
    lengths: list[LengthStats] = Field(description="the longest first")
    kinds: list[PackKindStats]


class EpochStats(BaseModel):
    tails: str | None = Field(
        description="those that the plan has: spill where shift is not possible; null with packs"
    )
    num_images: int
    num_assigned: int = Field(description="images in a bucket")
    num_samples: int = Field(description="how often the epoch has images, repeats included")
    pruned: dict[str, int] = Field(description="number of pruned images by reason")
    aspect_error: Spread
    crop_loss: Spread
    crop_loss_served: float
    num_batches: int
    num_steps: int
    dropped: int = Field(
        description="samples that an epoch leaves out, including batches that do not fill a last step"
    )
    repeated: int
    never_served: int
    spilled: int = Field(
        description="images served outside their own bucket; planner line: as expected over epochs"
    )
    moved: int = Field(
        description="images that the plan keeps in another bucket than the nearest, with tails: shift"
    )
    max_extra_crop: float = Field(
        description="the most that one of them loses more than in the nearest, a share of its pixels"
    )
    mixed_steps: int
    step_imbalance: float = Field(
        description="the cost of each step's dearest batch divided by the ranks' mean, both summed over the epoch's "
        "steps; where steps span units, of the first 4,194,304 batches"
    )
    num_shapes: int = Field(description="distinct sizes among the batches; with packs, kinds of pack")
    largest_shape: Shape | None = Field(
        description="the one whose batches have the most pixels; null with packs"
    )
    maps: list[MapStats] = Field(description="what the epoch has of each map")
    buckets: list[BucketStats] = Field(description="empty with packs")
    packs: PacksStats | None = Field(description="only with packs")


class StatsOut(EpochStats):
    run: str
    fingerprint: str
    planner: str
    epoch: int
    world_size: int
    lockstep: int | None


def _of_one(given: Any, read: ValidatorFunctionWrapHandler) -> PlanFields | Invalid:
    """An invalid spec gets its own problem, and does not hide the others."""
    try:
        found: PlanFields = read(given)
    except ValidationError as error:
        return invalid_body(error, given)
    return found


PlanName = Annotated[str, Field(min_length=1, max_length=256)]


class PreviewsIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    map: str | None = Field(None, description="name of the resolution map")
    maps: Annotated[list[MapSpec], Field(min_length=1, max_length=MAX_MAPS)] | None = Field(
        None, description="several maps in place of map, as in a run spec"
    )
    specs: list[Annotated[PlanFields, WrapValidator(_of_one)]] = Field(
        min_length=1, max_length=MAX_SPECS, description="run specs without their map"
    )
    names: Annotated[list[PlanName], Field(min_length=1, max_length=MAX_SPECS)] | None = Field(
        None, description="names of the specs, for charts; by default spec 1 and so on"
    )


class PreviewOut(BaseModel):
    """``stats`` or ``problem``, never both."""

    spec: PlanFields | None = Field(description="with all defaults; null if it is not a spec at all")
    stats: EpochStats | None = Field(None, description="stats of epoch 0")
    warnings: list[WarningOut] | None = Field(None, description="with stats: what of the plan would surprise")
    problem: Problem | None = Field(None, description="why the spec cannot be met")
    figure: FigureOut | None = Field(
        None,
        description="with ?figure: images and batches of each bucket, or images and slots of each length",
    )


class RowOut(BaseModel):
    """A row of the table of plans."""

    label: str
    level: int = Field(description="indentation below the row that it belongs to")
    help: str = Field(description="what it is")
    cells: list[str | None] = Field(description="for each spec; null if it cannot be met")
    best: list[bool] = Field(description="which of them are the best; none if all are equal")


class ComparisonOut(BaseModel):
    rows: list[RowOut]
    figure: FigureOut = Field(description="crop loss, images not trained on, steps and shapes, side by side")


class PreviewsOut(BaseModel):
    map: str | None
    num_images: int
    previews: list[PreviewOut] = Field(description="in the order of the specs")
    comparison: ComparisonOut | None = Field(None, description="with ?figure: a table and a chart for people")
