"""Moving a cursor: every outcome, and the order in which they are decided."""

from __future__ import annotations

import pytest

from bucketline_service.store import LEASE_STRIDE, Cursor, Outcome, RankRecord, Store
from tests.store.jobs import FIRST, START, Job, token

pytestmark = pytest.mark.anyio


async def test_a_commit_moves_the_cursor(job: Job) -> None:
    lease = await job.lease(rank=2)
    commit = await job.commit(lease.lease, Cursor(1, 3), rank=2)
    assert (commit.outcome, commit.cursor, commit.generation) == (Outcome.OK, Cursor(1, 3), FIRST)
    record = await job.record(2)
    assert record is not None
    assert record.cursor == Cursor(1, 3)


async def test_a_repeated_commit_is_a_no_op(job: Job) -> None:
    lease = await job.lease()
    first = await job.commit(lease.lease, Cursor(0, 4))
    before = await job.record()
    assert await job.commit(lease.lease, Cursor(0, 4), now_s=1001.0) == first
    assert await job.record() == before


@pytest.mark.parametrize("older", [START, Cursor(1, 9), Cursor(2, 2)])
async def test_a_cursor_never_moves_back(job: Job, older: Cursor) -> None:
    lease = await job.lease()
    await job.commit(lease.lease, Cursor(2, 3))
    commit = await job.commit(lease.lease, older)
    assert (commit.outcome, commit.cursor) == (Outcome.OK, Cursor(2, 3))


@pytest.mark.parametrize("newer", [Cursor(2, 10), Cursor(10, 0), Cursor(2**40, 2**53)])
async def test_cursors_compare_as_numbers_epoch_first(job: Job, newer: Cursor) -> None:
    lease = await job.lease()
    await job.commit(lease.lease, Cursor(2, 9))
    assert (await job.commit(lease.lease, newer)).cursor == newer
    assert (await job.commit(lease.lease)).cursor == newer


async def test_without_a_cursor_a_commit_proves_the_lease_and_moves_nothing(job: Job) -> None:
    lease = await job.lease()
    commit = await job.commit(lease.lease)
    assert (commit.outcome, commit.cursor) == (Outcome.OK, START)
    assert (await job.commit(lease.lease - LEASE_STRIDE)).outcome is Outcome.FENCED


async def test_a_commit_moves_one_rank_only(job: Job) -> None:
    others = [await job.lease(rank) for rank in (0, 2, 3)]
    await job.commit((await job.lease(1)).lease, Cursor(0, 8), rank=1)
    _, records = await job.store.ranks(job.run)
    assert [record for record in records if record.rank != 1] == others


@pytest.mark.parametrize("generation", [0, 2, 11])
async def test_another_generation_is_stale_before_anything_else(job: Job, generation: int) -> None:
    lease = await job.lease()
    for token_, trusted in (
        (lease.lease, False),
        (lease.lease + 1, False),
        (lease.lease * 2, True),
        (0, True),
    ):
        commit = await job.commit(
            token_, Cursor(0, 1), generation=generation, not_before=Cursor(9, 9), trusted=trusted, now_s=9e9
        )
        assert (commit.outcome, commit.cursor, commit.generation) == (Outcome.STALE, START, FIRST)
    assert await job.record() == lease


@pytest.mark.parametrize("trusted", [False, True])
async def test_a_smaller_token_is_fenced(job: Job, trusted: bool) -> None:
    await job.lease(holder="a", tick=9)
    record = await job.lease(holder="b", tick=10)
    commit = await job.commit(token(9), Cursor(0, 1), trusted=trusted, now_s=9e9, not_before=Cursor(5, 0))
    assert (commit.outcome, commit.cursor, commit.generation) == (Outcome.FENCED, START, FIRST)
    assert await job.record() == record


