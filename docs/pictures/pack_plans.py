"""The packs that docs/concepts/packs.md compares: filled greedily by each rank for itself, and planned. Of one epoch,
in tokens of 16 x 16 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from docs.pictures.plans import COCO

from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.packing.native_sizes import NativeSizes
from bucketline_service.planning.packing.packing import Packing
from bucketline_service.planning.plan_stats import epoch_stats
from bucketline_service.planning.planner_port import Planner
from bucketline_service.spec.run_spec import PlanFields

WORLD_SIZE, MAX_TOKENS, WINDOW, HIDDEN_SIZE = 8, 16_384, 64, 1_152
NATIVE = NativeSizes.of(1 << 20, 16)


@dataclass(frozen=True)
class Packed:
    """The packs of each step, ``[step][rank]``: ``tokens`` int64[n] of the images of each, and ``slots`` int64[n], the
    tokens that are reserved for them. ``stats``: what the plan says of itself, of a planned epoch."""

    tokens: list[list[np.ndarray]]
    slots: list[list[np.ndarray]]
    stats: dict[str, Any] | None = None

    @property
    def full(self) -> float:
        """The share of all packs' tokens that are tokens of images."""
        of_packs = [pack.sum() for step in self.tokens for pack in step]
        return float(np.mean(of_packs) / MAX_TOKENS)

    @property
    def num_kinds(self) -> int:
        """How many packs differ in their slots."""
        return len({tuple(sorted(pack.tolist())) for step in self.slots for pack in step})

    @property
    def attention(self) -> np.ndarray:
        """int64[S, R]: the squared tokens of each pack's slots."""
        return np.array([[(pack**2).sum() for pack in step] for step in self.slots])

    @property
    def imbalance(self) -> float:
        """Of attention: the sum of each step's dearest pack over the sum of each step's mean pack."""
        return _imbalance(self.attention)

    @property
    def work_imbalance(self) -> float:
        """The same of all that a transformer of ``HIDDEN_SIZE`` computes: of tokens, and of attention to them."""
        slots = np.array([[pack.sum() for pack in step] for step in self.slots])
        return _imbalance(slots + self.attention / (6 * HIDDEN_SIZE))


@cache
def photos() -> np.ndarray:
    """uint32[N, 2]: (width, height) of COCO's validation images."""
    return np.loadtxt(COCO, dtype=np.uint32, delimiter=",", skiprows=1)[:, 1:]


def web_like(num_images: int = 100_000) -> np.ndarray:
    """uint32[N, 2]: sizes as those of ``benchmarks/packing.py``."""
    rng = np.random.default_rng(0)
    areas = np.clip(np.exp(rng.normal(np.log(0.9e6), 0.9, num_images)), 0.05e6, 6e6)
    aspects = np.exp(rng.normal(0.1, 0.45, num_images))
    return np.stack([np.sqrt(areas * aspects), np.sqrt(areas / aspects)], axis=1).astype(np.uint32)


def tokens_of(sizes: np.ndarray) -> np.ndarray:
    """int64[N]: of each image at its native size."""
    return NATIVE.tokens(*NATIVE.sizes(*sizes.T.astype(np.int64)))


class Plan(NamedTuple):
    """``stats``: of epoch 0."""

    packing: Packing
    planner: Planner
    stats: dict[str, Any]


def plan(sizes: np.ndarray, world_size: int, num_lengths: int = 32) -> Plan:
    ladder = {"kind": "native", "num_lengths": num_lengths}
    given = {"world_size": world_size, "ladder": ladder, "pack": {"max_tokens": MAX_TOKENS}}
    fields = PlanFields.model_validate(given).resolved()
    part = Part(sizes[:, 0].copy(), sizes[:, 1].copy())
    spec, images = fields.plan_spec(fields.fit([part])), Images([part])
    assert spec.packing is not None
    prepared = prepare(spec, images)
    planner = new_planner(spec, prepared, images)
    return Plan(spec.packing, planner, epoch_stats(spec, prepared, images, planner, 0, world_size))


