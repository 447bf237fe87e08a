"""How long planning takes, and that it does not depend on N: `make bench`. benchmarks/RESULTS.md records the output.

Times are of CPU, by one thread, as an idle core would take; each is the median of several runs. ``--large`` adds
100,000,000 images (8 GB of memory).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

import bucketline_service
from bucketline_service.planning.buckets import ladder_generators as ladders
from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.distinct_sizes import distinct_sizes
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.line.permutation import (
    ROUNDS,
    SMALL,
    KeyedPermutations,
    epoch_words,
)
from bucketline_service.planning.line.planner import LinePlanner
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.plan_stats import epoch_stats
from bucketline_service.planning.planner_port import Planner
from bucketline_service.spec.run_spec import PlanFields

COCO = Path(bucketline_service.__file__).parent / "data" / "coco-5k.csv"
WORLD_SIZE, BATCH_SIZE, BLOCK = 8, 8, 64
SPEC = PlanSpec(
    "line", (ladders.novelai().by_aspect(),), BATCH_SIZE, 42, WORLD_SIZE, "shift", steps="balanced"
)
SAME_SHAPE = replace(SPEC, tails="spill", steps="same_shape")
PACKS = PlanFields(
    world_size=WORLD_SIZE,
    ladder={"kind": "native", "max_pixels": 2**18},
    pack={"max_tokens": 8_192},  # of which COCO's images fill one by about 8
).resolved()
Sizes = tuple[np.ndarray, np.ndarray]


def images(num: int, seed: int = 0) -> Sizes:
    """COCO's 5,000 validation images drawn with replacement, each side up to 16 pixels longer or shorter."""
    coco = np.loadtxt(COCO, dtype=np.int64, delimiter=",", skiprows=1, usecols=(1, 2))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(coco), num)
    sides = (coco[drawn, axis] + rng.integers(-16, 17, num) for axis in (0, 1))
    width, height = (np.maximum(side, 16).astype(np.uint32) for side in sides)
    return width, height


