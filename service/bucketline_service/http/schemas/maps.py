"""Resolution maps: what comes in and what goes out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from bucketline_service.http.schemas.shared import Strict


class UriIn(Strict):
    """A map that the coordinator reads itself, from an allowed folder."""

    uri: Annotated[str, Field(min_length=1, max_length=4096)]
    format: str | None = Field(
        None, description="csv, jsonl, parquet, arrow, npz or pickle; by default from the suffix"
    )


class NumRepeatsOut(BaseModel):
    min: float
    max: float
    total: float = Field(description="the sum over all images: samples in an epoch")


class NumFramesOut(BaseModel):
    min: int
    max: int


class MapOut(BaseModel):
    map: str
    digest: str
    num_images: int
    id_kind: Literal["int64", "string"]
    num_repeats: NumRepeatsOut | None = Field(description="how often an epoch has each image; null: once")
    num_frames: NumFramesOut | None = Field(description="lengths of videos; null: all are images")


class MapPutOut(MapOut):
    notes: list[str] = Field(default=[], description="how ambiguous columns were read, if there are any")
    num_skipped: int | None = Field(
        None, description="rows without a size, which were left out; only with skip_missing_sizes"
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
    """``num_images[k]``: images whose width / height is in [edges[k], edges[k + 1]); the first and the last also count
    images beyond the edges."""

    axis: Literal["width / height"]
    edges: list[float]
    num_images: list[int]


class HistogramOut(BaseModel):
    width: Range
    height: Range
    size: SizeHistogram
    aspect: AspectHistogram


class MapDetail(MapOut):
    histogram: HistogramOut
