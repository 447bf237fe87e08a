"""What chance does: the urn beside the planner, and the keyed permutations beside real shuffles."""

from __future__ import annotations

import numpy as np
from docs.pictures import quality, urn
from docs.pictures.style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bucketline_service.planning.line.permutation import SMALL


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