def median_ms(run: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        begin = time.process_time_ns()
        run()
        taken.append(time.process_time_ns() - begin)
    return statistics.median(taken) / 1e6


def of_packs(sizes: Sizes) -> PlanSpec:
    """The plan of packs for these images."""
    return PACKS.plan_spec(PACKS.fit([distinct_sizes(Part(*sizes))]))


def ready(sizes: Sizes, spec: PlanSpec = SPEC) -> Planner:
    """From sizes in memory to a planner and its stats."""
    of = Images.of(*sizes)
    prepared = prepare(spec, of)
    planner = new_planner(spec, prepared, of)
    epoch_stats(spec, prepared, of, planner, 0, WORLD_SIZE)
    return planner


def blocks(planner: Planner, times: int = 60) -> Iterator[tuple[str, float]]:
    """A block at the first, middle and last steps of two epochs: warm, and cold (an epoch that was not requested
    before)."""
    num = planner.num_batches(0, WORLD_SIZE)
    for base in (0, 1000):
        for where, first in (("first", 0), ("middle", (num - BLOCK) // 2), ("last", num - BLOCK)):
            positions = first + np.arange(BLOCK)
            fresh = iter(range(base, base + 10 * times))
            cold = median_ms(lambda: planner.batches(next(fresh), positions, WORLD_SIZE), times)  # noqa: B023
            planner.batches(base, positions, WORLD_SIZE)
            warm = median_ms(lambda: planner.batches(base, positions, WORLD_SIZE), times)  # noqa: B023
            yield f"epoch {base:>5,}, {where:<6} steps: cold", cold
            yield f"epoch {base:>5,}, {where:<6} steps: warm", warm


def many_small_buckets() -> LinePlanner:
    """The most a cold block can cost: no lockstep, and 100 buckets of as many images as are shuffled for real."""
    sides = np.arange(100) * 8 + 256
    ladder = ladders.explicit([(int(side), 640) for side in sides])
    widths = np.repeat(ladder.widths, SMALL).astype(np.uint32)
    spec = PlanSpec("line", (ladder,), BATCH_SIZE, 42, 1, "spill")
    planner = ready((widths, np.full(len(widths), 640, dtype=np.uint32)), spec)
    assert isinstance(planner, LinePlanner)
    return planner


def ns_an_id(n: int, count: int = 4096) -> float:
    permutations = KeyedPermutations(np.array([n]), epoch_words(1, 2, 0, ROUNDS))
    values = np.random.default_rng(1).integers(0, n, count)
    domains = np.zeros(count, dtype=np.int64)
    return median_ms(lambda: permutations.forward(domains, values), 100) * 1e6 / count


def scales(nums: list[int]) -> None:
    """Of three plans in turn, so that they can be compared."""
    head = ("ready", "ns per", "block of 64 x 8", "permutation", "floor over the")
    print(f"{'':>11}  {'':<10}  " + "{:>9}  {:>6}  {:>16}  {:>12}  {:>14}".format(*head))
    head = ("ms", "image", "least … most ms", "(N), ms", "dearest block")
    print(f"{'images':>11}  {'plan':<10}  " + "{:>9}  {:>6}  {:>16}  {:>12}  {:>14}".format(*head))
    for num in nums:
        sizes = images(num)
        times = 5 if num <= 10**7 else 1
        rng = np.random.default_rng(1)
        floor = median_ms(lambda: rng.permutation(num), times)  # noqa: B023
        plans = {"default": SPEC, "same_shape": SAME_SHAPE, "packs": of_packs(sizes)}
        for name, spec in plans.items():
            planner = ready(sizes, spec)
            took = median_ms(lambda: ready(sizes, spec), times)  # noqa: B023
            of_blocks = [ms for _, ms in blocks(planner)]
            span = f"{min(of_blocks):.2f} … {max(of_blocks):.2f}"
            ratio = f"x {floor / max(of_blocks):,.1f}"
            print(
                f"{num:>11,}  {name:<10}  {took:>9,.1f}  {took * 1e6 / num:>6,.0f}  {span:>16}  {floor:>12,.1f}"
                f"  {ratio:>14}"
            )


def details(num: int = 10**6) -> None:
    planner = ready(images(num))
    print(f"\nblock of {BLOCK} batches of {BATCH_SIZE}, {num:,} images, ms")
    for name, ms in blocks(planner):
        print(f"  {name:<36} {ms:.2f}")
    small = many_small_buckets()
    fresh = iter(range(1000))
    cold = median_ms(lambda: small.batches(next(fresh), np.arange(BLOCK), WORLD_SIZE), 60)
    print(f"  {f'100 buckets of {SMALL}, no lockstep: cold':<36} {cold:.2f}")
    rows = iter(np.random.default_rng(3).integers(0, num, 300).tolist())
    print(
        f"  {'where one image comes in an epoch':<36} {median_ms(lambda: planner.locate(0, next(rows), 8), 200):.2f}"
    )
    print("\nthe whole planner, ns per id in blocks of 512 batches of 8")
    sizes = images(num)
    for plan, spec in (("default", SPEC), ("same_shape", SAME_SHAPE), ("packs", of_packs(sizes))):
        planner = ready(sizes, spec)
        positions = planner.num_batches(0, WORLD_SIZE) // 2 + np.arange(512)
        fresh = iter(range(1000))
        for name, epochs in (("an epoch requested before", iter([0] * 200)), ("a fresh epoch", fresh)):
            took = median_ms(lambda: planner.batches(next(epochs), positions, WORLD_SIZE), 200)  # noqa: B023
            num_ids = len(planner.batches(0, positions, WORLD_SIZE).rows)
            print(f"  {f'{plan}, {name}':<36} {took * 1e6 / num_ids:.0f}")
    print("\nkeyed permutation, ns per id in blocks of 4,096 ids")
    for n in (100, 1000, 10**4, 10**6, 10**9, 10**12):
        print(f"  n = {n:<17,} {ns_an_id(n):.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="100,000,000 images as well")
    large = parser.parse_args().large
    scales([10**4, 10**5, 10**6, 10**7, *([10**8] if large else [])])
    details()


if __name__ == "__main__":
    main()
