"""Resolution maps: what comes in and what goes out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from bucketline_service.http.schemas.shared import Strict


class UriIn(Strict):
    """A map that the coordinator reads itself, from under an allowed root."""

    uri: Annotated[str, Field(min_length=1, max_length=4096)]
    format: str | None = Field(
        None, description="csv, jsonl, parquet, arrow, npz or pickle; from the suffix unless given"
    )


class NumRepeatsOut(BaseModel):
    min: float
    max: float
    total: float = Field(description="the sum over all images: as many come in an epoch")


class NumFramesOut(BaseModel):
    min: int
    max: int


class MapOut(BaseModel):
    map: str
    digest: str
    num_images: int
    id_kind: Literal["int64", "string"]
    num_repeats: NumRepeatsOut | None = Field(description="how often images come an epoch; null: each once")
    num_frames: NumFramesOut | None = Field(description="lengths of videos; null: all are still images")


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


class HistogramOut(BaseModel):
    width: Range
    height: Range
    size: SizeHistogram
    aspect: AspectHistogram


class MapDetail(MapOut):
    histogram: HistogramOut
