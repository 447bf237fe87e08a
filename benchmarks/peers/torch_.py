"""PyTorch's DistributedSampler and BatchSampler."""

from __future__ import annotations

from itertools import islice
from typing import Any

from torch.utils.data import BatchSampler, DistributedSampler

from peers import Job


class State:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.sampler, self.batches = self.new_samplers()

    def new_samplers(self) -> tuple[DistributedSampler, BatchSampler]:
        job = self.job
        sampler = DistributedSampler(
            range(job.num), num_replicas=job.world_size, rank=0, shuffle=True, seed=job.seed, drop_last=True
        )
        return sampler, BatchSampler(sampler, job.batch_size, drop_last=True)


def build(job: Job) -> State:
    return State(job)


def start(state: State, epoch: int) -> Any:
    state.sampler.set_epoch(epoch)
    return next(iter(state.batches))


def resume(state: State, epoch: int) -> Any:
    sampler, batches = state.new_samplers()
    sampler.set_epoch(epoch)
    return next(islice(iter(batches), state.job.steps // 2, None))
