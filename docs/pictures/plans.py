"""The plans that docs/concepts/planning.md compares: 500 photos on 8 ranks, with steps of one shape and with balanced
ones. All numbers are counted in what the planner gives for epoch 0."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.geometry import crop_loss
from bucketline_service.planning.images import Images
from bucketline_service.planning.line.image_classes import ImageClassifier
from bucketline_service.planning.plan_stats import epoch_stats
from bucketline_service.planning.planner_port import Planner
from bucketline_service.spec.run_spec import PlanFields

ROOT = Path(__file__).parents[2]
COCO = ROOT / "service" / "bucketline_service" / "data" / "coco-5k.csv"
NUM_IMAGES, WORLD_SIZE, BATCH_SIZE, NUM_EPOCHS = 500, 8, 8, 20
SAME_SHAPE, BALANCED = {"steps": "same_shape"}, {"steps": "balanced"}
LADDERS: dict[str, dict[str, Any]] = {
    "NovelAI": {"kind": "novelai"},
    "SDXL": {"kind": "preset", "name": "sdxl"},
}


@dataclass(frozen=True)
class Plan:
    """``sizes`` int64[B, 2]: (width, height) of each bucket, in order of aspect. Of each image, int64[N]: ``nearest``,
    the bucket that it is assigned to, and ``buckets``, the one that it belongs to in the plan. Of the images that epoch
    0 serves, int64[M]: ``rows``, and the bucket that serves each, ``served``. ``steps`` int64[S, R]: the bucket of each
    rank's batch at each step. ``stats``: of epoch 0. ``images`` uint32[N, 2]: their (width, height)."""

    images: np.ndarray
    sizes: np.ndarray
    nearest: np.ndarray
    buckets: np.ndarray
    rows: np.ndarray
    served: np.ndarray
    steps: np.ndarray
    stats: dict[str, Any]
    planner: Planner

    def crops(self, rows: np.ndarray, buckets: np.ndarray) -> np.ndarray:
        """float64[n]: the share of each image that is cropped away in a bucket."""
        return crop_loss(*self.images[rows].T.astype(np.int64), *self.sizes[buckets].T)

    @property
    def nearest_crops(self) -> np.ndarray:
        """float64[N]: of each image in its nearest bucket."""
        return self.crops(np.arange(len(self.images)), self.nearest)

    @property
    def served_crops(self) -> np.ndarray:
        """float64[M]: as epoch 0 serves them."""
        return self.crops(self.rows, self.served)

    @property
    def left_out(self) -> np.ndarray:
        """The images that epoch 0 does not serve."""
        return np.setdiff1d(np.arange(len(self.images)), self.rows)

    @property
    def pixels(self) -> np.ndarray:
        """int64[S, R]: of each rank's batch at each step."""
        return BATCH_SIZE * self.sizes.prod(axis=1)[self.steps]

    @property
    def imbalance(self) -> float:
        """The sum of each step's dearest batch over the sum of each step's mean batch."""
        return float(self.pixels.max(axis=1).sum() / self.pixels.mean(axis=1).sum())

    def num_of_several_sizes(self, num_epochs: int) -> int:
        """How many images these epochs serve in more than one bucket."""
        pairs = set()
        for epoch in range(num_epochs):
            block = self.planner.batches(epoch, np.arange(self.steps.size), WORLD_SIZE)
            pairs |= set(zip(block.rows.tolist(), np.repeat(block.buckets, BATCH_SIZE).tolist(), strict=True))
        return sum(times > 1 for times in Counter(row for row, _ in pairs).values())


@cache
def photos() -> np.ndarray:
    """uint32[N, 2]: (width, height) of the first of COCO's validation images."""
    return np.loadtxt(COCO, dtype=np.uint32, delimiter=",", skiprows=1, max_rows=NUM_IMAGES)[:, 1:]


def planned(ladder: str, **fields: Any) -> Plan:
    given = {"world_size": WORLD_SIZE, "batch_size": BATCH_SIZE, "ladder": LADDERS[ladder], **fields}
    spec = PlanFields.model_validate(given).resolved().plan_spec()
    sizes = photos()
    images = Images.of(sizes[:, 0].copy(), sizes[:, 1].copy())
    prepared = prepare(spec, images)
    planner = new_planner(spec, prepared, images)
    classifier = ImageClassifier(spec, images)
    keys, _ = classifier.keys(images.read(0, len(sizes)))
    nearest, buckets = (
        np.array([classifier.ways(key)[0][0] for key in of.tolist()]) for of in (keys, prepared.move(keys, 0))
    )
    num_steps = planner.num_batches(0, WORLD_SIZE) // WORLD_SIZE
    block = planner.batches(0, np.arange(num_steps * WORLD_SIZE), WORLD_SIZE)
    return Plan(
        images=sizes,
        sizes=np.array(spec.targets, dtype=np.int64),
        nearest=nearest,
        buckets=buckets,
        rows=block.rows,
        served=np.repeat(block.buckets, np.diff(block.bounds)),
        steps=block.buckets.reshape(num_steps, WORLD_SIZE),
        stats=epoch_stats(spec, prepared, images, planner, 0, WORLD_SIZE),
        planner=planner,
    )


def table() -> list[str]:
    """The rows of the page's table: what the stats, and so ``bucketline preview``, say of these plans."""
    rows = []
    for ladder in LADDERS:
        for fields in (SAME_SHAPE, BALANCED):
            plan = planned(ladder, **fields)
            stats = plan.stats
            cells = (
                ladder,
                f"`{fields['steps']}`, `{stats['tails']}`",
                f"{stats['crop_loss']['mean']:.2%}",
                f"{stats['crop_loss_served']:.2%}",
                stats["spilled"] + stats["moved"],
                plan.num_of_several_sizes(NUM_EPOCHS),
                stats["num_shapes"],
                f"{stats['mixed_steps']} of {stats['num_steps']}",
                f"{stats['step_imbalance']:.3f}",
            )
            rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows
