"""What only a Sentinel set has: another master."""

from __future__ import annotations

import asyncio

import pytest
import redis

from bucketline_service.errors import StoreUnavailable
from bucketline_service.store import Cursor, Outcome, open_store
from tests.redis_sets import SentinelSet, ask, until
from tests.store.jobs import Job, answered
from tests.store.test_runs import UNKNOWN
from tests.waiting import DEADLINE_S

pytestmark = pytest.mark.anyio

TIMEOUT_S = 1.0
"""As a hung master is noticed only by it; a busy machine may take longer, and is asked again."""


@pytest.mark.parametrize("end", ["kill", "pause"])
async def test_commits_go_on_after_a_failover(own_sentinel_set: SentinelSet, name: str, end: str) -> None:
    servers = own_sentinel_set
    store = open_store(servers.url, timeout_s=TIMEOUT_S)
    job = Job(store, name)
    await answered(lambda: Job.create(store, name))
    lease = (await answered(job.lease)).lease
    await answered(lambda: job.commit(lease, Cursor(0, 5)))
    until("the replica has it too", lambda: servers.is_level)
    getattr(servers.master, end)()

    commit = await answered(lambda: job.commit(lease, Cursor(0, 6), not_before=Cursor(0, 5)))
    assert (commit.outcome, commit.cursor) == (Outcome.OK, Cursor(0, 6))
    assert ask(servers.replica, "ROLE")[0] == "master"
    assert (await answered(job.lease)).lease == lease  # the holder's own
    assert (await answered(lambda: job.lease(holder="next"))).lease > lease
    assert (await answered(lambda: job.commit(lease, Cursor(0, 9)))).outcome is Outcome.FENCED
    assert await answered(store.list_runs) == [name]

    if end == "pause":
        servers.master.resume()
    else:
        servers.master.start()
    until("the old master follows", lambda: ask(servers.master, "ROLE")[:2] == ["slave", "127.0.0.1"])
    assert (await answered(lambda: job.record())).cursor == Cursor(0, 6)  # type: ignore[union-attr]
    await store.close()


async def test_a_master_that_nobody_replaces(name: str, own_sentinel_set: SentinelSet) -> None:
    servers = own_sentinel_set
    store = open_store(servers.url, timeout_s=30.0)
    job = await Job.create(store, name)
    lease = (await job.lease()).lease
    servers.replica.kill()
    servers.master.kill()
    verbs = {**UNKNOWN, "ping": lambda store, _: store.ping(), "list": lambda store, _: store.list_runs()}
    for verb in verbs.values():
        with pytest.raises(StoreUnavailable, match="Redis: ") as caught:
            await verb(store, name)
        assert caught.value.__cause__ is not None
    until("the sentinels agree", lambda: "o_down" in servers.state(0)["flags"])
    with pytest.raises(StoreUnavailable, match="No master found for 'main'"):
        await store.ping()
    for sentinel in servers.sentinels:
        sentinel.kill()
    with pytest.raises(StoreUnavailable, match="No master found for 'main'"):
        await store.ping()
    for server in (servers.master, *servers.sentinels):
        server.start()
    assert (await answered(lambda: job.commit(lease, Cursor(0, 1)))).cursor == Cursor(0, 1)
    await store.close()


async def test_sentinels_that_are_silent_leave_time_for_one_that_answers(sentinel_set: SentinelSet) -> None:
    first, *_ = sentinel_set.sentinels
    first.pause()
    try:
        store = open_store(sentinel_set.url, timeout_s=TIMEOUT_S)
        await answered(store.ping)
        await store.close()
    finally:
        first.resume()


async def test_no_sentinel_is_forgotten_by_searches_that_overlap(sentinel_set: SentinelSet) -> None:
    first, *others = sentinel_set.sentinels
    store = open_store(sentinel_set.url, timeout_s=TIMEOUT_S)
    try:
        first.pause()
        await asyncio.gather(*(answered(store.ping) for _ in range(8)))
        first.resume()
        for other in others:
            other.pause()
        ask(sentinel_set.master, "CLIENT", "KILL", "TYPE", "normal")
        async with asyncio.timeout(DEADLINE_S):
            await answered(store.ping)  # only the first can say where the master is
    finally:
        for sentinel in sentinel_set.sentinels:
            sentinel.resume()
        await store.close()


async def test_the_master_becomes_a_replica_under_the_store(own_sentinel_set: SentinelSet, name: str) -> None:
    """Its connections stay. What it refuses is not answered, until the sentinels name a master, and it takes it."""
    servers = own_sentinel_set
    store = open_store(servers.url, timeout_s=30.0)
    job = await Job.create(store, name)
    lease = (await job.lease()).lease
    until("the replica has it too", lambda: servers.is_level)
    for sentinel in servers.sentinels:
        sentinel.kill()
    ask(servers.master, "REPLICAOF", "127.0.0.1", servers.replica.port)
    with pytest.raises(StoreUnavailable, match=r"previous master|No master found") as caught:
        await job.commit(lease, Cursor(0, 1))
    assert isinstance(caught.value.__cause__, redis.RedisError)
    ask(servers.master, "REPLICAOF", "NO", "ONE")
    for sentinel in servers.sentinels:
        sentinel.start()
    commit = await answered(lambda: job.commit(lease, Cursor(0, 1)))
    assert (commit.outcome, commit.cursor) == (Outcome.OK, Cursor(0, 1))
    await store.close()
