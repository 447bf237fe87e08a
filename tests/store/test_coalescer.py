"""Many commits at once: each is decided by itself, and in Redis they share calls."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from bucketline_service.errors import NotFound
from bucketline_service.store import CommitRequest, Cursor, GenerationId, Outcome, Store, open_store
from tests.redis_server import RedisServer
from tests.store.jobs import FIRST, START, Job, token

pytestmark = pytest.mark.anyio

NUM = 300


async def test_each_of_many_is_decided_by_itself(job: Job) -> None:
    leases = [await job.lease(rank) for rank in range(4)]
    cursor = Cursor(0, 7)
    asked = {
        Outcome.OK: lambda: job.commit(leases[0].lease, cursor),
        Outcome.FENCED: lambda: job.commit(leases[1].lease + 4, cursor, rank=1),
        Outcome.STALE: lambda: job.commit(leases[2].lease, cursor, rank=2, generation=9),
        Outcome.AHEAD: lambda: job.commit(leases[3].lease, cursor, rank=3, not_before=Cursor(0, 1)),
        Outcome.ADOPTED: lambda: job.commit(token(8, 2), cursor, rank=2, trusted=True),
    }
    outcomes = [*asked] * 3
    first = await asyncio.gather(*(asked[outcome]() for outcome in outcomes))
    for outcome, commit in zip(outcomes, first, strict=True):
        # the adopted lease is the rank's own when it asks again
        assert commit.outcome in (outcome, Outcome.OK if outcome is Outcome.ADOPTED else outcome)
        assert commit.generation == FIRST
    assert [record.cursor for record in (await job.store.ranks(job.run))[1]] == [cursor, START, cursor, START]


async def test_many_ranks_and_runs_at_once(store: Store, name: str) -> None:
    jobs = [await Job.create(store, f"{name}-{i}") for i in range(3)]
    leases = {(job.run, rank): (await job.lease(rank)).lease for job in jobs for rank in range(4)}

    async def walk(job: Job, rank: int) -> None:
        for step in range(1, 21):
            commit = await job.commit(leases[job.run, rank], Cursor(0, step), rank=rank)
            assert (commit.outcome, commit.cursor) == (Outcome.OK, Cursor(0, step))

    await asyncio.gather(*(walk(job, rank) for job in jobs for rank in range(4)))
    for job in jobs:
        assert {record.cursor for record in (await store.ranks(job.run))[1]} == {Cursor(0, 20)}


async def test_all_are_told_that_there_is_no_run(store: Store, name: str) -> None:
    request = CommitRequest(0, token(1), GenerationId("", 1), START, None, False, 1.0)
    answers = await asyncio.gather(*(store.commit(name, request) for _ in range(5)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [NotFound] * 5


async def test_one_that_gives_up_does_not_take_the_others_along(job: Job) -> None:
    lease = (await job.lease()).lease
    asked = [asyncio.ensure_future(job.commit(lease, Cursor(0, step))) for step in range(1, 6)]
    await asyncio.sleep(0)  # they have asked, and nobody has been answered
    asked[2].cancel()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers[2], asyncio.CancelledError)
    assert {answer.outcome for answer in answers if not isinstance(answer, BaseException)} == {Outcome.OK}
    assert (await job.commit(lease)).cursor == Cursor(0, 5)


async def test_they_share_calls_to_redis(own_redis_server: RedisServer, name: str) -> None:
    async with Redis.from_url(own_redis_server.url) as redis:
        store = open_store(own_redis_server.url, timeout_s=30)
        job = await Job.create(store, name)
        lease = (await job.lease()).lease
        await job.commit(lease)
        await redis.config_resetstat()
        await asyncio.gather(*(job.commit(lease, Cursor(0, step)) for step in range(NUM)))
        calls = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
        await store.close()
    assert calls < NUM / 10
    assert calls > 1  # no more than so many go together, so that a script does not hold up others for long
