"""``wait_replicas``: what was answered is on a replica, and survives the master that answered."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from bucketline_service.errors import Damaged, StoreUnavailable
from bucketline_service.store import (
    Cursor,
    Generation,
    NewReport,
    Outcome,
    Place,
    RankRecord,
    Store,
    open_store,
)
from bucketline_service.store.redis import keys
from tests.redis_server import RedisServer
from tests.redis_sets import ClusterSet, SentinelSet, ask, node_number, until
from tests.store.jobs import FIRST, START, Job, answered

pytestmark = pytest.mark.anyio

HASTY_S = 0.8
NUM_RANKS, NUM_AT_LEAST = 64, 8


@dataclass(frozen=True)
class Pair:
    """A URL that waits for one replica; the run's master, which has the index too, and that replica."""

    url: str
    master: RedisServer
    replica: RedisServer


@contextmanager
def _sentinel(request: pytest.FixtureRequest) -> Iterator[Pair]:
    servers: SentinelSet = request.getfixturevalue("sentinel_set")
    yield Pair(f"{servers.url}?wait_replicas=1", servers.master, servers.replica)


@contextmanager
def _server(request: pytest.FixtureRequest) -> Iterator[Pair]:
    servers: SentinelSet = request.getfixturevalue("sentinel_set")
    yield Pair(f"{servers.master.url}?wait_replicas=1", servers.master, servers.replica)


@contextmanager
def _cluster(request: pytest.FixtureRequest) -> Iterator[Pair]:
    servers: ClusterSet = request.getfixturevalue("own_cluster_set")
    master = servers.node_of(keys.RUNS)
    with servers.replica_of(master) as replica:
        yield Pair(f"{servers.url}?wait_replicas=1", master, replica)


@pytest.fixture
def name() -> str:
    """A run's whose keys are where those of the index are: one replica is enough for both."""
    names = (uuid.uuid4().hex for _ in itertools.count())
    return next(name for name in names if node_number(keys.generation(name)) == node_number(keys.RUNS))


@pytest.fixture(params=[_sentinel, _server])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with request.param(request) as pair:
        yield pair
        pair.replica.resume()


@pytest.fixture
async def store(pair: Pair) -> AsyncIterator[Store]:
    store = open_store(pair.url, timeout_s=30.0)
    yield store
    await store.close()


def writes(job: Job, lease: int) -> dict[str, Callable[[], Coroutine[Any, Any, Any]]]:
    """Each verb that a caller continues from, repeated: nothing is left to be done."""
    return {
        "commit": lambda: job.commit(lease, Cursor(0, 1)),
        "proof": lambda: job.commit(lease),
        "lease": job.lease,
        "report": lambda: job.store.report(job.run, Place(0, 0, 0), [NewReport("a", "missing")], 10, 1.0),
        "session": lambda: job.store.session(job.run, FIRST_SESSION),
        "create_run": lambda: job.store.create_run(job.run, b"", job.first),
    }


FIRST_SESSION = "s"
SMALL = Generation(1, FIRST_SESSION, 4, START, 0, FIRST.birth)


async def test_a_write_is_answered_when_the_replica_has_it(pair: Pair, store: Store, name: str) -> None:
    job = await Job.create(store, name, SMALL)
    old = await job.lease(holder="old")
    pair.replica.pause()
    asked = asyncio.ensure_future(job.lease(holder="new"))

    def is_written() -> bool:
        return str(ask(pair.master, "HGET", keys.ranks(name), 0)).endswith(" new")

    await asyncio.to_thread(until, "the master has the lease", is_written)
    assert (await job.record()).lease > old.lease  # type: ignore[union-attr]  # reading waits for nobody
    assert not asked.done()
    pair.replica.resume()
    assert (await asked).lease > old.lease


async def test_without_a_replica_nothing_is_answered_and_a_repeat_neither(
    pair: Pair, store: Store, name: str
) -> None:
    job = await Job.create(store, name, SMALL)
    lease = (await job.lease()).lease
    pair.replica.pause()
    hasty = open_store(pair.url, timeout_s=HASTY_S)
    later = open_store(pair.url, timeout_s=HASTY_S)  # whose connections have written nothing yet
    for asking in (hasty, later, hasty):
        verbs = writes(Job(asking, name, SMALL), lease)
        answers = await asyncio.gather(*(verb() for verb in verbs.values()), return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreUnavailable] * len(verbs)
    with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
        await hasty.ping()
    await later.close()
    assert (await job.record()).cursor == Cursor(0, 1)  # type: ignore[union-attr]
    pair.replica.resume()
    for verb in writes(Job(hasty, name, SMALL), lease).values():
        await answered(verb)
    assert (await answered(lambda: job.commit(lease, Cursor(0, 2)))).cursor == Cursor(0, 2)
    await hasty.close()


