"""Packs that each rank fills greedily beside planned ones: what is in the packs of a step, and who waits."""

from __future__ import annotations

import numpy as np
from docs.pictures import pack_plans
from docs.pictures.pack_plans import MAX_TOKENS, WORLD_SIZE, Packed
from docs.pictures.style import BLACK, BLUE, BUCKETS, GREY
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

SHORT_TO_LONG = LinearSegmentedColormap.from_list("tokens", [BUCKETS[5], BUCKETS[2], BUCKETS[0]])
FEWEST, MOST = 100, 4_096
"""Tokens of the images at the ends of the colours."""
STEPS = range(1_000, 1_080)
"""Those that are drawn: well after the start, where a greedy packer still has the longest images to choose from."""


def packs() -> Figure:
    """The packs of a step, what attention costs in each, and the same of each step of the epoch."""
    figure = Figure(figsize=(10, 5.9))
    grid = figure.add_gridspec(
        2,
        4,
        left=0.065,
        right=0.99,
        top=0.945,
        bottom=0.085,
        width_ratios=[3, 1, 3, 1],
        height_ratios=[1.75, 1],
        hspace=0.33,
        wspace=0.07,
    )
    sizes = pack_plans.web_like()
    found = {"greedy": pack_plans.greedy(sizes), "planned": pack_plans.planned(sizes)}
    for column, (title, packed) in enumerate(found.items()):
        step = typical_step(packed)
        tokens = figure.add_subplot(grid[0, 2 * column])
        _tokens(tokens, packed, step)
        about = f"{title}: {packed.full:.1%} full, {packed.num_kinds:,} kinds. Step {step:,}"
        tokens.set_title(about, weight="bold", pad=4)
        _attention(figure.add_subplot(grid[0, 2 * column + 1]), packed, step)
        steps = figure.add_subplot(grid[1, 2 * column : 2 * column + 2])
        _steps(steps, packed)
        steps.set_title(
            f"{len(STEPS)} steps of the epoch. Its imbalance of attention: {packed.imbalance:.3f}", pad=4
        )
        if column:
            tokens.set_yticklabels([])
            steps.set_yticklabels([])
        else:
            steps.set_ylabel("attention (10⁶ tokens²)")
    return figure


def typical_step(packed: Packed) -> int:
    """Of those that are drawn, the step whose imbalance is the median; of several the one with the most images."""
    attention = packed.attention[STEPS.start : STEPS.stop]
    imbalances = attention.max(axis=1) / attention.mean(axis=1)
    median = np.sort(imbalances)[len(STEPS) // 2]
    return max(np.array(STEPS)[imbalances == median].tolist(), key=lambda step: len(packed.slots[step][0]))


def _tokens(axes: Axes, packed: Packed, step: int) -> None:
    """Each image a part of its pack, as long as its slot; what its slot has beyond it is pale."""
    for rank, (tokens, slots) in enumerate(zip(packed.tokens[step], packed.slots[step], strict=True)):
        begins = np.cumsum(slots) - slots
        for begin, num, slot in zip(begins.tolist(), tokens.tolist(), slots.tolist(), strict=True):
            colour = SHORT_TO_LONG((num - FEWEST) / (MOST - FEWEST))
            axes.add_patch(Rectangle((begin, rank - 0.4), slot, 0.8, facecolor=colour, alpha=0.35, lw=0))
            axes.add_patch(Rectangle((begin, rank - 0.4), num, 0.8, facecolor=colour, lw=0))
            axes.plot([begin + slot] * 2, [rank - 0.4, rank + 0.4], color="white", lw=0.8)
        axes.add_patch(Rectangle((0, rank - 0.4), MAX_TOKENS, 0.8, fill=False, edgecolor=GREY, lw=0.6))
    axes.set_xlim(0, MAX_TOKENS)
    axes.set_ylim(WORLD_SIZE - 0.5, -0.5)
    axes.set_yticks(range(WORLD_SIZE), [f"rank {rank}" for rank in range(WORLD_SIZE)])
    axes.set_xticks([0, 4_096, 8_192, 12_288, MAX_TOKENS], ["0", "4,096", "8,192", "12,288", ""])
    axes.set_xlabel("tokens", labelpad=1)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)


def _attention(axes: Axes, packed: Packed, step: int) -> None:
    """What attention costs each rank, and how long it then waits for the dearest."""
    costs = packed.attention[step] / 1e6
    for rank, cost in enumerate(costs.tolist()):
        axes.add_patch(Rectangle((0, rank - 0.4), cost, 0.8, facecolor=BLUE, lw=0))
        waits = Rectangle(
            (cost, rank - 0.4),
            costs.max() - cost,
            0.8,
            facecolor="white",
            edgecolor=GREY,
            hatch="//////",
            lw=0,
        )
        axes.add_patch(waits)
    axes.axvline(costs.max(), color=BLACK, lw=0.9)
    axes.set_xlim(0, 75)
    axes.set_ylim(WORLD_SIZE - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xticks([0, 25, 50])
    axes.set_xlabel("attention (10⁶)", labelpad=1)
    axes.spines["left"].set_visible(False)


def _steps(axes: Axes, packed: Packed) -> None:
    costs = packed.attention[STEPS.start : STEPS.stop] / 1e6
    steps = np.arange(STEPS.start, STEPS.stop)
    low, high = costs.min(axis=1), costs.max(axis=1)
    axes.vlines(steps, low, high, color=GREY, lw=2.5, alpha=0.5)
    axes.plot(steps, high, "_", color=BLACK, ms=3.5, mew=1.2)
    axes.plot(steps, low, "_", color=BLACK, ms=3.5, mew=1.2)
    axes.plot(steps, costs.mean(axis=1), "o", color=BLACK, ms=2.2)
    axes.set_xlim(STEPS.start - 1, STEPS.stop)
    axes.set_xticks(STEPS[::20], [f"{step:,}" for step in STEPS[::20]])
    axes.set_ylim(0, 75)
    axes.set_xlabel("step: its cheapest and its dearest pack, and the mean (dot)")
