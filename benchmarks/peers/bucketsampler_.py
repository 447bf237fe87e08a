"""bucketsampler (PyPI): vectorised assignment, and a batch sampler that builds an epoch's batches as lists."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
from bucketsampler import BucketBatchSampler, BucketSet, FixedBuckets

from peers import Job
from peers.novelai import ladder


class State:
    def __init__(self, job: Job) -> None:
        strategy = FixedBuckets(BucketSet.from_dims(list(ladder())))
        self.job = job
        self.indices = strategy.assign_many_indices(np.stack([job.widths, job.heights], axis=1))
        self.sampler = self.new_sampler()

    def new_sampler(self) -> BucketBatchSampler:
        job = self.job
        return BucketBatchSampler(
            self.indices, job.batch_size, num_replicas=job.world_size, rank=0, seed=job.seed
        )


def build(job: Job) -> State:
    return State(job)


def start(state: State, epoch: int) -> Any:
    state.sampler.set_epoch(epoch)
    return next(iter(state.sampler))


def resume(state: State, epoch: int) -> Any:
    sampler = state.new_sampler()
    sampler.set_epoch(epoch)
    # its tails are a little larger than ours: half of its own length
    return next(islice(iter(sampler), len(sampler) // 2, None))
