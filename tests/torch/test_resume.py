"""Where a job resumes: after what its loop has trained on, whatever its loader's workers have requested since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bucketline import BucketClient, Operator

from .conftest import NUM_STEPS
from .loaders import ALLOWED, Sampled, Seen, Streamed, some

pytestmark = ALLOWED

KINDS = pytest.mark.parametrize("kind", [Sampled, Streamed])
WORKERS = pytest.mark.parametrize("num_workers", [0, 2])


def steps_done(num_workers: int) -> list[int]:
    """How many batches are done at a resume: every number in this process; with workers, which take long to start,
    the ends of an epoch and a step in its middle."""
    return [0, 1, 4, NUM_STEPS - 1, NUM_STEPS] if num_workers else list(range(NUM_STEPS + 1))


@KINDS
@WORKERS
def test_resume_from_every_step(
    kind: Any, num_workers: int, plan: list[Seen], start: Callable[..., BucketClient]
) -> None:
    """From the source's own state, as in a new process, wherever the cursors of the old one are."""
    for done in steps_done(num_workers):
        first = kind(start(), num_workers=num_workers)
        assert some(first.epoch(), done) == plan[:done]
        state = first.source.state_dict()
        second = kind(start(resumes=True), num_workers=num_workers)
        second.source.load_state_dict(state)
        rest = list(second.epoch())
        if done < NUM_STEPS:
            assert rest == plan[done:NUM_STEPS]
        else:  # the state is the next epoch's beginning
            assert rest == plan[NUM_STEPS : 2 * NUM_STEPS]


@KINDS
@WORKERS
def test_stateful_loaders_resume_from_every_step(
    kind: Any, num_workers: int, plan: list[Seen], start: Callable[..., BucketClient]
) -> None:
    """As if nothing had happened: the rest of the epoch, even if it is empty, and then the next one."""
    for done in steps_done(num_workers)[1:]:
        first = kind(start(), stateful=True, num_workers=num_workers)
        assert some(first.epoch(), done) == plan[:done]
        state = first.loader.state_dict()
        assert first.source.state_dict()["step" if done < NUM_STEPS else "epoch"] == (
            done if done < NUM_STEPS else 1
        )
        second = kind(start(resumes=True), stateful=True, num_workers=num_workers)
        second.loader.load_state_dict(state)
        assert list(second.epoch()) == plan[done:NUM_STEPS]
        if done > NUM_STEPS - 2:
            assert list(second.epoch()) == plan[NUM_STEPS : 2 * NUM_STEPS]


def test_a_stateful_loader_resumes_from_before_its_first_batch(
    plan: list[Seen], start: Callable[..., BucketClient]
) -> None:
    num_workers = 2
    first = Sampled(start(), stateful=True, num_workers=num_workers)
    state = first.loader.state_dict()
    some(first.epoch(), 5)
    second = Sampled(start(resumes=True), stateful=True, num_workers=num_workers)
    second.loader.load_state_dict(state)
    assert list(second.epoch()) == plan[:NUM_STEPS]


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("kind", [Sampled, Streamed])
def test_on_another_number_of_ranks(
    kind: Any, stateful: bool, url: str, start: Callable[..., BucketClient]
) -> None:
    """Two ranks, then three: each image once, except the batches that do not fill a last step of three."""
    first = [kind(client, rank) for client in [start()] for rank in (0, 1)]
    served = [ids for job in first for _, _, ids in some(job.epoch(), 4)]
    state = first[0].source.state_dict()
    assert state == first[1].source.state_dict()
    client = start(resumes=True)
    for rank in range(3):
        job = kind(client, rank, 3, stateful=stateful, num_workers=1 if rank else 0)
        job.source.load_state_dict(state)
        served += [ids for epoch, _, ids in job.epoch() if epoch == 0]
    ids = [id for batch in served for id in batch]
    assert len(ids) == len(set(ids))
    with Operator(url) as operator:
        assert operator.stats("small")["num_batches"] - len(served) in (0, 1, 2)


def test_a_stateful_loader_of_a_sampler_continues_with_another_number_of_ranks(
    start: Callable[..., BucketClient],
) -> None:
    """Its state is each rank's own; any will do, also for a rank that the job had not."""
    first = [Sampled(client, rank, stateful=True, num_workers=2) for client in [start()] for rank in (0, 1)]
    served = [batch for job in first for batch in some(job.epoch(), 4)]
    states = [job.loader.state_dict() for job in first]
    client = start(resumes=True)
    for rank in range(3):
        job = Sampled(client, rank, 3, stateful=True, num_workers=2)
        job.loader.load_state_dict(states[rank % 2])
        served += list(job.epoch())
    ids = [id for _, _, batch in served for id in batch]
    assert len(ids) == len(set(ids)) > 4000


def test_workers_places_of_another_deal_are_refused(start: Callable[..., BucketClient]) -> None:
    first = Streamed(start(), stateful=True, num_workers=1)  # torchdata waits 5 s for each that has failed
    some(first.epoch(), 4)
    state = first.loader.state_dict()
    second = Streamed(start(world_size=1), rank=0, world_size=1, stateful=True, num_workers=1)
    second.loader.load_state_dict(state)
    with pytest.raises(ValueError, match=r"2 ranks.*dataset\.load_state_dict"):
        list(second.epoch())


@KINDS
def test_persistent_workers_learn_where_a_pass_begins(
    kind: Any, plan: list[Seen], start: Callable[..., BucketClient]
) -> None:
    """Also of one that was left in its midst: the batch in hand is finished when the loop is entered again."""
    job = kind(start(), num_workers=2, persistent_workers=True)
    assert some(job.epoch(), 4) == plan[:4]
    assert list(job.epoch()) == plan[4:NUM_STEPS]
    assert list(job.epoch()) == plan[NUM_STEPS : 2 * NUM_STEPS]
    assert job.source.epoch == 2