def planned(sizes: np.ndarray, world_size: int = WORLD_SIZE) -> Packed:
    """Epoch 0 of a run of these images."""
    packing, planner, stats = plan(sizes, world_size)
    num_steps = planner.num_batches(0, world_size) // world_size
    block = planner.batches(0, np.arange(num_steps * world_size), world_size)
    tokens = np.split(tokens_of(sizes)[block.rows], block.bounds[1:-1])
    slots = [np.array(packing.slot_lengths(kind)) for kind in block.buckets.tolist()]
    return Packed(_by_step(tokens, world_size), _by_step(slots, world_size), stats)


def greedy(sizes: np.ndarray, world_size: int = WORLD_SIZE) -> Packed:
    """What packers in data loaders do: each rank has its share of the shuffled images and a window of 64 of them, of
    which each pack takes the longest that still fits. The epoch ends where the images of a rank no longer fill one."""
    shuffled = np.random.default_rng(0).permutation(tokens_of(sizes))
    of_ranks = [list(_filled(shuffled[rank::world_size].tolist())) for rank in range(world_size)]
    steps = [list(step) for step in zip(*of_ranks, strict=False)]
    return Packed(steps, steps)


def _filled(waiting: list[int]) -> Iterator[np.ndarray]:
    window, waiting = sorted(waiting[:WINDOW]), waiting[WINDOW:][::-1]
    while sum(window) >= MAX_TOKENS:
        room, pack = MAX_TOKENS, []
        for at in range(len(window) - 1, -1, -1):
            if window[at] <= room:
                room -= window[at]
                pack.append(window.pop(at))
        yield np.array(pack)
        window = sorted(window + [waiting.pop() for _ in range(min(len(pack), len(waiting)))])


def _by_step(packs: list[np.ndarray], world_size: int) -> list[list[np.ndarray]]:
    return [packs[at : at + world_size] for at in range(0, len(packs), world_size)]


def _imbalance(costs: np.ndarray) -> float:
    return float(costs.max(axis=1).sum() / costs.mean(axis=1).sum())


def left_out(num_epochs: int) -> tuple[np.ndarray, np.ndarray]:
    """Of COCO's images on 8 ranks: in which share of these epochs each is left out, float64[N], and the length of its
    slot, int64[N]."""
    packing, planner, _ = plan(photos(), WORLD_SIZE)
    num = np.zeros(len(photos()), dtype=np.int64)
    for epoch in range(num_epochs):
        positions = np.arange(planner.num_batches(epoch, WORLD_SIZE))
        num += np.bincount(planner.batches(epoch, positions, WORLD_SIZE).rows, minlength=len(num))
    lengths = packing.packs.lengths
    return 1 - num / num_epochs, lengths[np.searchsorted(lengths, tokens_of(photos()))]


def table() -> list[str]:
    """The rows of the page's table."""
    rows = []
    sets = {"COCO, 117,263": np.resize(photos(), (117_263, 2)), "web-like, 100,000": web_like()}
    for name, sizes in sets.items():
        for title, pack in (("greedy", greedy), ("planned", planned)):
            found = {world_size: pack(sizes, world_size) for world_size in (8, 64, 256)}
            cells = [name, title, f"{found[8].full:.1%}", f"{found[8].num_kinds:,}"]
            cells += [f"{each.imbalance:.3f}" for each in found.values()]
            cells += [f"{found[64].work_imbalance:.3f}"]
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def table_of_lengths() -> list[str]:
    """The rows of the page's table of ``num_lengths``: web-like images on 8 ranks."""
    rows = []
    for num_lengths in (8, 16, 32, 64):
        packs = plan(web_like(), WORLD_SIZE, num_lengths).stats["packs"]
        cells = [num_lengths, packs["num_kinds"], f"{packs['full']:.1%}", f"{packs['padding']:.1%}"]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows
