"""What a measured cost is worth: a small diffusion transformer, timed through a real coordinator on this machine's CPU.

    python benchmarks/cost.py [--repeats 9]    # make bench-cost, in the venv with torch

The ladder is SDXL's, at a quarter and at half of its sides. Prints how far a cost that is fitted to half of the shapes
is from timings of the other half, beside costs that are proportional to pixels and to a transformer's work; and how
long ranks wait for each other (the sum of each step's slowest rank over the sum of the ranks' mean), with batches of
equal pixels and of equal cost, each grouped into steps by pixels and by measured cost. Costs and waiting are of
different measurements of the same shapes, in CPU time of one thread.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bucketline import Batch, BucketClient, Operator
from bucketline.torch import MeasuredCost, Timing, measure_cost
from bucketline_service.planning import batch_cost
from bucketline_service.planning.buckets.preset_ladders import PRESETS

COCO = Path(__file__).parents[1] / "service" / "bucketline_service" / "data" / "coco-5k.csv"
HIDDEN_SIZE, PATCH = 64, 16
WORLD_SIZE = 8
LARGE = 1
"""Images of a batch of 512 x 512; one of 256 x 256 has four times as many."""
MAX_PIXELS = LARGE * 512 * 512
SIZES = [size for size in sorted(PRESETS["sdxl"]) if max(size) <= 1.6 * min(size)][::2]
LADDER = {
    "kind": "tiers",
    "choose": "every",
    "ladders": [
        {"kind": "explicit", "sizes": [[width // by, height // by] for width, height in SIZES]}
        for by in (4, 2)
    ],
}


class Block(torch.nn.Module):
    """A block of DiT (Peebles and Xie, 2022), without its conditioning."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(HIDDEN_SIZE) for _ in range(2))
        self.attention = torch.nn.MultiheadAttention(HIDDEN_SIZE, 4, batch_first=True)
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(HIDDEN_SIZE, 4 * HIDDEN_SIZE),
            torch.nn.GELU(),
            torch.nn.Linear(4 * HIDDEN_SIZE, HIDDEN_SIZE),
        )

    def forward(self, tokens: Any) -> Any:
        x = self.norms[0](tokens)
        tokens = tokens + self.attention(x, x, x, need_weights=False)[0]
        return tokens + self.mlp(self.norms[1](tokens))


class Step:
    """A training step, on random pixels of the batch's size."""

    def __init__(self) -> None:
        self.model = Block()
        self.optimizer = torch.optim.AdamW(self.model.parameters())

    def __call__(self, batch: Batch) -> None:
        num_tokens = (batch.width // PATCH) * (batch.height // PATCH)
        self.model(torch.randn(len(batch.ids), num_tokens, HIDDEN_SIZE)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


@contextmanager
def coordinator() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bucketline", "serve", "--port", "0", "--data-dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()[-1]
        finally:
            server.terminate()
            server.communicate()


def cost_of(timings: list[Timing]) -> batch_cost.MeasuredCost:
    rows = sorted(batch_cost.Timing(t.width, t.height, 1, t.batch_size, t.seconds or 0.0) for t in timings)
    return batch_cost.MeasuredCost(tuple(rows))


def costs(cost: batch_cost.BatchCost, timings: list[Timing]) -> np.ndarray:
    shapes = batch_cost.Shapes(*np.array([(t.width, t.height, 1) for t in timings]).T)
    return cost.of(shapes, np.array([t.batch_size for t in timings]))


def seconds(timings: list[Timing]) -> np.ndarray:
    return np.array([timing.seconds for timing in timings])


def report_fit(measured: list[Timing], again: list[Timing]) -> None:
    """Fitted to every other shape of one measurement, compared with the others of the second."""
    known, held_back = measured[::2], again[1::2]
    print(f"{len(known)} shapes are fitted, {len(held_back)} held back; error over the held-back timings")
    fitted = cost_of(known)
    unfitted = {
        "pixels": batch_cost.PixelCost(),
        f"transformer, hidden_size {HIDDEN_SIZE}": batch_cost.TransformerCost(HIDDEN_SIZE, PATCH),
    }
    found = {"measured": costs(fitted, held_back)}
    for name, cost in unfitted.items():  # as many seconds a unit as fit the known ones best
        scale = float(np.median(seconds(known) / costs(cost, known)))
        found[name] = scale * costs(cost, held_back)
    found["a second measurement"] = seconds(measured[1::2])
    for name, estimate in found.items():
        errors = np.abs(estimate / seconds(held_back) - 1)
        print(
            f"  {name:<30} mean {errors.mean():6.1%}   median {np.median(errors):6.1%}   max {errors.max():6.1%}"
        )


def waiting(order_by: np.ndarray, took: np.ndarray, num_batches: np.ndarray) -> float:
    """Of steps of ``WORLD_SIZE`` batches next to each other in order of ``order_by``, in any order where that is equal.
    Arguments [shapes]."""
    each = np.repeat(np.arange(len(took)), num_batches)
    each = np.random.default_rng(1).permutation(each)
    each = each[np.argsort(order_by[each], kind="stable")]
    steps = took[each][: len(each) // WORLD_SIZE * WORLD_SIZE].reshape(-1, WORLD_SIZE)
    return float(steps.max(axis=1).sum() / steps.mean(axis=1).sum())


def report_waiting(name: str, measured: list[Timing], again: list[Timing], num_batches: np.ndarray) -> None:
    took, cost = seconds(again), costs(cost_of(measured), again)
    orders = {
        "no order": np.zeros(len(took)),
        "pixels": costs(batch_cost.PixelCost(), again),
        "measured cost": cost,
    }
    for order, order_by in orders.items():
        print(f"  {name:<22} grouped by {order:<14} {waiting(order_by, took, num_batches):6.3f}")


def num_batches_of(operator: Operator, run: str, timings: list[Timing]) -> np.ndarray:
    buckets = operator.stats(run)["buckets"]
    found = {(bucket["width"], bucket["height"]): bucket["num_batches"] for bucket in buckets}
    return np.array([found[timing.width, timing.height] for timing in timings])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.manual_seed(0)
    torch.set_num_threads(1)
    step = Step()
    spec = {"map": "coco", "world_size": 1, "ladder": LADDER}
    with coordinator() as url, Operator(url) as operator:

        def measure(run: str) -> MeasuredCost:
            return measure_cost(
                step, BucketClient(url, run), warmup=1, repeats=repeats, clock=time.process_time
            )

        operator.put_map("coco", COCO)
        operator.put_run("pixels", {**spec, "max_pixels_per_batch": MAX_PIXELS})
        first, second = measure("pixels"), measure("pixels")
        measured, again = list(first.timings), list(second.timings)
        report_fit(measured, again)
        largest = max(timing.seconds or 0 for timing in measured)
        budget = {"cost": first.cost, "max_cost_per_batch": largest, "max_batch_size": 64}
        operator.put_run("cost", {**spec, **budget})
        print(f"waiting on {WORLD_SIZE} ranks; 1 is none")
        report_waiting("equal pixels", measured, again, num_batches_of(operator, "pixels", again))
        even = list(measure("cost").timings)
        report_waiting("at most equal cost", measured, even, num_batches_of(operator, "cost", even))


if __name__ == "__main__":
    main()
