"""How full packs are, of how few kinds, and how long it takes to find them, beside packing greedily: `make bench`.

Two data sets: COCO's 5,000 validation images, also repeated to the 117,263 of its training set, and 100,000 sizes like
those of the web, of areas from 0.05 to 6 megapixels. Each image at its native size of at most 2**20 pixels in cells of
16. Greedy is what packers in data loaders do: a window of 64 images in random order, of which each pack takes the
longest that still fits. Seconds are of CPU, on one thread.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

import bucketline_service
from bucketline_service.planning.packing.native_sizes import NativeSizes
from bucketline_service.planning.packing.pack_kinds import fit_pack_kinds
from bucketline_service.planning.packing.pack_stats import pack_stats

COCO = Path(bucketline_service.__file__).parent / "data" / "coco-5k.csv"
NATIVE = NativeSizes.of(1 << 20, 16)
BUDGETS = (4_096, 16_384, 65_536)
NUM_LENGTHS = 32
WINDOW = 64


def coco() -> np.ndarray:
    """Tokens of each image."""
    widths, heights = np.loadtxt(COCO, dtype=np.int64, delimiter=",", skiprows=1, usecols=(1, 2)).T
    return NATIVE.tokens(*NATIVE.sizes(widths, heights))


def web(num: int = 100_000) -> np.ndarray:
    """Tokens of images with lognormal areas, of median 0.9 megapixels and sigma 0.9, and lognormal aspects, of median
    1.1 and sigma 0.45."""
    rng = np.random.default_rng(0)
    areas = np.clip(np.exp(rng.normal(np.log(0.9e6), 0.9, num)), 0.05e6, 6e6)
    aspects = np.exp(rng.normal(0.1, 0.45, num))
    widths, heights = np.sqrt(areas * aspects), np.sqrt(areas / aspects)
    return NATIVE.tokens(*NATIVE.sizes(widths.astype(np.int64), heights.astype(np.int64)))


def greedy(tokens: np.ndarray, max_tokens: int) -> tuple[float, int]:
    """How full the packs are, and how many of them differ."""
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
    return float(tokens.sum() / (len(packs) * max_tokens)), len(set(packs))


def row(name: str, tokens: np.ndarray, max_tokens: int) -> str:
    begin = time.process_time()
    packs = fit_pack_kinds(*np.unique(tokens, return_counts=True), max_tokens, NUM_LENGTHS)
    seconds = time.process_time() - begin
    stats = pack_stats(packs, *np.unique(tokens, return_counts=True))
    full, num_kinds = greedy(tokens, max_tokens)
    most = (stats.left_out / stats.num_images).max()
    cells = [
        name,
        f"{max_tokens:,}",
        f"{packs.num_packs:,}",
        f"{stats.fill:.2%}",
        f"{stats.padding:.2%}",
        f"{len(packs.kinds)}",
        f"{stats.left_out_share:.2%} ({most:.2%})",
        f"{seconds:.2f}",
        f"{full:.2%}",
        f"{num_kinds:,}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    header = [
        "images",
        "tokens",
        "packs",
        "full",
        "padding",
        "kinds",
        "left out (most of a length)",
        "seconds",
    ]
    print(f"| {' | '.join([*header, 'greedy: full', 'kinds'])} |")
    print(f"|{' --- |' * (len(header) + 2)}")
    sets = {"COCO 5,000": coco(), "COCO 117,263": np.resize(coco(), 117_263), "web 100,000": web()}
    for name, tokens in sets.items():
        for max_tokens in BUDGETS:
            print(row(name, tokens, max_tokens), flush=True)


if __name__ == "__main__":
    main()
