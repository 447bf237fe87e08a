"""Beginning a generation: who may, and its effect on earlier leases."""

from __future__ import annotations

import pytest

from bucketline_service.store import Begun, Commit, Cursor, Generation, Outcome, Store
from tests.store.jobs import FIRST, START, Job, token

pytestmark = pytest.mark.anyio

SECOND = Generation(
    number=2, session="second", world_size=3, origin=Cursor(1, 5), offset=20, birth=FIRST.birth
)


async def test_the_next_generation_begins(job: Job) -> None:
    assert await job.store.begin(job.run, SECOND, FIRST.id, None) == Begun(True, SECOND)
    record = await job.store.read_run(job.run)
    assert record.generation == SECOND
    assert record.document == b"document"


async def test_its_lockstep_goes_with_it_and_the_next_has_its_own(job: Job) -> None:
    for number, lockstep in ((2, 12), (3, None), (4, 1 << 20)):
        begun = await job.begin(number, session=f"s {number}", offset=7, lockstep=lockstep)
        assert (begun.begun, begun.generation.lockstep, begun.generation.offset) == (True, lockstep, 7)
        lease = await job.lease(generation=number)
        commit = await job.commit(lease.lease, Cursor(0, number), generation=number)
        assert commit == Commit(Outcome.OK, Cursor(0, number), begun.generation)
        assert (await job.store.read_run(job.run)).generation == begun.generation
        assert (await job.store.ranks(job.run))[0] == begun.generation


@pytest.mark.parametrize("number", [0, 1, 3])
async def test_only_the_next_number_begins(job: Job, number: int) -> None:
    assert await job.begin(number, session="s") == Begun(False, FIRST)
    assert (await job.store.read_run(job.run)).generation == FIRST
    assert await job.store.session(job.run, "s") == (FIRST.id, None)


async def test_a_repeated_begin_changes_nothing(job: Job) -> None:
    await job.store.begin(job.run, SECOND, FIRST.id, None)
    lease = await job.lease(generation=2)
    assert await job.store.begin(job.run, SECOND, FIRST.id, None) == Begun(False, SECOND)
    assert await job.record() == lease


async def test_a_used_session_begins_nothing(job: Job) -> None:
    await job.begin(2, session="a")
    third = (await job.begin(3, session="b")).generation
    for used in ("a", "b"):
        assert await job.begin(4, session=used) == Begun(False, third)


async def test_the_session_of_the_birth_counts_as_used(store: Store, name: str) -> None:
    job = await Job.create(store, name, Generation(1, "birth", 1, START, 0, "b"))
    assert not (await job.begin(2, session="birth")).begun


async def test_generations_without_a_session_follow_each_other(job: Job) -> None:
    assert (await job.begin(2, session=None)).begun
    assert (await job.begin(3, session=None)).begun


async def test_session_names_are_remembered_with_their_generation(job: Job) -> None:
    await job.begin(2, session="a")
    await job.begin(3, session=None)
    await job.begin(4, session="b")
    for session, number in (("a", 2), ("b", 4), ("c", None), ("", None)):
        assert await job.store.session(job.run, session) == (job.id(4), number)


async def test_the_slowest_rank_without_a_record_stands_at_the_origin(job: Job) -> None:
    for rank in range(3):
        await job.commit((await job.lease(rank)).lease, Cursor(0, 9), rank=rank)
    assert await job.begin(2, Cursor(0, 9)) == Begun(False, FIRST)
    assert (await job.begin(2, START)).begun


async def test_the_slowest_rank_is_the_least_cursor(job: Job) -> None:
    for rank, cursor in enumerate([Cursor(2, 0), Cursor(1, 10), Cursor(1, 9), Cursor(3, 3)]):
        await job.commit((await job.lease(rank)).lease, cursor, rank=rank)
    for other in (START, Cursor(1, 8), Cursor(1, 10), Cursor(2, 9)):
        assert not (await job.begin(2, other)).begun
    assert (await job.begin(2, Cursor(1, 9))).begun


async def test_every_rank_counts_when_its_record_is_the_only_slow_one(job: Job) -> None:
    for rank in range(4):
        await job.commit((await job.lease(rank)).lease, Cursor(0, 5 if rank < 3 else 4), rank=rank)
    assert not (await job.begin(2, Cursor(0, 5))).begun
    assert (await job.begin(2, Cursor(0, 4))).begun


async def test_a_rank_beyond_the_world_does_not_count(job: Job) -> None:
    for rank in (0, 1, 2, 7):
        await job.commit((await job.lease(rank)).lease, Cursor(0, 5), rank=rank)
    assert not (await job.begin(2, Cursor(0, 5))).begun  # rank 3 is at the origin


async def test_records_of_an_older_generation_do_not_count_as_ranks(job: Job) -> None:
    for rank in range(4):
        await job.commit((await job.lease(rank)).lease, Cursor(0, 9), rank=rank)
    await job.begin(2, origin=Cursor(0, 4))
    for rank in range(3):
        await job.commit((await job.lease(rank, generation=2)).lease, Cursor(0, 9), rank=rank, generation=2)
    assert not (await job.begin(3, Cursor(0, 9))).begun
    assert (await job.begin(3, Cursor(0, 4))).begun


async def test_without_a_slowest_rank_nothing_is_asked_of_the_ranks(job: Job) -> None:
    await job.commit((await job.lease()).lease, Cursor(5, 5))
    assert (await job.begin(2, None)).begun


async def test_the_records_of_an_older_generation_are_gone(job: Job) -> None:
    await job.lease()
    await job.store.begin(job.run, SECOND, FIRST.id, None)
    assert await job.store.ranks(job.run) == (SECOND, [])


async def test_begin_fences_all_leases_before_it(job: Job) -> None:
    leases = [(await job.lease(rank)).lease for rank in range(4)]
    await job.store.begin(job.run, SECOND, FIRST.id, None)
    for rank, lease in enumerate(leases):
        for trusted in (False, True):
            commit = await job.commit(lease, Cursor(9, 9), rank=rank, generation=2, trusted=trusted)
            assert (commit.outcome, commit.cursor, commit.generation) == (
                Outcome.FENCED,
                Cursor(1, 5),
                SECOND,
            )
    assert await job.store.ranks(job.run) == (SECOND, [])


async def test_tokens_grow_over_generations_and_cursors_start_at_the_origin(job: Job) -> None:
    old = await job.lease(rank=2, tick=50)
    await job.commit(old.lease, Cursor(0, 7), rank=2)
    await job.store.begin(job.run, SECOND, FIRST.id, None)
    new = await job.lease(rank=2, tick=1, generation=2)
    assert new.lease == token(51, 2)
    assert new.cursor == new.lease_cursor == SECOND.origin


async def test_a_session_may_set_the_ranks_back(job: Job) -> None:
    await job.commit((await job.lease()).lease, Cursor(5, 5))
    await job.begin(2, origin=START)
    lease = await job.lease(generation=2)
    assert (await job.commit(lease.lease, Cursor(0, 1), generation=2)).cursor == Cursor(0, 1)
