"""Where a training loop begins: as ``begin`` says, right before anything else is requested; else with a warning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bucketline import BucketClient, StartWarning, UsageError

from .conftest import NUM_STEPS
from .loaders import ALLOWED, Sampled, Seen, Streamed, some

pytestmark = ALLOWED

KINDS = pytest.mark.parametrize("kind", [Sampled, Streamed])


@pytest.mark.parametrize(("kind", "num_workers"), [(Sampled, 0), (Streamed, 2)])
def test_a_second_training_on_a_used_run(
    kind: Any, num_workers: int, plan: list[Seen], start: Callable[..., BucketClient]
) -> None:
    """``begin(None)`` from the run's first step, ``begin(state)`` behind it, wherever the first one has stopped."""
    first = kind(start(), num_workers=num_workers)
    list(first.epoch())
    some(first.epoch(), 3)
    state = first.source.state_dict()
    second = kind(start(resumes=True), num_workers=num_workers)
    second.source.begin(None)
    assert second.source.epoch == 0
    assert [*second.epoch(), *second.epoch()] == plan[: 2 * NUM_STEPS]
    third = kind(start(resumes=True), num_workers=num_workers)
    begun = third.source.begin(state)
    assert third.source.epoch == 1
    assert third.source.state_dict() == {**state, "start": begun.generation_id}
    assert list(third.epoch()) == plan[NUM_STEPS + 3 : 2 * NUM_STEPS]


@pytest.mark.parametrize(
    ("kind", "num_workers", "stateful"), [(Sampled, 0, True), (Sampled, 2, False), (Streamed, 2, True)]
)
def test_a_loop_that_never_said_where_it_starts_is_reported(
    kind: Any, stateful: bool, num_workers: int, plan: list[Seen], start: Callable[..., BucketClient]
) -> None:
    before = start()
    some(kind(before).epoch(), 4)
    before.flush()
    job = kind(start(resumes=True), stateful=stateful, num_workers=num_workers)
    with pytest.warns(StartWarning, match=r"begin\(state\).*begin\(None\)") as told:
        assert list(job.epoch()) == plan[3:NUM_STEPS]
    assert len([each for each in told if each.category is StartWarning]) == 1
    list(job.epoch())
    job.source.client.flush()
    asked = kind(start(resumes=True))
    with pytest.warns(StartWarning):
        assert asked.source.epoch == 2


@KINDS
def test_who_loads_a_state_gets_no_warning(
    kind: Any, plan: list[Seen], start: Callable[..., BucketClient]
) -> None:
    """Also a stateful loader, which asks the sampler for its state before it brings its own."""
    first = kind(start(), stateful=True)
    some(first.epoch(), 4)
    states = first.source.state_dict(), first.loader.state_dict()
    job = kind(start(resumes=True))
    job.source.load_state_dict(states[0])
    assert list(job.epoch()) == plan[4:NUM_STEPS]
    job = kind(start(resumes=True), stateful=True)
    job.loader.load_state_dict(states[1])
    assert list(job.epoch()) == plan[4:NUM_STEPS]


@KINDS
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_on_another_number_of_ranks_nothing_is_reported_before_the_state_has_arrived(
    kind: Any, num_ranks: int, start: Callable[..., BucketClient]
) -> None:
    """The run's own ranks and those that it does not have yet say the same, in any order."""
    first = [kind(client, rank) for client in [start()] for rank in (0, 1)]
    for job in first:
        some(job.epoch(), 4)
    state = first[0].source.state_dict()
    client = start(resumes=True)
    jobs = [kind(client, rank, num_ranks) for rank in range(num_ranks)]
    for job in jobs:
        with pytest.raises(UsageError, match=rf"over 2 ranks, but this job has {num_ranks}\. Call begin"):
            job.source.epoch  # noqa: B018 - it is asked for
        if kind is Sampled:
            with pytest.raises(UsageError, match="begin"):
                len(job.loader)
            assert job.source.state_dict() == {}
    told = []
    for job in jobs:
        job.source.begin(state)
        told.append((job.source.epoch, job.source.state_dict()["step"]))
        if kind is Sampled:
            told[-1] += (len(job.loader),)
    assert len(set(told)) == 1
    assert told[0][:2] == (0, 4)


def test_the_length_and_epoch_of_a_state_that_is_loaded_are_the_states(
    start: Callable[..., BucketClient],
) -> None:
    first = Sampled(start())
    some(first.epoch(), 4)
    state = first.source.state_dict()
    list(first.epoch()), some(first.epoch(), 2)
    job = Sampled(start(resumes=True))
    job.source.load_state_dict(state)
    assert (job.source.state_dict(), job.source.epoch, len(job.source)) == (state, 0, NUM_STEPS)
