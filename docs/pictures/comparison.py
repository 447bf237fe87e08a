"""The plan with steps of one shape beside the one with balanced steps: what is cropped, who waits, what moves."""

from __future__ import annotations

import numpy as np
from docs.pictures import plans
from docs.pictures.plans import BALANCED, SAME_SHAPE, Plan
from docs.pictures.style import BLACK, BUCKETS, GREY, bare, ink_on
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

LADDER = "NovelAI"
RARE = "#DDDDDD"
"""For buckets that no plan serves."""
PLANS = (
    ("steps: same_shape, tails: spill", SAME_SHAPE),
    ("steps: balanced, tails: shift", BALANCED),
)


def _colours(*found: Plan) -> dict[int, str]:
    """Of every bucket that has images, in order of aspect: a colour where one of the plans serves it."""
    there = np.unique(np.concatenate([plan.nearest for plan in found]))
    served = np.unique(np.concatenate([plan.served for plan in found]))
    of_served = dict(zip(served.tolist(), BUCKETS, strict=True))
    return {bucket: of_served.get(bucket, RARE) for bucket in there.tolist()}


def cropped() -> Figure:
    """Each image of epoch 0: the share that its bucket crops away."""
    figure = Figure(figsize=(10, 6.4))
    axes = figure.subplots(2, 1, sharex=True)
    figure.subplots_adjust(left=0.07, right=0.99, top=0.955, bottom=0.155, hspace=0.2)
    found = [(title, plans.planned(LADDER, **fields)) for title, fields in PLANS]
    colours = _colours(*(plan for _, plan in found))
    for at, (title, plan) in zip(axes, found, strict=True):
        _crops(at, title, plan, colours)
    axes[1].set_xlabel(f"the {plans.NUM_IMAGES} images, from the narrowest to the widest")
    sizes = found[0][1].sizes
    shown = [
        Line2D(
            [], [], marker="o", ls="", ms=4, color=colour, label=f"{sizes[bucket][0]} x {sizes[bucket][1]}"
        )
        for bucket, colour in colours.items()
        if colour != RARE
    ]
    nearest = Line2D([], [], color=BLACK, lw=0.9, label="nearest bucket")
    left_out = Line2D([], [], marker="|", ls="", ms=6, color=GREY, label="left out in this epoch")
    figure.legend(handles=[*shown, nearest, left_out], loc="lower center", ncols=6, frameon=False, fontsize=8)
    return figure


def _crops(axes: Axes, title: str, plan: Plan, colours: dict[int, str]) -> None:
    aspects = plan.images[:, 0] / plan.images[:, 1]
    order = np.lexsort((plan.buckets, aspects))
    place = np.argsort(order)
    axes.step(np.arange(len(order)), plan.nearest_crops[order], where="mid", color=BLACK, lw=0.9, zorder=3)
    colour = [colours[bucket] for bucket in plan.served.tolist()]
    axes.scatter(place[plan.rows], plan.served_crops, c=colour, s=11, lw=0, zorder=2)
    axes.plot(place[plan.left_out], np.full(len(plan.left_out), -0.03), "|", color=GREY, ms=6)
    means = f"cropped away: {plan.served_crops.mean():.1%} (nearest bucket: {plan.nearest_crops.mean():.1%})"
    axes.set_title(f"{title}. {means}", weight="bold", pad=4)
    axes.set_xlim(-4, len(order) + 3)
    axes.set_ylim(-0.055, 0.6)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel("share cropped away")


def waiting() -> Figure:
    """Each rank's batch at each step of epoch 0, and each step's cheapest and dearest batch."""
    figure = Figure(figsize=(10, 5.6))
    grid = figure.add_gridspec(
        2,
        2,
        left=0.065,
        right=0.99,
        top=0.945,
        bottom=0.085,
        height_ratios=[2.6, 1],
        hspace=0.16,
        wspace=0.06,
    )
    found = [(title, plans.planned(LADDER, **fields)) for title, fields in PLANS]
    colours = _colours(*(plan for _, plan in found))
    for column, (title, plan) in enumerate(found):
        above = figure.add_subplot(grid[0, column])
        _batches(above, plan, colours)
        above.set_title(f"{title}. Imbalance: {plan.imbalance:.3f}", weight="bold", pad=4)
        below = figure.add_subplot(grid[1, column])
        _costs(below, plan)
        if column:
            above.set_yticklabels([])
            below.set_yticklabels([])
        else:
            below.set_ylabel("Mpx a batch")
    return figure


