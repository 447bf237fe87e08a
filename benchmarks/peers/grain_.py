"""Grain's shuffled MapDataset."""

from __future__ import annotations

from typing import Any

import grain

from peers import IDS, Job


class State:
    def __init__(self, job: Job) -> None:
        shuffled = grain.MapDataset.range(job.num).seed(job.seed).shuffle()
        self.job = job
        self.shuffled = shuffled
        self.batches = shuffled[0 :: job.world_size].repeat().batch(job.batch_size)


def build(job: Job) -> State:
    return State(job)


def start(state: State, epoch: int) -> Any:
    return state.batches[epoch * state.job.steps]


def resume(state: State, epoch: int) -> Any:
    return state.batches[epoch * state.job.steps + state.job.steps // 2]


def ids(state: State, epoch: int) -> Any:
    shuffled = state.shuffled
    first = epoch * state.job.num + (state.job.num - IDS) // 2
    return [shuffled[index] for index in range(first, first + IDS)]