async def test_a_lease_that_was_never_given_is_fenced(job: Job) -> None:
    commit = await job.commit(token(1), Cursor(0, 1))
    assert (commit.outcome, commit.cursor) == (Outcome.FENCED, START)
    assert await job.store.ranks(job.run) == (FIRST, [])


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("is_leased", [False, True])
async def test_a_lease_of_another_rank_is_fenced(job: Job, trusted: bool, is_leased: bool) -> None:
    if is_leased:
        await job.lease(rank=0)
    before = await job.record(0)
    lease = await job.lease(rank=1, tick=50)
    commit = await job.commit(lease.lease, Cursor(0, 1), rank=0, trusted=trusted)
    assert commit.outcome is Outcome.FENCED
    assert await job.record(0) == before


async def test_a_larger_token_is_fenced_unless_trusted(job: Job) -> None:
    record = await job.lease()
    commit = await job.commit(token(99), Cursor(0, 1), now_s=9e9)
    assert (commit.outcome, commit.cursor) == (Outcome.FENCED, START)
    assert await job.record() == record


@pytest.mark.parametrize("is_leased", [False, True])
async def test_trust_without_a_cursor_adopts_the_lease_where_the_rank_stands(
    job: Job, is_leased: bool
) -> None:
    stands_at = START
    if is_leased:
        stands_at = (await job.commit((await job.lease()).lease, Cursor(0, 3))).cursor
    commit = await job.commit(token(99), None, trusted=True, now_s=20.0)
    assert (commit.outcome, commit.cursor) == (Outcome.ADOPTED, stands_at)
    assert await job.record() == RankRecord(0, stands_at, token(99), "", 20.0, stands_at, 20.0)


async def test_a_trusted_larger_token_is_adopted(job: Job) -> None:
    lost = await job.lease(holder="kept", now_s=10.0)
    commit = await job.commit(token(99), Cursor(0, 8), trusted=True, not_before=START, now_s=20.0)
    assert (commit.outcome, commit.cursor, commit.generation) == (Outcome.ADOPTED, Cursor(0, 8), FIRST)
    adopted = RankRecord(0, Cursor(0, 8), token(99), "", 20.0, Cursor(0, 8), 20.0)
    assert await job.record() == adopted
    # the earlier holder by name gets a new lease, never the adopted one
    again = await job.lease(holder="kept", now_s=30.0)
    assert again.lease > token(99)
    assert (await job.commit(token(99), Cursor(0, 9))).outcome is Outcome.FENCED
    await job.commit(token(200), Cursor(0, 8), trusted=True)
    assert (await job.commit(again.lease, Cursor(0, 9))).outcome is Outcome.FENCED
    assert (await job.commit(lost.lease, Cursor(0, 9))).outcome is Outcome.FENCED
    assert (await job.commit(token(200), Cursor(0, 9))).outcome is Outcome.OK


@pytest.mark.parametrize("is_leased", [False, True])
@pytest.mark.parametrize("cursor", [Cursor(0, 8), None])
async def test_an_adoption_is_bounded_as_a_commit_is(
    job: Job, is_leased: bool, cursor: Cursor | None
) -> None:
    stands_at = START
    if is_leased:
        stands_at = (await job.commit((await job.lease()).lease, Cursor(0, 3))).cursor
    before = await job.record()
    bound = Cursor(0, stands_at.step + 1)
    commit = await job.commit(token(99), cursor, trusted=True, not_before=bound)
    assert (commit.outcome, commit.cursor) == (Outcome.AHEAD, stands_at)
    assert await job.record() == before
    assert (await job.commit(token(99), cursor, not_before=bound)).outcome is Outcome.FENCED


async def test_an_adoption_never_moves_a_cursor_back(job: Job) -> None:
    await job.commit((await job.lease()).lease, Cursor(3, 0))
    commit = await job.commit(token(99), Cursor(2, 9), trusted=True)
    assert (commit.outcome, commit.cursor) == (Outcome.ADOPTED, Cursor(3, 0))
    record = await job.record()
    assert record is not None
    assert (record.cursor, record.lease) == (Cursor(3, 0), token(99))


