"""Reports of images that could not be used: what comes in and what goes out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from bucketline_service.http.schemas.shared import Epoch, Step, Strict
from bucketline_service.runs.image_reports import MAX_DETAIL, MAX_IMAGES, ReportedImage
from bucketline_service.store.port import MAX_WORLD_SIZE, REPORT_REASONS, Place

Rank = Annotated[int, Field(strict=True, ge=0, lt=MAX_WORLD_SIZE)]
Reason = Literal[REPORT_REASONS]  # type: ignore[valid-type]
ImageId = Annotated[int, Field(strict=True)] | Annotated[str, Field(strict=True)]


class ReportedImageIn(Strict):
    id: ImageId = Field(description="of the image, as in its map")
    map: Annotated[str, Field(max_length=256)] | None = Field(
        None, description="the image's map; required if several maps of the run contain the id"
    )
    reason: Reason = Field(description="why the image could not be used")
    detail: Annotated[str, Field(max_length=MAX_DETAIL)] | None = Field(
        None, description="what the reader said, for people"
    )

    def to_image(self) -> ReportedImage:
        return ReportedImage(self.id, self.map, self.reason, self.detail)


class ReportsIn(Strict):
    rank: Rank = Field(description="whose batch it was")
    epoch: Epoch = Field(description="of the batch")
    step: Step = Field(description="of the batch")
    images: list[ReportedImageIn] = Field(
        min_length=1, max_length=MAX_IMAGES, description="images of the batch that could not be used"
    )

    def to_place(self) -> Place:
        return Place(self.epoch, self.step, self.rank)


class ReportedOut(BaseModel):
    num_new: int = Field(description="images of this call that were never reported before, and are kept")
    num_images: int = Field(description="images of the run that are kept now")
    num_not_kept: int = Field(description="images of this call of which only the number is kept")


class ReportPlace(BaseModel):
    epoch: int
    step: int
    rank: int
    at: float = Field(description="when it was reported, Unix seconds")


class ImageReportOut(BaseModel):
    number: int = Field(description="of the image, from 1, in the order of the first reports")
    id: int | str
    map: str
    count: int = Field(description="in how many batches it was reported, at least")
    reason: str = Field(description="of the last report", json_schema_extra={"enum": [*REPORT_REASONS]})
    detail: str | None = Field(description="of the last report")
    first: ReportPlace = Field(description="the batch in which it was first reported")
    last: ReportPlace = Field(description="the batch in which it was last reported")


class ReportsOut(BaseModel):
    num_images: int = Field(description="images of the run that were reported and are kept")
    num_not_kept: int = Field(description="reports of further images, at least")
    reports: list[ImageReportOut] = Field(description="by number")
