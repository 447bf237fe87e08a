"""lhotse's DynamicBucketingSampler. A cut's duration is the image's aspect; the cuts are made as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from lhotse import CutSet, MonoCut
from lhotse.dataset.sampling import DynamicBucketingSampler

from peers import Job
from peers.novelai import ladder

_CHUNK = 1 << 16


class Cuts:
    """A lazy manifest without the reading and parsing of a file."""

    is_lazy = True

    def __init__(self, job: Job) -> None:
        self.job = job

    def __iter__(self) -> Iterator[MonoCut]:
        for begin in range(0, self.job.num, _CHUNK):
            part = slice(begin, begin + _CHUNK)
            aspects = (self.job.widths[part] / self.job.heights[part]).tolist()
            for row, aspect in enumerate(aspects, begin):
                yield MonoCut(id=str(row), start=0.0, duration=aspect, channel=0)


class State:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.cuts = CutSet(Cuts(job))
        self.sampler = self.new_sampler()

    def new_sampler(self) -> DynamicBucketingSampler:
        aspects = sorted(ladder().values())
        return DynamicBucketingSampler(
            self.cuts,
            max_cuts=self.job.batch_size,
            shuffle=True,
            drop_last=True,
            duration_bins=[(a + b) / 2 for a, b in pairwise(aspects)],
            world_size=self.job.world_size,
            rank=0,
            seed=self.job.seed,
        )


def build(job: Job) -> State:
    return State(job)


def start(state: State, epoch: int) -> Any:
    state.sampler.set_epoch(epoch)
    return next(iter(state.sampler))


def resume(state: State, epoch: int) -> Any:
    """From the state that a sampler has written at half: made up here, as it holds counts only."""
    before = state.new_sampler()
    before.set_epoch(epoch)
    saved = before.state_dict()
    saved["diagnostics"]["stats_per_epoch"][epoch]["kept_batches"] = state.job.steps // 2
    sampler = state.new_sampler()
    sampler.load_state_dict(saved)
    return next(iter(sampler))