async def test_a_refusal_is_answered_and_the_next_answer_is_its_own(
    pair: Pair, store: Store, name: str
) -> None:
    """Two answers come for each write, also where Redis does not know the script, or the key is another program's."""
    job = await Job.create(store, name, SMALL)
    lease = (await job.lease()).lease
    ask(pair.master, "SCRIPT", "FLUSH")
    for step in range(1, 4):
        assert (await job.commit(lease, Cursor(0, step))).cursor == Cursor(0, step)
    records = ask(pair.master, "HGETALL", keys.ranks(name))
    ask(pair.master, "SET", keys.ranks(name), "theirs")
    for _ in range(3):
        with pytest.raises(Damaged, match="WRONGTYPE"):
            await job.lease()
    ask(pair.master, "DEL", keys.ranks(name))
    ask(pair.master, "HSET", keys.ranks(name), "0", records["0"])
    answers = await asyncio.gather(*(job.commit(lease, Cursor(0, step)) for step in range(4, 40)))
    assert {answer.outcome for answer in answers} == {Outcome.OK}
    assert name in await store.list_runs()


async def answered_leases(job: Job, kill: Callable[[], None]) -> list[RankRecord]:
    """Many are asked for at once, and the master is killed as soon as some are answered."""
    tasks = {asyncio.ensure_future(job.lease(rank, holder="new")) for rank in range(NUM_RANKS)}
    leases: list[RankRecord] = []
    is_killed = False
    for task in asyncio.as_completed(tasks):
        try:
            leases.append(await task)
        except StoreUnavailable:
            assert is_killed
        if len(leases) == NUM_AT_LEAST and not is_killed:
            kill()
            is_killed = True
    return leases


async def test_leases_outlive_a_master_that_dies_at_once(own_sentinel_set: SentinelSet, name: str) -> None:
    servers = own_sentinel_set
    store = open_store(f"{servers.url}?wait_replicas=1", timeout_s=5.0)
    first = Generation(1, None, NUM_RANKS, START, 0, "b")
    job = await Job.create(store, name, first)
    leases = await answered_leases(job, servers.master.kill)
    until("the replica is the master", lambda: servers.is_promoted)
    _, kept = await answered(lambda: store.ranks(name))
    assert len(leases) >= NUM_AT_LEAST
    assert set(leases) <= set(kept)
    with pytest.raises(StoreUnavailable):  # the new one is alone
        await job.lease(holder="after")
    servers.master.start()
    assert (await answered(lambda: job.lease(holder="after"))).lease > leases[0].lease
    await store.close()


@pytest.mark.exhaustive
async def test_leases_outlive_a_node_of_a_cluster(request: pytest.FixtureRequest, name: str) -> None:
    """Its replica takes over, and the store finds it."""
    with _cluster(request) as pair:
        store = open_store(pair.url, timeout_s=5.0)
        first = Generation(1, None, NUM_RANKS, START, 0, "b")
        job = await Job.create(store, name, first)
        old = await job.lease(holder="old")
        pair.replica.pause()
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
            await job.lease(holder="older")
        pair.replica.resume()
        assert (await answered(lambda: job.lease(holder="old"))).lease > old.lease
        leases = await answered_leases(job, pair.master.kill)
        until("the replica took over", lambda: ask(pair.replica, "ROLE")[0] == "master")
        _, kept = await answered(lambda: store.ranks(name))
        assert len(leases) >= NUM_AT_LEAST
        assert set(leases) <= set(kept)
        await store.close()

        alone = open_store(pair.url.partition("?")[0], timeout_s=5.0)
        mine = leases[0]
        commit = await answered(
            lambda: Job(alone, name, first).commit(mine.lease, Cursor(0, 1), rank=mine.rank)
        )
        assert (commit.outcome, commit.cursor) == (Outcome.OK, Cursor(0, 1))
        await alone.close()
