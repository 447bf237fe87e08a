"""Plans side by side, from the answer of ``POST /v1/previews``: what decides between them, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bucketline_service.charts.style import Palette, Theme, dress, palette
from bucketline_service.previews.comparison import named, short_names

Json = dict[str, Any]

_ROW_PX, _TOP_PX, _BOTTOM_PX, _BETWEEN_PX = 34, 36, 32, 66
_LETTER_PX = 6.6
_NAME, _SHORT_NAME = 24, 14
_WIDTHS = (0.27, 0.33, 0.23, 0.17)


class _Plan(NamedTuple):
    row: int
    name: str
    stats: Json


class _Part(NamedTuple):
    """A stretch of a bar: ``colour`` is a place in the palette's series."""

    label: str
    values: list[float]
    colour: int


def comparison(
    answer: Json, names: Sequence[str] | None = None, *, theme: Theme = "light", narrow: bool = False
) -> go.Figure:
    """A line for each spec, in order, and a panel for each thing that one pays with. ``names``: of the specs, ``spec
    1`` and so on unless given. ``narrow``: panels below each other, for a phone. Of a spec that cannot be met only
    the name is shown."""
    names = named(answer, names)
    plans = [
        _Plan(row, name, each["stats"])
        for row, (name, each) in enumerate(zip(names, answer["previews"], strict=True))
        if "stats" in each
    ]
    colours = palette(theme)
    parts = [_left(plans), _steps(plans), [_Part("", [p.stats["num_shapes"] for p in plans], 0)]]
    shapes = "Shapes, kinds of pack" if any(p.stats.get("packs") for p in plans) else "Distinct shapes"
    heads = ("Crop loss: mean, median to p95", "Images", "Steps", shapes)
    titles = [_title(head, of, colours) for head, of in zip(heads, ([], *parts), strict=True)]
    num = len(titles)
    plot_px = _ROW_PX * len(names) * (num if narrow else 1) + (num - 1) * _BETWEEN_PX * narrow
    figure = _panels(titles, narrow, _BETWEEN_PX / plot_px)
    at = [(panel + 1, 1) if narrow else (1, panel + 1) for panel in range(num)]
    _crop_loss(figure, plans, colours, at[0])
    for where, of in zip(at[1:], parts, strict=True):
        _bars(figure, plans, colours, where, of)
    figure.update_xaxes(rangemode="tozero", nticks=5, fixedrange=True)
    figure.update_xaxes(tickformat=".1~%", row=at[0][0], col=at[0][1])
    figure.update_layout(
        height=_TOP_PX + plot_px + _BOTTOM_PX, barmode="stack", bargap=0.45, showlegend=False
    )
    dress(figure, theme)
    figure.update_layout(margin={"l": 8, "r": 12, "t": _TOP_PX, "b": _BOTTOM_PX})
    _name_rows(figure, short_names(names, _SHORT_NAME if narrow else _NAME), narrow)
    for title in figure.layout.annotations:
        title.update(font={"size": 12, "color": colours.muted}, yshift=4)
    return figure


def _panels(titles: Sequence[str], narrow: bool, between: float) -> go.Figure:
    num = len(titles)
    if narrow:
        return make_subplots(num, 1, subplot_titles=titles, vertical_spacing=between)
    return make_subplots(
        1, num, subplot_titles=titles, column_widths=_WIDTHS, horizontal_spacing=0.025, shared_yaxes=True
    )


def _title(head: str, parts: Sequence[_Part], colours: Palette) -> str:
    """With the colours of its parts: a legend would stand far from what it is of."""
    keys = [
        f'<span style="color:{colours.series[part.colour]}">\u25a0</span> {part.label}'
        for part in parts
        if part.label
    ]
    return "  ".join([f"{head}:" if keys else head, *keys])


