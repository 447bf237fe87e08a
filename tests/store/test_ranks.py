"""Reading all ranks at once."""

from __future__ import annotations

import asyncio

import pytest

from bucketline_service.store import Cursor, Generation, Store
from tests.store.jobs import FIRST, START, Job

pytestmark = pytest.mark.anyio


async def test_a_run_is_born_without_records(job: Job) -> None:
    assert await job.store.ranks(job.run) == (FIRST, [])


async def test_ranks_with_a_record_come_in_order(job: Job) -> None:
    for rank in (11, 2, 10, 0):
        await job.lease(rank)
    _, records = await job.store.ranks(job.run)
    assert [record.rank for record in records] == [0, 2, 10, 11]


@pytest.mark.parametrize("num", [300, pytest.param(2_000, marks=pytest.mark.exhaustive)])
async def test_many_ranks(store: Store, name: str, num: int) -> None:
    job = await Job.create(store, name, Generation(1, None, num, START, 0, "b"))
    leases = await asyncio.gather(*(job.lease(rank, holder=f"worker {rank}") for rank in range(num)))
    assert (await store.ranks(name))[1] == leases
    assert (await job.begin(2, START)).begun
    assert (await store.ranks(name))[1] == []
    again = await job.lease(num - 1, generation=2)
    assert again.lease > leases[-1].lease


async def test_a_reading_is_consistent(job: Job) -> None:
    """Ranks 0 and 1 move in turn, 0 first: no reading shows 1 before 0, or a record of another generation."""
    leases = [(await job.lease(rank)).lease for rank in range(2)]

    async def move() -> None:
        for step in range(1, 30):
            for rank in range(2):
                await job.commit(leases[rank], Cursor(0, step), rank=rank)
        await job.begin(2, origin=Cursor(7, 0))

    moving = asyncio.create_task(move())
    num_readings = 0
    while not moving.done():
        generation, records = await job.store.ranks(job.run)
        num_readings += 1
        if generation.number == 1:
            first, second = (record.cursor.step for record in records)
            assert second <= first <= second + 1
        else:
            assert records == []
    await moving
    assert num_readings > 1
