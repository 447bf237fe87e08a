"""Draw every picture: ``make pictures``, or ``python -m docs.pictures.make``. The same code draws the same bytes.

``--png FOLDER`` draws them there as PNG, to look at.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from docs.pictures import example, quality, urn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.path import Path as MplPath

from bucketline_service.planning.permutation import SMALL

HERE = Path(__file__).parent
Cell = tuple[float, float, str]
"""x, y and colour."""
# Paul Tol's "muted": nine colours that colour-blind eyes tell apart. One for each bucket, in order of aspect.
BUCKETS = (
    *("#332288", "#88CCEE", "#44AA99", "#117733", "#999933"),
    *("#DDCC77", "#CC6677", "#882255", "#AA4499"),
)
# Okabe and Ito's, for curves
BLUE, ORANGE, GREEN, VERMILION, BLACK, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#000000", "#777777"
STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.8,
    "svg.hashsalt": "bucketline",  # ids in the file are the same each time
    "svg.fonttype": "path",  # looks the same whatever fonts a reader has
}


def line() -> Figure:
    """The tape, and what ``spill`` makes of it."""
    figure = Figure(figsize=(10, 3.3))
    axes = _bare(figure.add_axes((0.01, 0.02, 0.98, 0.96)))
    num = int(example.COUNTS.sum())
    axes.set_xlim(-1, num + 1)
    axes.set_ylim(-5.4, 8.2)
    begins = np.cumsum(example.COUNTS) - example.COUNTS
    axes.text(0, 7.5, f"The tape: {num} images, bucket after bucket in order of aspect", weight="bold")
    colours = np.repeat(BUCKETS, example.COUNTS)
    for y in (3.6, -1.2):
        _cells(axes, [(place, y, colour) for place, colour in enumerate(colours.tolist())], height=1.6)
    for aspect, begin, count in zip(example.ASPECTS, begins, example.COUNTS, strict=True):
        axes.text(begin + count / 2, 5.5, f"{aspect}\n{count}", ha="center", va="bottom", fontsize=8)
    axes.text(
        0, 1.6, f"The same tape as spill cuts it, in units of {example.UNIT} images (framed)", weight="bold"
    )
    epoch = example.epoch_of("spill")
    for target, num_units in enumerate(epoch.layout.num_units.tolist()):
        for unit in range(num_units):
            places = np.sort(epoch.places[epoch.unit(target, unit)])
            runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
            for run in runs:
                _frame(axes, run[0], -1.2, len(run), 1.6)
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
    _left_out(axes, [(place, -1.2, GREY) for place in epoch.left_out().tolist()], height=1.6)
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
        axes = _bare(figure.add_subplot(grid[row]))
        axes.set_xlim(-1, 10 * 11)
        axes.set_ylim(-4 if policy == "spill" else -1.8, 7.2)
        _policy(axes, policy)
    axes = _bare(figure.add_subplot(grid[4]))
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
        f"{layout.num_units.sum()} units",
        f"{len(left_out)} images left out",
        f"{epoch.repeats.sum()} repeated",
        f"{sum(images for _, _, images in example.moved(layout))} placed with another bucket's",
    ]
    axes.set_title(f"{policy}: {', '.join(numbers)}", weight="bold", pad=2)
    middle = int(np.argmax(example.COUNTS))
    for target, (num_units, begin, length) in enumerate(
        zip(layout.num_units.tolist(), layout.begins.tolist(), layout.lengths.tolist(), strict=True)
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
                    dots.setdefault(_ink(colour), []).append((left + column + 0.5, bottom + 0.5))
            _frame(axes, left, bottom, example.UNIT, 1)
        _cells(axes, cells)
        for ink, at in dots.items():
            axes.plot(*zip(*at, strict=True), "o", color=ink, mew=0, ms=3)
        outside = left_out[(left_out >= begin) & (left_out < begin + length)]
        pieces = np.searchsorted(layout.piece_begins, outside, side="right") - 1
        _left_out(
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
        axes.text(column, row, aspect, ha="center", va="center", fontsize=8, color=_ink(BUCKETS[bucket]))
    axes.set_xlim(-0.5, buckets.shape[1] - 0.5)
    axes.set_ylim(len(buckets) - 0.5, -0.5)
    axes.set_yticks(range(len(buckets)), names)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes


def two_laws() -> Figure:
    """The urn's draws and the planner's, counted."""
    figure = Figure(figsize=(10, 4.4))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.065, right=0.99, top=0.87, bottom=0.22, wspace=0.2)
    small = urn.positions_of_the_small_bucket()
    _counts(left, small, np.arange(1, len(small.urn) + 1), 600)
    left.set_title(f"The one unit of the smallest bucket\n{small.numbers()}", pad=8)
    left.set_xlabel(f"position in the epoch (units {' + '.join(map(str, urn.SMALL_BUCKET))})")
    left.set_ylabel(f"epochs of {urn.EPOCHS:,}")
    left.set_xticks([1, 5, 10, 15, 20])
    short = urn.sequences_of_the_short_urn()
    by_other = np.argsort(short.other, kind="stable")
    _counts(right, short, np.arange(1, len(short.urn) + 1), 200, by_other)
    right.set_title(
        f"All {len(short.urn)} sequences of {' + '.join(map(str, urn.SHORT))} units\n{short.numbers()}", pad=8
    )
    right.set_xlabel("sequence, in order of the other law's count")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False, fontsize=8.5)
    return figure


def _counts(
    axes: Axes, samples: urn.TwoSamples, x: np.ndarray, top: int, order: np.ndarray | None = None
) -> None:
    order = np.arange(len(x)) if order is None else order
    chance = 1 / len(x)
    mean, deviation = urn.EPOCHS * chance, np.sqrt(urn.EPOCHS * chance * (1 - chance))
    axes.axhspan(
        mean - 2 * deviation, mean + 2 * deviation, color="#DDDDDD", lw=0, label="exact law ± 2 deviations"
    )
    axes.plot(x, samples.other[order], "--", color=GREY, lw=1.4, label="another law: buckets drawn evenly")
    axes.plot(x, samples.urn[order], "o", color=VERMILION, ms=4.5, label="urn, weighted draws")
    axes.plot(x, samples.planner[order], "D", mfc="none", color=BLUE, ms=4.5, label="planner, permuted units")
    axes.set_ylim(0, top)
    axes.set_xlim(x[0] - 0.02 * len(x), x[-1] + 0.02 * len(x))
    # where the other law leaves the picture
    above = np.flatnonzero(samples.other[order] > top)
    at, side = (x[above[0]] - 2, "right") if above[0] else (x[above[-1]] + 1.5, "left")
    high = f"to {samples.other.max():,}"
    axes.text(at, top * 0.99, high, ha=side, va="top", fontsize=8.5, color="#555555")


def rounds() -> Figure:
    """The smallest p-value against the size, for each number of rounds."""
    figure = Figure(figsize=(10, 5.2))
    axes = figure.add_axes((0.085, 0.11, 0.905, 0.83))
    axes.axvspan(4, SMALL, color="#EEEEEE", lw=0)
    axes.axhspan(0.3, 3, color="#CFE3F3", lw=0)
    axes.axhline(6, color=GREY, lw=1, ls=":")
    drawn = [
        (2, quality.PAIRS, False, ("s-", BLACK, "2 rounds")),
        (4, quality.PAIRS, False, ("^-", VERMILION, "4 rounds")),
        (6, quality.PAIRS, False, ("v-", ORANGE, "6 rounds")),
        (
            8,
            quality.PAIRS,
            False,
            ("o-", BLUE, f"8 rounds, {quality.PAIRS:,} pairs of each kind, as all others"),
        ),
        (8, quality.MANY_PAIRS, False, ("o--", BLUE, f"8 rounds, {quality.MANY_PAIRS:,} pairs")),
        (8, quality.PAIRS, True, ("D", GREEN, f"shuffled for real, as the planner does up to {SMALL}")),
    ]
    for num_rounds, pairs, shuffled, (style, colour, label) in drawn:
        sizes, smallest = quality.series(num_rounds, pairs, shuffled=shuffled)
        depth = np.minimum(-np.log10(np.maximum(smallest, 1e-300)), 300)
        hollow = {"mfc": "white"} if pairs == quality.MANY_PAIRS else {}
        axes.plot(sizes, depth, style, color=colour, ms=5.5, lw=1.3, label=label, **hollow)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(4, 3e12)
    axes.set_ylim(420, 0.3)
    axes.minorticks_off()
    depths = [1, 3, 6, 10, 30, 100, 300]
    axes.set_yticks(depths, ["0.1", *(f"$10^{{-{depth}}}$" for depth in depths[1:-1]), "below\n$10^{-300}$"])
    named = [6, 17, 65, 257, 1025, 4097, 65_537, 1_000_003, 10**9, 10**12]
    names = [
        f"{n:,}" if n < 10**6 else {10**9: "$10^9$", 10**12: "$10^{12}$"}.get(n, "1,000,003") for n in named
    ]
    axes.set_xticks(named, names, fontsize=8)
    axes.set_xlabel("n, the number of values permuted")
    axes.set_ylabel("smallest p-value (lower is worse)")
    axes.set_title("How plainly the tests see that a keyed permutation is not random", weight="bold")
    axes.text(3e12, 0.42, "what chance gives ", ha="right", va="center", fontsize=8.5, color="#00507D")
    axes.text(3e12, 6.3, "the test suite's limit ", ha="right", va="top", fontsize=8.5, color="#555555")
    axes.text(
        4.4, 0.42, f"n up to {SMALL}: never left to the network", va="center", fontsize=8.5, color="#333333"
    )
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.1), fontsize=8.5, framealpha=1)
    return figure


def _bare(axes: Axes) -> Axes:
    axes.set_axis_off()
    return axes


def _cells(axes: Axes, cells: list[Cell], height: float = 1) -> None:
    """Each a small rectangle in its colour, with a white edge."""
    for colour, path in _by_colour(cells, height):
        axes.add_patch(PathPatch(path, facecolor=colour, edgecolor="white", lw=0.5))


def _left_out(axes: Axes, cells: list[Cell], height: float = 1) -> None:
    """Each hatched in its colour, over what was there."""
    for colour, path in _by_colour(cells, height):
        axes.add_patch(PathPatch(path, facecolor="white", edgecolor=colour, hatch="//////", lw=0.5, zorder=2))


def _by_colour(cells: list[Cell], height: float) -> list[tuple[str, MplPath]]:
    """One path for all of a colour: a tenth of the bytes of a file with a path for each."""
    shapes: dict[str, list[MplPath]] = {}
    for x, y, colour in cells:
        corners = [(x, y), (x + 1, y), (x + 1, y + height), (x, y + height), (x, y)]
        shapes.setdefault(colour, []).append(MplPath(corners, closed=True))
    return [(colour, MplPath.make_compound_path(*paths)) for colour, paths in shapes.items()]


def _frame(axes: Axes, x: float, y: float, width: float, height: float) -> None:
    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=BLACK, lw=1.3, zorder=3))


def _ink(colour: str) -> str:
    """Black or white, whichever is read better on a colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else "white"


PICTURES: dict[str, Callable[[], Figure]] = {
    "line": line,
    "tails": tails,
    "stream": stream,
    "urn": two_laws,
    "rounds": rounds,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--png", type=Path, metavar="FOLDER", help="PNG, into this folder")
    folder = parser.parse_args().png
    for name, draw in PICTURES.items():
        with mpl.rc_context({**mpl.rcParamsDefault, **STYLE}):
            if folder is None:
                draw().savefig(HERE / f"{name}.svg", metadata={"Date": None, "Creator": None})
            else:
                draw().savefig(folder / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
