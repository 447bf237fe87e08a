"""The axis of buckets: a distinct label for each."""

from __future__ import annotations

from collections import Counter
from typing import Any

import plotly.graph_objects as go

Json = dict[str, Any]

BY = "\u00d7"
"""Between width and height."""


def label(bucket: Json) -> str:
    """Width, height and aspect ratio, and the number of frames where the run has video."""
    frames = f"{BY}{bucket['num_frames']}f" if bucket.get("num_frames") else ""
    return f"{bucket['width']}{BY}{bucket['height']}{frames} · {bucket['aspect']:.2f}"


def labels(buckets: list[Json]) -> list[str]:
    """Distinct labels: buckets of equal size (a catch-all, or two tiers) include their number."""
    found = [label(bucket) for bucket in buckets]
    times = Counter(found)
    return [
        f"{text} #{bucket['bucket']}" if times[text] > 1 else text
        for text, bucket in zip(found, buckets, strict=True)
    ]


MANY = 400
"""With more buckets than this, bars are drawn as one outline, because each bar is an element of the page."""


def columns(names: list[str], values: list[Any], colour: str, **more: Any) -> go.Bar | go.Scatter:
    """A bar for each bucket."""
    if len(names) <= MANY:
        return go.Bar(x=names, y=values, marker_color=colour, **more)
    line = {"shape": "hvh", "width": 1, "color": colour}
    return go.Scatter(x=names, y=values, mode="lines", fill="tozeroy", line=line, **more)


def by_bucket(**more: Any) -> Json:
    """The layout of the axis, which shows as many labels as fit."""
    return {"type": "category", "tickangle": -90, "ticks": "", "showgrid": False, **more}
