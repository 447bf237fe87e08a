"""Start and resume over the number of images, drawn from the results that the table is made of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import patheffects
from matplotlib import pyplot as plt

from peers import OURS, PEERS

# Okabe and Ito's colours without yellow, and a marker each; the lines of those that do not bucket are dashed.
LOOKS = {
    "bucketline": ("#000000", "o"),
    "novelai": ("#D55E00", "s"),
    "kohya": ("#B87800", "^"),
    "bucketsampler": ("#CC79A7", "D"),
    "lhotse": ("#777777", "v"),
    "torch": ("#0072B2", "P"),
    "streaming": ("#3A9AD0", "X"),
    "grain": ("#009E73", "h"),
}
PANELS = (("start", "Start of an epoch"), ("resume", "Resume at half of an epoch"))
STYLE = {
    "svg.hashsalt": "peers",
    "font.size": 10,
    "axes.edgecolor": "#777777",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


def draw(results: dict, path: Path) -> None:
    """Log-log, on white: that can be read on any page."""
    mpl.rcParams.update(STYLE)
    figure, panels = plt.subplots(1, 2, figsize=(11, 5), sharey=True, layout="constrained", facecolor="white")
    ends = [draw_panel(axes, results, quantity) for axes, (quantity, _) in zip(panels, PANELS, strict=True)]
    for axes, (_, title), of_panel in zip(panels, PANELS, ends, strict=True):
        axes.set_title(title, loc="left", weight="bold")
        axes.set_xlabel("images")
        low, high = axes.get_xlim()
        axes.set_xlim(low, high * (high / low) ** 0.3)  # room for the names
        axes.minorticks_off()
        label(axes, of_panel)
    low, high = (math.log10(level) for level in panels[0].get_ylim())
    powers = range(math.ceil(low), math.floor(high) + 1)
    panels[0].set_yticks([10.0**power for power in powers], [power_text(power) for power in powers])
    panels[0].set_ylabel("time to the next batch of one rank")
    figure.supxlabel("dashed: does not bucket", x=0.99, ha="right", size=9, color="#555555")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def draw_panel(axes: Any, results: dict, quantity: str) -> list[tuple[float, float, str]]:
    """The lines of one quantity; where each ends, and its name."""
    axes.set(xscale="log", yscale="log")
    axes.grid(True, color="#dddddd", linewidth=0.6)
    ends = []
    for name, (colour, marker) in LOOKS.items():
        wanted = (name, quantity, "ok")
        good = [row for row in results["rows"] if (row["peer"], row["quantity"], row["status"]) == wanted]
        if not good:
            continue
        nums, seconds = zip(*sorted((row["num"], row["seconds"]) for row in good), strict=True)
        axes.plot(
            nums,
            seconds,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=2.8 if name == OURS else 1.5,
            linestyle="-" if PEERS[name].buckets else (0, (4, 2)),
        )
        ends.append((nums[-1], seconds[-1], name))
    return ends


def label(axes: Any, ends: list[tuple[float, float, str]]) -> None:
    """Names beside the ends of the lines, moved up where one would cover another."""
    low, high = (math.log10(level) for level in axes.get_ylim())
    placed: list[tuple[float, float]] = []
    for num, seconds, name in sorted(ends, key=lambda end: end[1]):
        level = math.log10(seconds)
        for x, y in placed:
            if abs(math.log10(x / num)) < 1 and level < y + (high - low) / 22:
                level = y + (high - low) / 22
        placed.append((num, level))
        axes.annotate(
            name,
            (num, 10**level),
            xytext=(8, 0),
            textcoords="offset points",
            color=LOOKS[name][0],
            weight="bold" if name == OURS else "normal",
            va="center",
            path_effects=[patheffects.withStroke(linewidth=3, foreground="white")],
        )


def power_text(power: int) -> str:
    """10**power seconds."""
    unit, name = next((pair for pair in ((0, "s"), (-3, "ms"), (-6, "µs")) if power >= pair[0]), (-9, "ns"))
    return f"{10 ** (power - unit):,} {name}"
