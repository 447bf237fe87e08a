"""COCO's images in NovelAI's ladder and in that of the kohya guide, as the planner assigns them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from docs.pictures.style import BLUE, GREY
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bucketline_service.planning.buckets.assignment import assign
from bucketline_service.spec.run_spec import PlanFields

ROOT = Path(__file__).parents[2]
COCO = ROOT / "service" / "bucketline_service" / "data" / "coco-5k.csv"


def two_ladders() -> Figure:
    """Images by bucket, in order of aspect."""
    figure = Figure(figsize=(10, 6.2))
    above, below = figure.subplots(2, 1)
    figure.subplots_adjust(left=0.065, right=0.99, top=0.95, bottom=0.13, hspace=0.62)
    _bars(above, "NovelAI's default ladder", {"planner": "novelai"})
    guide = (ROOT / "docs" / "how-to" / "from-kohya.md").read_text()
    (text,) = (text for text in re.findall(r"^```json\n(.*?)^```$", guide, re.M | re.S) if '"maps"' in text)
    spec = {name: value for name, value in json.loads(text).items() if name in ("ladder", "assign")}
    _bars(below, "kohya's, resolution 1024, from 512 to 2048 in steps of 64", spec)
    return figure


def images_of(spec: dict[str, Any]) -> tuple[list[str], np.ndarray]:
    """The sizes of a spec's buckets, and how many of COCO's images each has."""
    fields = PlanFields.model_validate({"world_size": 1, "batch_size": 1, **spec}).resolved()
    ladder = fields.ladder.build()
    _, widths, heights = np.loadtxt(COCO, dtype=np.int64, delimiter=",", skiprows=1, unpack=True)
    buckets = assign(widths, heights, ladder, metric=fields.assign.metric).buckets
    return [f"{width} x {height}" for width, height in ladder.sizes], np.bincount(
        buckets, minlength=len(ladder.sizes)
    )


def _bars(axes: Axes, title: str, spec: dict[str, Any]) -> None:
    sizes, counts = images_of(spec)
    at = np.arange(len(sizes))
    bars = axes.bar(at, counts, color=BLUE, width=0.75)
    axes.bar_label(bars, [f"{count:,}" if count else "" for count in counts], fontsize=6.5, padding=1)
    axes.set_title(f"{title}: {len(sizes)} buckets, {np.count_nonzero(counts)} with images", weight="bold")
    axes.set_xticks(at, sizes, rotation=90, fontsize=7.5)
    for label, count in zip(axes.get_xticklabels(), counts, strict=True):
        label.set_color("black" if count else GREY)
    axes.set_xlim(-0.7, len(sizes) - 0.3)
    axes.set_ylim(0, 1.1 * counts.max())
    axes.set_ylabel("images of 5,000")
    axes.tick_params(axis="x", length=0)
