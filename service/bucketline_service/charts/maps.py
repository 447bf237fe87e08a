"""Charts of a map: the response of ``GET /v1/maps/{map}``."""

from __future__ import annotations

import math
from itertools import pairwise

import plotly.graph_objects as go

from bucketline_service.charts.bucket_axis import Json
from bucketline_service.charts.style import Theme, dress, palette, scale


def sizes(answer: Json, *, theme: Theme = "light") -> go.Figure:
    """Number of images by width and height."""
    histogram = answer["histogram"]["size"]
    # the response has [width][height]; a heatmap's rows are heights
    counts = [list(row) for row in zip(*histogram["num_images"], strict=True)]
    widths = _filled([sum(column) for column in histogram["num_images"]])
    heights = _filled([sum(row) for row in counts])
    counts = [row[widths] for row in counts[heights]]
    figure = go.Figure(
        go.Heatmap(
            x=_edges(histogram["edges_px"], widths),
            y=_edges(histogram["edges_px"], heights),
            z=[[math.log10(num) if num else None for num in row] for row in counts],
            customdata=counts,
            colorscale=scale(theme),
            zmin=0,
            xgap=1,
            ygap=1,
            colorbar={
                "title": {"text": "images"},
                "thickness": 10,
                "outlinewidth": 0,
                **_powers(max((num for row in counts for num in row), default=1)),
            },
            hovertemplate="width about %{x:,} px<br>height about %{y:,} px<br>%{customdata:,} images<extra></extra>",
        ),
        go.Layout(
            xaxis={"type": "log", "title": {"text": "width (px)"}, **_pixels(histogram["edges_px"])},
            yaxis={"type": "log", "title": {"text": "height (px)"}, **_pixels(histogram["edges_px"])},
        ),
    )
    return dress(figure, theme)


def aspects(answer: Json, *, theme: Theme = "light") -> go.Figure:
    """Number of images by aspect ratio, width / height."""
    histogram = answer["histogram"]["aspect"]
    filled = _filled(histogram["num_images"])
    edges, counts = _edges(histogram["edges"], filled), histogram["num_images"][filled]
    spans = [f"{low:.2f} to {high:.2f}" for low, high in pairwise(edges)]
    # the outermost bins hold all images that are narrower or wider
    if filled.start == 0:
        spans[0] = f"under {edges[1]:.2f}"
    if filled.stop == len(histogram["num_images"]):
        spans[-1] = f"{edges[-2]:.2f} and over"
    figure = go.Figure(
        go.Scatter(
            x=edges,
            y=[*counts, counts[-1]],
            text=[*spans, spans[-1]],
            mode="lines",
            line={"shape": "hv", "width": 1.5, "color": palette(theme).series[0]},
            fill="tozeroy",
            hovertemplate="aspect %{text}<br>%{y:,} images<extra></extra>",
        ),
        go.Layout(
            xaxis={
                "type": "log",
                "title": {"text": "width / height"},
                "tickvals": [0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4],
                "tickangle": 0,
            },
            yaxis={"title": {"text": "images"}, "rangemode": "tozero"},
        ),
    )
    return dress(figure, theme)


def _filled(counts: list[int]) -> slice:
    """From the first to the last count that is not 0."""
    there = [index for index, num in enumerate(counts) if num]
    return slice(there[0], there[-1] + 1) if there else slice(0, 1)


def _edges(edges: list[float], filled: slice) -> list[float]:
    return edges[filled.start : filled.stop + 1]


def _pixels(edges: list[float]) -> Json:
    """Ticks at powers of two."""
    there = [edge for edge in edges[1:-1] if math.log2(edge).is_integer()]
    return {"tickvals": there, "ticktext": [f"{edge:,}" for edge in there], "tickangle": 0}


def _powers(most: int) -> Json:
    """Ticks of a colour bar over logarithms."""
    powers = range(math.floor(math.log10(max(most, 1))) + 1)
    return {"tickvals": list(powers), "ticktext": [f"{10**power:,}" for power in powers]}
