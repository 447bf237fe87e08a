"""The bucket building of kohya-ss/sd-scripts, reimplemented with its trainer's data structures: an object per image,
lists of keys.

After library/train_util.py: ``BucketManager.select_bucket`` (upscaling allowed), ``make_buckets``, ``shuffle_buckets``,
and the order in which ``--skip_until_initial_step`` passes over what was trained on. The ladder is NovelAI's, as for
the other peers. Captions, repeats, subsets and the cache of latents are left out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from peers.novelai import Size, ladder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peers import Job


@dataclass
class ImageInfo:
    key: str
    size: Size
    reso: Size | None = None
    resized: Size | None = None


class BatchIndex(NamedTuple):
    bucket: int
    batch_size: int
    batch: int


class Dataset:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.images = {
            f"{row:09}.jpg": ImageInfo(f"{row:09}.jpg", size)
            for row, size in enumerate(zip(job.widths.tolist(), job.heights.tolist(), strict=True))
        }
        self.predefined = list(ladder())
        self.predefined_set = set(self.predefined)
        self.aspects = np.array([width / height for width, height in self.predefined])
        self.make_buckets()

    def make_buckets(self) -> None:
        errors = []
        for image in self.images.values():
            image.reso, image.resized, error = self.select_bucket(*image.size)
            errors.append(abs(error))
        resos = sorted({image.reso for image in self.images.values()})
        bucket_of = {reso: bucket for bucket, reso in enumerate(resos)}
        self.buckets: list[list[str]] = [[] for _ in resos]
        for image in self.images.values():
            self.buckets[bucket_of[image.reso]].append(image.key)
        self.batches = [
            BatchIndex(bucket, self.job.batch_size, batch)
            for bucket, keys in enumerate(self.buckets)
            for batch in range(-(-len(keys) // self.job.batch_size))
        ]
        self.shuffle_buckets(0)

    def select_bucket(self, width: int, height: int) -> tuple[Size, Size, float]:
        aspect = width / height
        reso = (width, height)
        if reso not in self.predefined_set:
            reso = self.predefined[int(np.abs(self.aspects - aspect).argmin())]
        aspect_of_reso = reso[0] / reso[1]
        scale = reso[1] / height if aspect > aspect_of_reso else reso[0] / width
        return reso, (int(width * scale + 0.5), int(height * scale + 0.5)), aspect_of_reso - aspect

    def shuffle_buckets(self, epoch: int) -> None:
        random.seed(self.job.seed + epoch)
        random.shuffle(self.batches)
        for keys in self.buckets:
            random.shuffle(keys)

    def batch(self, index: int) -> list[str]:
        bucket, size, batch = self.batches[index]
        return self.buckets[bucket][batch * size : (batch + 1) * size]

    def order(self, epoch: int) -> Iterator[int]:
        """Rank 0's share of what the DataLoader's random sampler draws."""
        drawn = np.random.default_rng(epoch).permutation(len(self.batches)).tolist()
        return islice(drawn, 0, None, self.job.world_size)


def build(job: Job) -> Dataset:
    return Dataset(job)


def start(state: Dataset, epoch: int) -> Any:
    state.shuffle_buckets(epoch)
    return state.batch(next(state.order(epoch)))


def resume(state: Dataset, epoch: int) -> Any:
    state.shuffle_buckets(epoch)
    return state.batch(next(islice(state.order(epoch), state.job.steps // 2, None)))
