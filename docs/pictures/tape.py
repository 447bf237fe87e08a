"""The tape, the four policies, and the stream that is dealt to ranks."""

from __future__ import annotations

import numpy as np
from docs.pictures import example
from docs.pictures.style import (
    BLACK,
    BUCKETS,
    GREY,
    Cell,
    bare,
    draw_cells,
    draw_frame,
    draw_left_out,
    ink_on,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle


def line() -> Figure:
    """The tape, and what ``spill`` makes of it."""
    figure = Figure(figsize=(10, 3.3))
    axes = bare(figure.add_axes((0.01, 0.02, 0.98, 0.96)))
    num = int(example.COUNTS.sum())
    axes.set_xlim(-1, num + 1)
    axes.set_ylim(-5.4, 8.2)
    begins = np.cumsum(example.COUNTS) - example.COUNTS
    axes.text(0, 7.5, f"The tape: {num} images, bucket after bucket in order of aspect", weight="bold")
    colours = np.repeat(BUCKETS, example.COUNTS)
    for y in (3.6, -1.2):
        draw_cells(axes, [(place, y, colour) for place, colour in enumerate(colours.tolist())], height=1.6)
    for aspect, begin, count in zip(example.ASPECTS, begins, example.COUNTS, strict=True):
        axes.text(begin + count / 2, 5.5, f"{aspect}\n{count}", ha="center", va="bottom", fontsize=8)
    axes.text(
        0, 1.6, f"The same tape as spill cuts it, in units of {example.UNIT} images (framed)", weight="bold"
    )
    epoch = example.epoch_of("spill")
    for target, num_units in enumerate(epoch.num_units.tolist()):
        for unit in range(num_units):
            places = np.sort(epoch.places[epoch.unit(target, unit)])
            runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
            for run in runs:
                draw_frame(axes, run[0], -1.2, len(run), 1.6)
        if num_units:
            begin, length = epoch.layout.begins[target], epoch.layout.lengths[target]
            axes.plot(
                [begin + 0.4, begin + 0.4, begin + length - 0.4, begin + length - 0.4],
                [-1.6, -2, -2, -1.6],
                color=BLACK,
                lw=0.9,
            )
            units = "1 unit" if num_units == 1 else f"{num_units} units"
            axes.text(
                begin + length / 2,
                -2.2,
                f"{example.ASPECTS[target]}\n{units}",
                ha="center",
                va="top",
                fontsize=8,
            )
    draw_left_out(axes, [(place, -1.2, GREY) for place in epoch.left_out().tolist()], height=1.6)
    middle = float(epoch.left_out().mean()) + 0.5
    axes.annotate(
        f"left out in this epoch: {len(epoch.left_out())}",
        (middle, -1.3),
        (middle, -4.9),
        ha="center",
        va="center",
        fontsize=8,
        arrowprops={"arrowstyle": "-", "lw": 0.8},
    )
    return figure


def tails() -> Figure:
    """What each policy serves, unit by unit."""
    figure = Figure(figsize=(10, 9.2))
    grid = figure.add_gridspec(
        5, 1, left=0.01, right=0.99, top=0.975, bottom=0.01, height_ratios=[11.2, 9, 9, 9, 1.2], hspace=0.06
    )
    for row, policy in enumerate(("spill", "pad", "drop", "catch_all")):
        axes = bare(figure.add_subplot(grid[row]))
        axes.set_xlim(-1, 10 * 11)
        axes.set_ylim(-4 if policy == "spill" else -1.8, 7.2)
        _policy(axes, policy)
    axes = bare(figure.add_subplot(grid[4]))
    axes.legend(
        handles=[
            Patch(facecolor="white", edgecolor=BLACK, lw=1.3, label=f"a unit of {example.UNIT} images"),
            Patch(facecolor=BUCKETS[1], edgecolor="white", label="an image, in its own bucket's colour"),
            Patch(facecolor="white", edgecolor=GREY, hatch="//////", label="left out in this epoch"),
            Line2D([], [], marker="o", ls="", ms=3, color=BLACK, label="dot: the image comes again"),
        ],
        loc="center",
        ncols=4,
        frameon=False,
        fontsize=8.5,
    )
    axes.set_xlim(0, 1)
    return figure


def _policy(axes: Axes, policy: str) -> None:
    epoch = example.epoch_of(policy)
    layout, left_out = epoch.layout, epoch.left_out()
    numbers = [
        f"{epoch.num_units.sum()} units",
        f"{len(left_out)} images left out",
        f"{epoch.repeats.sum()} repeated",
        f"{sum(images for _, _, images in example.moved(layout))} placed with another bucket's",
    ]
    axes.set_title(f"{policy}: {', '.join(numbers)}", weight="bold", pad=2)
    middle = int(np.argmax(example.COUNTS))
    for target, (num_units, begin, length) in enumerate(
        zip(epoch.num_units.tolist(), layout.begins.tolist(), layout.lengths.tolist(), strict=True)
    ):
        left = target * 11
        cells: list[Cell] = []
        dots: dict[str, list[tuple[float, float]]] = {}
        for unit in range(num_units):
            # from the wide end inward, the outermost unit is the first
            bottom = num_units - 1 - unit if policy == "spill" and target > middle else unit
            for column, i in enumerate(epoch.unit(target, unit).tolist()):
                colour = BUCKETS[epoch.buckets[i]]
                cells.append((left + column, bottom, colour))
                if epoch.repeats[i]:
                    dots.setdefault(ink_on(colour), []).append((left + column + 0.5, bottom + 0.5))
            draw_frame(axes, left, bottom, example.UNIT, 1)
        draw_cells(axes, cells)
        for ink, at in dots.items():
            axes.plot(*zip(*at, strict=True), "o", color=ink, mew=0, ms=3)
        outside = left_out[(left_out >= begin) & (left_out < begin + length)]
        pieces = np.searchsorted(layout.piece_begins, outside, side="right") - 1
        draw_left_out(
            axes,
            [(left + i, num_units, BUCKETS[bucket]) for i, bucket in enumerate(layout.piece_buckets[pieces])],
        )
        name = "catch-all" if target == example.CATCH_ALL else example.ASPECTS[target]
        axes.text(left + 4, -2.6 if policy == "spill" else -0.4, name, ha="center", va="top", fontsize=8.5)
        if not num_units:
            axes.plot([left, left + example.UNIT], [0, 0], color=GREY, lw=0.9)
    if policy == "spill":
        for start, end, images in example.carried():
            inward = 1 if end > start else -1
            x = 11 * max(start, end) - 1.5
            axes.annotate(
                "",
                (x + 2.8 * inward, -0.75),
                (x - 2.8 * inward, -0.75),
                arrowprops={"arrowstyle": "-|>", "lw": 1.2, "color": BLACK, "shrinkA": 0, "shrinkB": 0},
            )
            axes.text(x, -1.1, str(images), ha="center", va="top", fontsize=8.5)


def stream() -> Figure:
    """Two epochs' unit orders, and one of them dealt."""
    figure = Figure(figsize=(10, 6.2))
    grid = figure.add_gridspec(
        4, 1, left=0.075, right=0.99, top=0.955, bottom=0.065, height_ratios=[1, 1, 4, 4], hspace=0.62
    )
    for epoch in (0, 1):
        units = example.stream(epoch)[:: example.WORLD_SIZE]
        _shapes(
            figure.add_subplot(grid[epoch]),
            units[np.newaxis],
            f"epoch {epoch}: the keyed order of its {len(units)} units",
            ["units"],
        )
    ranks = [f"rank {rank}" for rank in range(example.WORLD_SIZE)]
    for row, lockstep in ((2, example.WORLD_SIZE), (3, 1)):
        shapes = example.dealt(0, lockstep)
        mixed = example.mixed_steps(0, lockstep)
        title = (
            f"epoch 0 dealt to {example.WORLD_SIZE} ranks, lockstep = {lockstep}"
            f"{' = world size' if lockstep == example.WORLD_SIZE else ''}: "
            + (f"{mixed} of {shapes.shape[1]} steps mix shapes" if mixed else "each step has one shape")
        )
        axes = _shapes(figure.add_subplot(grid[row]), shapes, title, ranks)
        axes.set_xticks(range(shapes.shape[1]), range(shapes.shape[1]), fontsize=8)
    axes.set_xlabel("step")
    return figure


def _shapes(axes: Axes, buckets: np.ndarray, title: str, names: list[str]) -> Axes:
    """A coloured and labelled grid of buckets[row, column]."""
    axes.set_title(title, weight="bold", pad=4)
    for (row, column), bucket in np.ndenumerate(buckets):
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=BUCKETS[bucket], edgecolor="white", lw=1.2)
        )
        aspect = example.ASPECTS[bucket]
        axes.text(column, row, aspect, ha="center", va="center", fontsize=8, color=ink_on(BUCKETS[bucket]))
    axes.set_xlim(-0.5, buckets.shape[1] - 0.5)
    axes.set_ylim(len(buckets) - 0.5, -0.5)
    axes.set_yticks(range(len(buckets)), names)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes
