"""The look of all charts: a transparent template for each theme, in colours that colour-blind people distinguish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go

Theme = Literal["light", "dark"]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Palette:
    """``series``: for categories, in this order, distinguishable without red and green; ``sequential``: from low to
    high. ``good``, ``warning`` and ``bad`` always come with a text that says the same."""

    ink: str
    muted: str
    grid: str
    surface: str
    series: tuple[str, ...]
    sequential: tuple[str, ...]
    good: str
    warning: str
    bad: str


# Okabe and Ito's colours, darkened on white and lightened on black to a contrast of at least 3 with the background.
PALETTES: dict[Theme, Palette] = {
    "light": Palette(
        ink="#1b2433",
        muted="#5a6577",
        grid="#e3e7ee",
        surface="#ffffff",
        series=("#0b66b8", "#d9730d", "#008a64", "#b5478b", "#5b6b82", "#8a7400", "#1f93c9", "#7a4fbf"),
        sequential=("#cfe2f5", "#9cc4e8", "#5c9fd6", "#1f72b8", "#0b4a82", "#062a4d"),
        good="#007a58",
        warning="#a85800",
        bad="#c0322b",
    ),
    "dark": Palette(
        ink="#e6ebf3",
        muted="#9aa7ba",
        grid="#2a3446",
        surface="#151c28",
        series=("#5aaef0", "#f2a33c", "#2fc79a", "#e58cc3", "#a3b1c6", "#e0cf5a", "#8fd3f4", "#b99cf0"),
        sequential=("#1d3552", "#215078", "#2a6a9f", "#4793d0", "#86bdeb", "#d3e8fb"),
        good="#2fc79a",
        warning="#f2a33c",
        bad="#ff7b72",
    ),
}


def palette(theme: Theme) -> Palette:
    """The colours of a theme."""
    try:
        return PALETTES[theme]
    except KeyError:
        raise ValueError(f"theme must be light or dark, got {theme!r}") from None


def dress(figure: go.Figure, theme: Theme = "light") -> go.Figure:
    """Apply the common look to ``figure``, on a transparent background. Call it last."""
    colours = palette(theme)
    axis = {
        "gridcolor": colours.grid,
        "linecolor": colours.grid,
        "zerolinecolor": colours.grid,
        "tickcolor": colours.grid,
        "tickfont": {"color": colours.muted, "size": 11},
        "title": {"font": {"color": colours.muted, "size": 12}, "standoff": 8},
        "automargin": True,
        "ticklabelstandoff": 4,
        "separatethousands": True,
    }
    layout = go.Layout(
        font={"family": FONT, "size": 12, "color": colours.ink},
        title={"font": {"size": 15}, "x": 0, "xref": "paper", "xanchor": "left"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        colorway=list(colours.series),
        margin={"l": 8, "r": 12, "t": 12, "b": 8},
        xaxis=axis,
        yaxis=axis,
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "title": {"text": ""},
            "traceorder": "normal",
        },
        hoverlabel={
            "bgcolor": colours.surface,
            "bordercolor": colours.grid,
            "font": {"family": FONT, "color": colours.ink},
            "align": "left",
        },
        bargap=0.15,
    )
    figure.update_layout(template=go.layout.Template(layout=layout))
    return figure


def scale(theme: Theme) -> list[list[float | str]]:
    """From low to high, for a trace's ``colorscale``."""
    colours = palette(theme).sequential
    return [[at / (len(colours) - 1), colour] for at, colour in enumerate(colours)]