async def test_trust_adopts_where_nothing_is_stored(job: Job) -> None:
    commit = await job.commit(token(5, 3), Cursor(1, 1), rank=3, trusted=True, now_s=20.0)
    assert (commit.outcome, commit.cursor) == (Outcome.ADOPTED, Cursor(1, 1))
    assert await job.record(3) == RankRecord(3, Cursor(1, 1), token(5, 3), "", 20.0, Cursor(1, 1), 20.0)


async def test_an_adoption_without_a_record_is_not_before_the_origin(store: Store, name: str) -> None:
    job = await Job.create(store, name)
    await job.begin(2, origin=Cursor(4, 4))
    commit = await job.commit(token(5), Cursor(1, 1), generation=2, trusted=True)
    assert (commit.outcome, commit.cursor) == (Outcome.ADOPTED, Cursor(4, 4))


async def test_trust_adopts_over_an_older_generations_smaller_token(job: Job) -> None:
    await job.lease(holder="old", tick=5)
    await job.begin(2)
    assert (await job.commit(token(5), Cursor(0, 1), generation=2, trusted=True)).outcome is Outcome.FENCED
    assert (await job.commit(token(6), Cursor(0, 1), generation=2, trusted=True)).outcome is Outcome.ADOPTED
    record = await job.record()
    assert record is not None
    assert (record.lease, record.holder) == (token(6), "")


async def test_a_repeated_adoption_is_a_no_op(job: Job) -> None:
    await job.commit(token(5), Cursor(0, 2), trusted=True, now_s=20.0)
    before = await job.record()
    commit = await job.commit(token(5), Cursor(0, 2), trusted=True, now_s=21.0)
    assert (commit.outcome, commit.cursor) == (Outcome.OK, Cursor(0, 2))
    assert await job.record() == before


@pytest.mark.parametrize("cursor", [None, Cursor(1, 5)])
async def test_a_cursor_before_the_window_is_ahead(job: Job, cursor: Cursor | None) -> None:
    lease = await job.lease()
    await job.commit(lease.lease, Cursor(1, 2))
    before = await job.record()
    commit = await job.commit(lease.lease, cursor, not_before=Cursor(1, 3), now_s=9e9)
    assert (commit.outcome, commit.cursor, commit.generation) == (Outcome.AHEAD, Cursor(1, 2), FIRST)
    assert await job.record() == before


@pytest.mark.parametrize("not_before", [Cursor(1, 2), Cursor(1, 1), Cursor(0, 9), START])
async def test_a_cursor_in_the_window_moves(job: Job, not_before: Cursor) -> None:
    lease = await job.lease()
    await job.commit(lease.lease, Cursor(1, 2))
    assert (await job.commit(lease.lease, Cursor(1, 3), not_before=not_before)).cursor == Cursor(1, 3)


async def test_last_seen_is_written_when_the_cursor_moves(job: Job) -> None:
    lease = await job.lease(now_s=100.0)
    await job.commit(lease.lease, Cursor(0, 1), now_s=100.5)
    record = await job.record()
    assert record is not None
    assert record.last_seen_s == 100.5


@pytest.mark.parametrize(
    ("now_s", "seen_s"), [(109.99, 100.0), (110.0, 110.0), (200.0, 200.0), (50.0, 100.0)]
)
@pytest.mark.parametrize("cursor", [None, START])
async def test_last_seen_is_else_written_every_ten_seconds(
    job: Job, cursor: Cursor | None, now_s: float, seen_s: float
) -> None:
    lease = await job.lease(now_s=100.0)
    await job.commit(lease.lease, cursor, now_s=now_s)
    record = await job.record()
    assert record is not None
    assert (record.last_seen_s, record.cursor, record.leased_at_s) == (seen_s, START, 100.0)