def _name_rows(figure: go.Figure, names: Sequence[str], narrow: bool) -> None:
    """``narrow``: the titles begin where the names do, for they need the room."""
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[escape(name, quote=False) for name in names],
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
        fixedrange=True,
    )
    if narrow:
        left_px = 12 + _LETTER_PX * max(map(len, names))
        figure.update_yaxes(automargin=False)
        figure.update_layout(margin={"l": left_px})
        for title in figure.layout.annotations:
            title.update(x=0, xanchor="left", xshift=-left_px + 8)


def _crop_loss(figure: go.Figure, plans: Sequence[_Plan], colours: Palette, at: tuple[int, int]) -> None:
    losses = [plan.stats["crop_loss"] for plan in plans]
    rows = [plan.row for plan in plans]
    spans = go.Bar(
        x=[max(each["p95"] - each["median"], 0.0) for each in losses],
        base=[each["median"] for each in losses],
        y=rows,
        orientation="h",
        width=0.3,
        marker={"color": colours.series[0], "opacity": 0.35},
        hoverinfo="skip",
    )
    dots = go.Scatter(
        x=[each["mean"] for each in losses],
        y=rows,
        mode="markers",
        marker={"color": colours.series[0], "size": 10, "line": {"color": colours.surface, "width": 1.5}},
        customdata=[
            [escape(plan.name), each["median"], each["p95"], each["max"], plan.stats["crop_loss_served"]]
            for plan, each in zip(plans, losses, strict=True)
        ],
        hovertemplate="<b>%{customdata[0]}</b><br>mean %{x:.2%}<br>median %{customdata[1]:.2%}<br>"
        "p95 %{customdata[2]:.2%}<br>max %{customdata[3]:.2%}<br>as served %{customdata[4]:.2%}<extra></extra>",
    )
    words = _words(
        [max(each["mean"], each["p95"]) for each in losses],
        rows,
        [f"  mean {each['mean']:.2%}" for each in losses],
        colours,
    )
    for trace in (spans, dots, words):
        figure.add_trace(trace, *at)
    most = max((max(each["mean"], each["p95"]) for each in losses), default=0.0)
    figure.update_xaxes(range=[0, 1.5 * most or 1], row=at[0], col=at[1])


def _words(x: Sequence[float], rows: Sequence[int], texts: Sequence[str], colours: Palette) -> go.Scatter:
    """A text to the right of each ``x``."""
    return go.Scatter(
        x=x,
        y=rows,
        mode="text",
        text=texts,
        textposition="middle right",
        textfont={"color": colours.muted, "size": 11},
        hoverinfo="skip",
        cliponaxis=False,
    )


def _left(plans: Sequence[_Plan]) -> list[_Part]:
    return [
        _Part("pruned", [sum(plan.stats["pruned"].values()) for plan in plans], 4),
        _Part("left out", [plan.stats["dropped"] for plan in plans], 1),
        _Part("repeated", [plan.stats["repeated"] for plan in plans], 3),
    ]


def _steps(plans: Sequence[_Plan]) -> list[_Part]:
    mixed = [plan.stats["mixed_steps"] for plan in plans]
    return [
        _Part(
            "one shape", [plan.stats["num_steps"] - num for plan, num in zip(plans, mixed, strict=True)], 2
        ),
        _Part("mixed", mixed, 5),
    ]


def _bars(
    figure: go.Figure, plans: Sequence[_Plan], colours: Palette, at: tuple[int, int], parts: Sequence[_Part]
) -> None:
    """Stretches one after the other, and then their sum."""
    rows = [plan.row for plan in plans]
    for part in parts:
        figure.add_trace(
            go.Bar(
                x=part.values,
                y=rows,
                orientation="h",
                name=part.label,
                marker={"color": colours.series[part.colour]},
                customdata=[escape(plan.name) for plan in plans],
                hovertemplate=f"<b>%{{customdata}}</b><br>%{{x:,}} {part.label}<extra></extra>",
            ),
            *at,
        )
    totals = [sum(values) for values in zip(*(part.values for part in parts), strict=True)]
    words = _words(totals, rows, [f" {total:,}" for total in totals], colours)
    figure.add_trace(words, *at)
    figure.update_xaxes(range=[0, 1.3 * max(totals, default=0) or 1], row=at[0], col=at[1])
