"""What each ladder crops away of COCO's 5,000 validation images, and what a fitted one would: prints the table of
docs/reference/ladders.md.

No clock: it is the same on every machine, and tests/test_docs_ladders.py compares the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import bucketline_service
from bucketline_service.planning.buckets import ladder_generators as ladders
from bucketline_service.planning.buckets.assignment import assign
from bucketline_service.planning.buckets.fitted_ladder import fitted
from bucketline_service.planning.buckets.ladder_generators import Ladder
from bucketline_service.planning.buckets.preset_ladders import PRESETS, preset
from bucketline_service.planning.geometry import crop_loss

COCO = Path(bucketline_service.__file__).parent / "data" / "coco-5k.csv"
FILLS = (0.75, 0.9)
KNOWN = {
    "`novelai`": ladders.novelai(),
    "`kohya`, 1024": ladders.kohya(1024, max_bucket_reso=2048),
    "`geometric`": ladders.geometric(),
    "`geometric`, 1024, 0.25 to 4, 17": ladders.geometric(0.25, 4.0, 17, 1024, 64),
    **{f"`preset` {name}": preset(name) for name in PRESETS},
}


def served(ladder: Ladder, widths: np.ndarray, heights: np.ndarray) -> tuple[float, float]:
    """Mean crop loss, and mean pixels of a target, over the images."""
    ladder = ladder.by_aspect()
    buckets = assign(widths, heights, ladder).buckets
    across, down = ladder.widths[buckets], ladder.heights[buckets]
    return float(crop_loss(widths, heights, across, down).mean()), float((across * down).mean())


def bounds(ladder: Ladder) -> dict[str, Any]:
    """What ``fitted`` has to keep to: the ladder's largest area, its sides, and the step that divides them all."""
    sides = np.concatenate([ladder.widths, ladder.heights])
    largest = ladder.sizes[int((ladder.widths * ladder.heights).argmax())]
    return {
        "max_size": largest,
        "divisible": int(np.gcd.reduce(sides)),
        "min_dim": int(sides.min()),
        "dim_limit": int(sides.max()),
    }


def row(name: str, ladder: Ladder, widths: np.ndarray, heights: np.ndarray) -> str:
    limits = bounds(ladder)
    max_size = limits["max_size"]
    budget = max_size[0] * max_size[1]
    loss, area = served(ladder, widths, heights)
    cells = [name, str(len(ladder)), f"{loss:.2%}", f"{area / budget:.1%}"]
    for fill in FILLS:
        made = fitted(widths, heights, len(ladder), **limits, min_fill=fill)
        fit_loss, fit_area = served(made, widths, heights)
        cells.append(f"{fit_loss:.2%} in {len(made)}, {fit_area / budget:.1%}")
    fits = (fitted(widths, heights, num, **limits) for num in range(1, len(ladder) + 1))
    cells.append(str(next((len(fit) for fit in fits if served(fit, widths, heights)[0] <= loss), "none")))
    return f"| {' | '.join(cells)} |"


def table() -> list[str]:
    widths, heights = np.loadtxt(COCO, dtype=np.int64, delimiter=",", skiprows=1, usecols=(1, 2)).T
    fits = [f"`fitted`, `min_fill` {fill}" for fill in FILLS]
    header = ["ladder", "buckets", "crop loss", "area", *fits, "`fitted` needs"]
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    return lines + [row(name, ladder, widths, heights) for name, ladder in KNOWN.items()]


if __name__ == "__main__":
    print("\n".join(table()))
