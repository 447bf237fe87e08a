"""Taking a rank's lease."""

from __future__ import annotations

import pytest

from bucketline_service.store import LEASE_STRIDE, Cursor, Outcome, RankRecord
from tests.store.jobs import FIRST, START, Job, token

pytestmark = pytest.mark.anyio

LARGEST_RANK = LEASE_STRIDE - 1
LARGEST = (1 << 53) - 1


async def test_the_first_lease_is_the_proposed_one(job: Job) -> None:
    leased = await job.store.lease(job.run, 3, "me", FIRST.id, token(7, 3), 12.5)
    record = RankRecord(3, START, token(7, 3), "me", 12.5, START, 12.5)
    assert leased == record
    assert await job.store.ranks(job.run) == (FIRST, [record])


async def test_the_same_holder_gets_the_same_lease(job: Job) -> None:
    first = await job.lease(tick=1)
    assert await job.lease(tick=99) == first
    assert (await job.commit(first.lease)).outcome is Outcome.OK


async def test_another_holder_gets_a_larger_token_and_fences_the_first(job: Job) -> None:
    first = await job.lease(holder="a", tick=5)
    second = await job.lease(holder="b", tick=5)
    assert second.lease == first.lease + LEASE_STRIDE
    assert (await job.commit(first.lease, Cursor(0, 1))).outcome is Outcome.FENCED
    assert (await job.commit(second.lease, Cursor(0, 1))).outcome is Outcome.OK


async def test_a_larger_proposal_is_taken_as_it_is(job: Job) -> None:
    await job.lease(holder="a", tick=5)
    assert (await job.lease(holder="b", tick=100)).lease == token(100)


async def test_a_new_holder_goes_on_from_the_cursor(job: Job) -> None:
    await job.commit((await job.lease(holder="a")).lease, Cursor(2, 3))
    taken = await job.lease(holder="b", now_s=2000.0)
    assert (taken.cursor, taken.lease_cursor, taken.leased_at_s, taken.last_seen_s) == (
        Cursor(2, 3),
        Cursor(2, 3),
        2000.0,
        2000.0,
    )


async def test_where_the_lease_was_taken_stays_while_the_cursor_moves(job: Job) -> None:
    lease = await job.lease(now_s=10.0)
    await job.commit(lease.lease, Cursor(0, 6), now_s=11.0)
    again = await job.lease(now_s=12.0)
    assert (again.leased_at_s, again.lease_cursor, again.cursor) == (10.0, START, Cursor(0, 6))


@pytest.mark.parametrize("other", [0, 2])
async def test_another_generation_leases_nothing(job: Job, other: int) -> None:
    before = await job.lease(holder="a")
    assert await job.store.lease(job.run, 0, "b", job.id(other), token(9), 9999.0) is None
    assert await job.store.lease(job.run, 0, "a", job.id(other), token(9), 9999.0) is None
    assert await job.record() == before


async def test_ranks_have_leases_of_their_own(job: Job) -> None:
    leases = [await job.lease(rank, holder="same") for rank in range(4)]
    assert [lease.lease % LEASE_STRIDE for lease in leases] == [0, 1, 2, 3]
    await job.lease(2, holder="other")
    assert (await job.commit(leases[1].lease, Cursor(0, 1), rank=1)).outcome is Outcome.OK


async def test_asking_again_shows_life_every_ten_seconds(job: Job) -> None:
    await job.lease(now_s=100.0)
    assert (await job.lease(now_s=109.9)).last_seen_s == 100.0
    assert (await job.lease(now_s=110.0)).last_seen_s == 110.0
    record = await job.record()
    assert record is not None
    assert (record.last_seen_s, record.leased_at_s) == (110.0, 100.0)


@pytest.mark.parametrize("holder", ["", " ", "two words", "é\n\t", "?", "0", "\0", "x" * 4096])
async def test_any_holder_is_kept(job: Job, holder: str) -> None:
    first = await job.lease(holder=holder)
    assert first.holder == holder
    assert await job.lease(holder=holder, tick=9) == first
    assert await job.record() == first
    assert (await job.commit(first.lease, Cursor(0, 1))).outcome is Outcome.OK
    moved = await job.record()
    assert moved is not None
    assert moved.holder == holder


async def test_tokens_are_exact_up_to_two_to_the_53(job: Job) -> None:
    tick = (LARGEST - LARGEST_RANK) // LEASE_STRIDE - 1
    first = await job.lease(LARGEST_RANK, "a", tick=tick)
    second = await job.lease(LARGEST_RANK, "b", tick=1)
    assert (first.lease, second.lease) == (LARGEST - LEASE_STRIDE, LARGEST)
    fenced = await job.commit(first.lease, Cursor(0, 1), rank=LARGEST_RANK, trusted=True)
    assert fenced.outcome is Outcome.FENCED
    assert (await job.commit(second.lease, Cursor(0, 1), rank=LARGEST_RANK)).outcome is Outcome.OK
    record = await job.record(LARGEST_RANK)
    assert record is not None
    assert record.lease == LARGEST


async def test_a_rank_whose_token_leaves_no_room_begins_again(job: Job) -> None:
    """As of a record that an older release adopted from a forged lease."""
    rank = LARGEST_RANK
    spoiled = (await job.lease(rank, "forged", tick=(LARGEST - rank) // LEASE_STRIDE)).lease
    assert spoiled == LARGEST
    next_ = await job.lease(rank, "a", tick=7)
    assert next_.lease == token(7, rank)
    assert (await job.commit(spoiled, Cursor(0, 1), rank=rank)).outcome is Outcome.FENCED
    assert (await job.commit(next_.lease, Cursor(0, 1), rank=rank)).outcome is Outcome.OK
    assert (await job.lease(rank, "b", tick=7)).lease == token(8, rank)


@pytest.mark.parametrize("now_s", [0.0, 0.1 + 0.2, 1e-9, 1_763_811_234.567891, 4e9])
async def test_times_are_the_callers(job: Job, now_s: float) -> None:
    await job.lease(now_s=now_s)
    record = await job.record()
    assert record is not None
    assert (record.leased_at_s, record.last_seen_s) == (now_s, now_s)
