"""Passes without a cursor: the plan's batches, the same each time, whatever is trained meanwhile."""

import threading

import pytest

from bucketline import BucketClient, Invalid, NotFound, Operator, UsageError

from .coordinators import PACKED, new_run


@pytest.fixture
def client(url, run):
    with BucketClient(url, run, window=7) as client:
        yield client


@pytest.mark.parametrize(("world_size", "epoch"), [(1, 0), (2, 0), (3, 2)])
def test_it_is_the_epoch_of_the_plan(url, run, client, world_size, epoch):
    with Operator(url) as operator:
        for rank in range(world_size):
            planned = operator.batches(run, epoch, 0, rank, 1024, world_size=world_size)
            expected = [batch for batch in planned if batch.epoch == epoch]
            assert len(expected) > 7  # several requests
            assert list(client.read_epoch(rank, world_size, epoch)) == expected
            assert client.plan_reader(rank, world_size, epoch).num_steps() == len(expected)


def test_every_pass_is_the_same_and_moves_nothing(url, run, client):
    first = list(client.read_epoch(0, 2))
    next(client.read_epoch(1, 2))  # a pass that is left early
    with BucketClient(url, run) as trainer:
        trainer.begin(None, 2, session="a training")
        trained = list(trainer.epoch(0))
        assert list(client.read_epoch(0, 2)) == first == trained
        trainer.flush()
    with Operator(url) as operator:
        ranks = operator.ranks(run)
    assert [(rank["epoch"], rank["step"], rank["holder"] is None) for rank in ranks] == [
        (1, 0, False),
        (0, 0, True),
    ]


def test_several_threads_read_at_once(client):
    expected = list(client.read_epoch(0, 2))
    found = [[] for _ in range(4)]
    threads = [
        threading.Thread(target=lambda each=each: each.extend(client.read_epoch(0, 2))) for each in found
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_the_last_epoch_of_a_run_ends(url):
    run = new_run(url, epochs=1)
    with BucketClient(url, run) as client:
        found = list(client.read_epoch(0, 1))
        assert found
        assert {batch.epoch for batch in found} == {0}
        with pytest.raises(Invalid, match="epoch"):
            list(client.read_epoch(0, 1, epoch=1))


def test_it_includes_what_the_client_asks_for(url, run):
    with BucketClient(url, run, include=["original_size", "crop"]) as client:
        batch = next(client.read_epoch(0, 1))
    assert len(batch.original_sizes) == len(batch.resize_sizes) == len(batch.ids)


def test_packs_have_their_own_call(url, run, client):
    with BucketClient(url, new_run(url, **PACKED)) as packed, Operator(url) as operator:
        assert list(packed.read_packs(1, 2)) == operator.packs(packed.run, 0, 0, 1, 16, world_size=2)
        with pytest.raises(UsageError, match="serves packs: call read_packs"):
            next(packed.read_epoch(0, 1))
    with pytest.raises(UsageError, match="serves no packs: call read_epoch"):
        next(client.read_packs(0, 1))


def test_what_is_wrong_is_said(url, client):
    with pytest.raises(UsageError, match="world_size must be"):
        next(client.read_epoch(0, 0))
    with pytest.raises(UsageError, match="epoch must be"):
        next(client.read_epoch(0, 1, -1))
    with pytest.raises(NotFound):
        next(client.read_epoch(2, 2))
    with BucketClient(url, "none") as absent, pytest.raises(NotFound):
        next(absent.read_epoch(0, 1))
