"""bucketline's planner. What this benchmark uses of its library is in this module, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np

from bucketline_service.planning.buckets import ladder_generators as ladders
from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.images import Images
from bucketline_service.planning.plan_spec import PlanSpec
from peers import IDS, Job

BLOCK = 64


class State:
    def __init__(self, job: Job) -> None:
        ladder = ladders.novelai().by_aspect()
        # the default plan
        spec = PlanSpec(
            "line", (ladder,), job.batch_size, job.seed, job.world_size, "shift", steps="balanced"
        )
        images = Images.of(job.widths, job.heights)
        self.planner = new_planner(spec, prepare(spec, images), images)
        self.job = job

    def rows(self, epoch: int, first: int, num: int) -> Any:
        return self.planner.batches(epoch, first + np.arange(num), self.job.world_size).rows

    def half(self, num: int) -> int:
        """The first of ``num`` batches in the middle of an epoch."""
        return (self.planner.num_batches(0, self.job.world_size) - num) // 2


def build(job: Job) -> State:
    return State(job)


def start(state: State, epoch: int) -> Any:
    return state.rows(epoch, 0, 1)


def resume(state: State, epoch: int) -> Any:
    return state.rows(epoch, state.half(BLOCK), BLOCK)


def ids(state: State, epoch: int) -> Any:
    num = IDS // state.job.batch_size
    return state.rows(epoch, state.half(num), num)
