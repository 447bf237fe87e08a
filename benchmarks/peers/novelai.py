"""NovelAI's BucketManager, reimplemented as in a trainer: a dict of sizes, an argmin per image, sets and lists per
epoch.

After NovelAI/novelai-aspect-ratio-bucketing, bucketmanager.py (2022). tests/planning/test_peers_novelai.py compares it
with sequences recorded from the original. In one thing it is faster: a batch is deleted from the front of its list in
place, where the original copies the rest of the list for every batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from peers import Job

Size = tuple[int, int]
LEFT_OVER = -1


def ladder(
    max_size: Size = (768, 512),
    base_res: Size = (512, 512),
    min_dim: int = 256,
    dim_limit: int = 1024,
    step: int = 64,
) -> dict[Size, float]:
    """The aspect of each resolution, in the original's order."""
    area = max_size[0] * max_size[1]
    aspects: dict[Size, float] = {}
    for is_wide in (False, True):
        side = min_dim
        while side * min_dim <= area and side <= dim_limit:
            other = min_dim
            has_base = False
            while side * (other + step) <= area and other + step <= dim_limit:
                has_base = has_base or (side, other) == base_res
                other += step
            if has_base and not is_wide and (side, other) != base_res:
                aspects[base_res] = 1.0
            size = (other, side) if is_wide else (side, other)
            aspects[size] = size[0] / size[1]
            side += step
    return dict(sorted(aspects.items(), key=lambda item: item[0][0] * 4096 - item[0][1]))


class BucketManager:
    """One rank. ``sizes``: id -> (width, height), pruned in place; ``aspects``: resolution -> aspect."""

    def __init__(
        self,
        sizes: dict[int, Size],
        aspects: dict[Size, float],
        *,
        batch_size: int,
        world_size: int,
        rank: int,
        seed: int,
        base_res: Size = (512, 512),
        max_ar_error: float = 4,
    ) -> None:
        self.sizes, self.base_res = sizes, base_res
        self.resolutions = list(aspects)
        self.aspects = np.array(list(aspects.values()))
        self.batch_size, self.world_size, self.rank = batch_size, world_size, rank
        self.max_ar_error = max_ar_error
        self.prng = np.random.RandomState(seed)
        self.epoch_prng = np.random.RandomState(self.prng.tomaxint() % (2**32 - 1))
        self.assign()

    def assign(self) -> None:
        self.buckets: dict[int, list[int]] = {}
        pruned = []
        for image, (width, height) in self.sizes.items():
            aspect = width / height
            bucket = int(np.abs(self.aspects - aspect).argmin())
            if abs(self.aspects[bucket] - aspect) < self.max_ar_error:
                self.buckets.setdefault(bucket, []).append(image)
            else:
                pruned.append(image)
        for image in pruned:
            del self.sizes[image]

    def start_epoch(self) -> None:
        index = self.epoch_prng.permutation(np.array(sorted(self.sizes)))
        unit = self.batch_size * self.world_size
        index = index[: len(index) // unit * unit][self.rank :: self.world_size]
        self.num_batches = len(index) // self.batch_size
        mine = set(index.tolist())
        self.epoch: dict[int, list[int]] = {}
        self.left_over: list[int] = []
        for bucket in sorted(self.buckets):
            part = np.array([image for image in self.buckets[bucket] if image in mine], dtype=np.int64)
            self.prng.shuffle(part)
            overhang = len(part) % self.batch_size
            self.left_over += part[:overhang].tolist()
            if overhang < len(part):
                self.epoch[bucket] = part[overhang:].tolist()

    def next_batch(self) -> tuple[Size, list[int]]:
        chosen = LEFT_OVER
        if self.epoch:
            buckets = list(self.epoch)
            lengths = [len(part) for part in self.epoch.values()]
            if len(self.left_over) >= self.batch_size:
                buckets.insert(0, LEFT_OVER)
                lengths.insert(0, len(self.left_over))
            weights = np.array(lengths, dtype=np.float32)
            chosen = int(self.prng.choice(np.array(buckets), 1, p=weights / weights.sum())[0])
        if chosen == LEFT_OVER:
            self.prng.shuffle(self.left_over)
            source, size = self.left_over, self.base_res
        else:
            source, size = self.epoch[chosen], self.resolutions[chosen]
        batch = source[: self.batch_size]
        del source[: self.batch_size]
        if chosen != LEFT_OVER and not source:
            del self.epoch[chosen]
        return size, batch


def sizes_by_id(job: Job) -> dict[int, Size]:
    return dict(enumerate(zip(job.widths.tolist(), job.heights.tolist(), strict=True)))


def build(job: Job) -> BucketManager:
    return BucketManager(
        sizes_by_id(job),
        ladder(),
        batch_size=job.batch_size,
        world_size=job.world_size,
        rank=0,
        seed=job.seed,
    )


def start(state: BucketManager, epoch: int) -> Any:
    """The next epoch, whichever it is: epochs come in sequence only."""
    state.start_epoch()
    return state.next_batch()


def resume(state: BucketManager, epoch: int) -> Any:
    state.start_epoch()
    for _ in range(state.num_batches // 2):
        state.next_batch()
    return state.next_batch()