def _batches(axes: Axes, plan: Plan, colours: dict[int, str]) -> None:
    for (step, rank), bucket in np.ndenumerate(plan.steps):
        colour = colours[bucket]
        axes.add_patch(Rectangle((step - 0.5, rank - 0.5), 1, 1, facecolor=colour, edgecolor="white", lw=1.2))
        width, height = plan.sizes[bucket]
        axes.text(
            step, rank, f"{width} x {height}", ha="center", va="center", fontsize=6.2, color=ink_on(colour)
        )
    axes.set_xlim(-0.5, len(plan.steps) - 0.5)
    axes.set_ylim(plans.WORLD_SIZE - 0.5, -0.5)
    axes.set_yticks(range(plans.WORLD_SIZE), [f"rank {rank}" for rank in range(plans.WORLD_SIZE)])
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _costs(axes: Axes, plan: Plan) -> None:
    pixels = plan.pixels / 1e6
    steps = np.arange(len(pixels))
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    axes.vlines(steps, low, high, color=GREY, lw=7, alpha=0.5)
    axes.plot(steps, high, "_", color=BLACK, ms=14, mew=1.6)
    axes.plot(steps, low, "_", color=BLACK, ms=14, mew=1.6)
    axes.plot(steps, pixels.mean(axis=1), "o", color=BLACK, ms=3.5)
    axes.set_xlim(-0.5, len(pixels) - 0.5)
    axes.set_ylim(1.9, 3.6)
    axes.set_xticks(steps)
    axes.set_xlabel("step: its cheapest and its dearest batch, and the mean (dot)")


def shifted() -> Figure:
    """The buckets of all images before and after the boundaries have moved."""
    figure = Figure(figsize=(10, 3.2))
    axes = bare(figure.add_axes((0.01, 0.01, 0.98, 0.98)))
    plan = plans.planned(LADDER, **BALANCED)
    colours = _colours(plan, plans.planned(LADDER, **SAME_SHAPE))
    buckets = np.array(sorted(colours))
    before, after = (
        np.bincount(of, minlength=len(plan.sizes))[buckets] for of in (plan.nearest, plan.buckets)
    )
    _bar(axes, plan, colours, buckets[before > 0], before[before > 0], 2.5)
    _bar(axes, plan, colours, buckets[after > 0], after[after > 0], 0, above=False)
    whole = (
        f"After the boundaries have moved: whole batches of {plans.BATCH_SIZE}, except in the largest bucket"
    )
    for y, title in ((6.3, "Each image in its nearest bucket"), (-2.75, whole)):
        axes.text(0, y, title, weight="bold", va="center")
    for upper, lower in zip(np.cumsum(before)[:-1], np.cumsum(after)[:-1], strict=True):
        axes.plot([upper, lower], [2.5, 1], color=BLACK, lw=0.7, alpha=0.5, zorder=0)
    axes.set_xlim(-2, plans.NUM_IMAGES + 8)
    axes.set_ylim(-3.1, 6.8)
    return figure


def _bar(
    axes: Axes,
    plan: Plan,
    colours: dict[int, str],
    buckets: np.ndarray,
    counts: np.ndarray,
    y: float,
    *,
    above: bool = True,
) -> None:
    begin, last = 0, -np.inf
    for bucket, count in zip(buckets.tolist(), counts.tolist(), strict=True):
        axes.add_patch(Rectangle((begin, y), count, 1, facecolor=colours[bucket], edgecolor="white", lw=0.6))
        width, height = plan.sizes[bucket]
        middle = begin + count / 2
        if count > 40:
            label, ink = f"{width} x {height}: {count}", ink_on(colours[bucket])
            axes.text(middle, y + 0.5, label, ha="center", va="center", fontsize=8, color=ink)
        else:
            last = max(middle, last + 6)
            label = f"{width} x {height}: {count}"
            side = {"y": y + 1.1, "va": "bottom"} if above else {"y": y - 0.1, "va": "top"}
            axes.text(x=last, s=label, ha="center", fontsize=7, rotation=90, **side)
        begin += count
