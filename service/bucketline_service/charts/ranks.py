"""Charts of ranks: the response of ``GET /v1/runs/{run}/ranks``."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from bucketline_service.charts.bucket_axis import Json
from bucketline_service.charts.style import Theme, dress, scale


def ranks(answer: Json, *, theme: Theme = "light") -> go.Figure:
    """Every rank as a cell, by how far it is behind the leader, the slowest first."""
    ordered = sorted(answer["ranks"], key=lambda rank: (-rank["steps_behind"], rank["rank"]))
    num_columns = max(1, math.ceil(math.sqrt(2 * len(ordered))))
    rows = [ordered[begin : begin + num_columns] for begin in range(0, len(ordered), num_columns)]
    figure = go.Figure(
        go.Heatmap(
            z=[[rank["steps_behind"] for rank in row] for row in rows],
            customdata=[[rank["rank"] for rank in row] for row in rows],
            zmin=0,
            zmax=max(1, ordered[0]["steps_behind"] if ordered else 0),
            colorscale=scale(theme),
            xgap=1,
            ygap=1,
            colorbar={"title": {"text": "steps behind"}, "thickness": 10, "outlinewidth": 0},
            hovertemplate="rank %{customdata}: %{z:,} steps behind<extra></extra>",
        ),
        go.Layout(
            xaxis={"visible": False, "constrain": "domain"},
            yaxis={"visible": False, "autorange": "reversed", "scaleanchor": "x"},
        ),
    )
    return dress(figure, theme)
