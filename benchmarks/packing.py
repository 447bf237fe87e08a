"""How full packs are, of how few kinds, and how even the steps of 64 ranks, beside packing greedily: `make bench`.

Two data sets: COCO's 5,000 validation images, also repeated to the 117,263 of its training set, and 100,000 sizes like
those of the web, of areas from 0.05 to 6 megapixels. Each image at its native size of at most 2**20 pixels in cells of
16. Greedy is what packers in data loaders do: a window of 64 images in random order, of which each pack takes the
longest that still fits; packs go to the ranks in turn. The attention of a pack is the sum of the squares of its slots'
lengths, and its imbalance the sum of each step's most over the sum of each step's mean. Seconds are of CPU, on one
thread, from the images to the stats of the plan.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

import bucketline_service
from bucketline_service.planning.distinct_sizes import distinct_sizes
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.packing.native_sizes import NativeSizes
from bucketline_service.previews.estimate import estimate_from_sizes
from bucketline_service.spec.run_spec import PlanFields

COCO = Path(bucketline_service.__file__).parent / "data" / "coco-5k.csv"
NATIVE = NativeSizes.of(1 << 20, 16)
BUDGETS = (4_096, 16_384, 65_536)
WINDOW = 64
WORLD_SIZE = 64


def coco(num: int = 5_000) -> Part:
    sides = np.loadtxt(COCO, dtype=np.uint32, delimiter=",", skiprows=1, usecols=(1, 2)).T
    return Part(*(np.resize(side, num) for side in sides))


def web(num: int = 100_000) -> Part:
    """Images with lognormal areas, of median 0.9 megapixels and sigma 0.9, and lognormal aspects, of median 1.1 and
    sigma 0.45."""
    rng = np.random.default_rng(0)
    areas = np.clip(np.exp(rng.normal(np.log(0.9e6), 0.9, num)), 0.05e6, 6e6)
    aspects = np.exp(rng.normal(0.1, 0.45, num))
    return Part(np.sqrt(areas * aspects).astype(np.uint32), np.sqrt(areas / aspects).astype(np.uint32))


def greedy(tokens: np.ndarray, max_tokens: int) -> tuple[float, int, float]:
    """How full the packs are, how many of them differ, and the imbalance of their attention."""
    waiting = np.random.default_rng(1).permutation(tokens).tolist()
    window, waiting = sorted(waiting[:WINDOW]), waiting[WINDOW:][::-1]
    packs: list[tuple[int, ...]] = []
    while window:
        room, pack = max_tokens, []
        for at in range(len(window) - 1, -1, -1):
            if window[at] <= room:
                room -= window[at]
                pack.append(window.pop(at))
        packs.append(tuple(pack))
        window = sorted(window + [waiting.pop() for _ in range(min(len(pack), len(waiting)))])
    attention = np.array([sum(length**2 for length in pack) for pack in packs], dtype=np.float64)
    steps = attention[: len(packs) // WORLD_SIZE * WORLD_SIZE].reshape(-1, WORLD_SIZE)
    imbalance = steps.max(axis=1).sum() / steps.mean(axis=1).sum() if len(steps) else np.nan
    return float(tokens.sum() / (len(packs) * max_tokens)), len(set(packs)), float(imbalance)


def row(name: str, part: Part, max_tokens: int) -> str:
    begin = time.process_time()
    given = {"ladder": "native", "pack": {"max_tokens": max_tokens}, "world_size": WORLD_SIZE}
    spec = PlanFields.model_validate(given).resolved()
    sizes = [distinct_sizes(part)]
    stats = estimate_from_sizes(spec.plan_spec(spec.fit(sizes)), Images(sizes), WORLD_SIZE)
    seconds = time.process_time() - begin
    packs = stats["packs"]
    sides = part.widths.astype(np.int64), part.heights.astype(np.int64)
    full, num_kinds, imbalance = greedy(NATIVE.tokens(*NATIVE.sizes(*sides)), max_tokens)
    cells = [
        name,
        f"{max_tokens:,}",
        f"{stats['num_batches']:,}",
        f"{packs['full']:.2%}",
        f"{packs['padding']:.2%}",
        f"{packs['num_kinds']}",
        f"{packs['attention_imbalance']:.3f}",
        f"{stats['dropped'] / stats['num_samples']:.2%}",
        f"{seconds:.2f}",
        f"{full:.2%}",
        f"{num_kinds:,}",
        f"{imbalance:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    own = ["images", "tokens", "packs", "full", "padding", "kinds", "attention", "left out", "seconds"]
    header = [*own, "greedy: full", "kinds", "attention"]
    print(f"| {' | '.join(header)} |")
    print(f"|{' --- |' * len(header)}")
    sets = {"COCO 5,000": coco(), "COCO 117,263": coco(117_263), "web 100,000": web()}
    for name, part in sets.items():
        for max_tokens in BUDGETS:
            print(row(name, part, max_tokens), flush=True)


if __name__ == "__main__":
    main()
