"""What the default plan costs its users beside steps of one shape: crop, waiting, images left out, sizes that change.

``python -m benchmarks.default_plan``; no clock, so it is the same on every machine. benchmarks/RESULTS.md records the
output. Every number is counted from all batches of an epoch, or of so many epochs, not from what stats declare.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import numpy as np
from benchmarks.planning import COCO, images

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets import ladder_generators as ladders
from bucketline_service.planning.buckets.assignment import assign
from bucketline_service.planning.buckets.preset_ladders import preset
from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.geometry import crop_loss
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.planner_port import Planner

Sizes = tuple[np.ndarray, np.ndarray]
LADDERS = {"SDXL": preset("sdxl").by_aspect(), "NovelAI": ladders.novelai().by_aspect()}
BATCH_SIZE, NUM_EPOCHS, FAIR_EPOCHS = 8, 60, 2_000
FAIR = ((500, "NovelAI", 8, 16), (500, "SDXL", 8, 8), (5_000, "NovelAI", 8, 64), (5_000, "SDXL", 16, 24))
"""Images, ladder, batch size and ranks. The last has no batch left over: what it leaves out is the remainder alone."""
WAYS = {
    "one shape": {"steps": "same_shape", "tails": "spill"},
    "default": {"steps": "balanced", "tails": "shift"},
}


def coco(num: int) -> Sizes:
    table = np.loadtxt(COCO, dtype=np.uint32, delimiter=",", skiprows=1, usecols=(1, 2))[:num]
    return table[:, 0].copy(), table[:, 1].copy()


def web_like(num: int) -> Sizes:
    """Areas of 0.05 to 6 megapixels, lognormal, and aspects of a spread of 0.45 in the logarithm."""
    rng = np.random.default_rng(0)
    area = np.clip(np.exp(rng.normal(np.log(0.9e6), 0.9, num)), 5e4, 6e6)
    aspect = np.exp(rng.normal(0.1, 0.45, num))
    return np.sqrt(area * aspect).astype(np.uint32), np.sqrt(area / aspect).astype(np.uint32)


SETS = {
    "COCO 500, 8 ranks": (coco(500), 8),
    "COCO 5,000, 64 ranks": (coco(5_000), 64),
    "COCO 5,000, 256 ranks": (coco(5_000), 256),
    "as COCO 20,000, 64 ranks": (images(20_000), 64),
    "web-like 8,121, 64 ranks": (web_like(8_121), 64),
}


@dataclass(frozen=True)
class Told:
    """Means over the epochs: share of an image cropped away as served; sum of each step's dearest batch, in pixels,
    over that of the means; share of the images left out. ``resized``: images that come in more than one size;
    ``never``: that never come."""

    crop: float
    imbalance: float
    left_out: float
    resized: int
    never: int


def planned(spec: PlanSpec, sizes: Sizes) -> Planner:
    of = Images([Part(*sizes)])
    return new_planner(spec, prepare(spec, of), of)


def counted(spec: PlanSpec, sizes: Sizes, num_epochs: int) -> Told:
    planner, world_size = planned(spec, sizes), spec.lockstep
    targets = np.array(spec.targets)
    first_size = np.full(len(sizes[0]), -1)
    is_resized = np.zeros(len(sizes[0]), dtype=bool)
    crop = dearest = mean = served = 0.0
    for epoch in range(num_epochs):
        block = planner.batches(epoch, np.arange(planner.num_batches(epoch, world_size)), world_size)
        buckets = np.repeat(block.buckets, np.diff(block.bounds))
        crop += crop_loss(sizes[0][block.rows], sizes[1][block.rows], *targets[buckets].T).sum()
        pixels = spec.pixels[block.buckets].reshape(-1, world_size)
        dearest += pixels.max(axis=1).sum()
        mean += pixels.mean(axis=1).sum()
        served += len(block.rows)
        before = first_size[block.rows]
        is_resized[block.rows[(before >= 0) & (before != buckets)]] = True
        first_size[block.rows] = buckets
    whole = num_epochs * len(sizes[0])
    return Told(
        crop / served, dearest / mean, 1 - served / whole, int(is_resized.sum()), int((first_size < 0).sum())
    )


def fairness(spec: PlanSpec, sizes: Sizes) -> float:
    """Chi-squared a degree of freedom of how often each image is left out; 1 is chance."""
    planner = planned(spec, sizes)
    num = len(sizes[0])
    out = np.full(num, FAIR_EPOCHS)
    for epoch in range(FAIR_EPOCHS):
        out[planner.batches(epoch, np.arange(planner.num_batches(epoch, 1)), 1).rows] -= 1
    share = out.sum() / (num * FAIR_EPOCHS)
    return float(((out - FAIR_EPOCHS * share) ** 2).sum() / (FAIR_EPOCHS * share * (1 - share)) / (num - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fairness", action="store_true", help=f"count {FAIR_EPOCHS:,} epochs as well")
    counts_fairness = parser.parse_args().fairness
    print(f"batches of {BATCH_SIZE}, {NUM_EPOCHS} epochs")
    print(
        f"{'':41}  nearest  steps      cropped  beyond  imbalance  left out  in several sizes  never served"
    )
    for name, (sizes, world_size) in SETS.items():
        for ladder_name, ladder in LADDERS.items():
            own = assign(*sizes, ladder).buckets
            nearest = float(crop_loss(*sizes, ladder.widths[own], ladder.heights[own]).mean())
            for way, fields in WAYS.items():
                spec = PlanSpec("line", (ladder,), BATCH_SIZE, 42, world_size, **fields)  # type: ignore[arg-type]
                told = counted(spec, sizes, NUM_EPOCHS)
                print(
                    f"{f'{name}, {ladder_name}':41}  {nearest:7.2%}  {way:9}  {told.crop:7.2%}  "
                    f"{100 * (told.crop - nearest):+5.2f}  {told.imbalance:9.4f}  {told.left_out:8.2%}  "
                    f"{told.resized:16,}  {told.never:12,}",
                    flush=True,
                )
    thirty = np.array([(3, 2)] * 14 + [(1, 1)] * 5 + [(2, 3)] * 11, dtype=np.uint32).T * 100
    ladder = ladders.explicit([(768, 512), (512, 512), (512, 768)]).by_aspect()
    for way, fields in WAYS.items():
        spec = PlanSpec("line", (ladder,), 4, 42, 4, **fields)  # type: ignore[arg-type]
        told = counted(spec, (thirty[0].copy(), thirty[1].copy()), NUM_EPOCHS)
        print(f"30 images of three aspects, 4 ranks x 4, {way}: {told.never} never served")
    if counts_fairness:
        for num, ladder_name, batch_size, lockstep in FAIR:
            spec = PlanSpec(
                "line", (LADDERS[ladder_name],), batch_size, 42, lockstep, "shift", steps="balanced"
            )
            for way, each in (
                ("default", spec),
                ("one shape", replace(spec, steps="same_shape", tails="spill")),
            ):
                try:
                    told_fairness = fairness(each, coco(num))
                except Invalid:
                    continue
                print(
                    f"COCO {num:,}, {ladder_name}, {batch_size} x {lockstep}, {way}: chi-squared a degree of freedom "
                    f"{told_fairness:.3f}"
                )


if __name__ == "__main__":
    main()
