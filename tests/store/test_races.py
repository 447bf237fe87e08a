"""Atomicity: 8 threads at once, and exactly one winner."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from bucketline_service.store import (
    Begun,
    Commit,
    Cursor,
    Generation,
    GenerationId,
    Outcome,
    RankRecord,
    RunRecord,
    Store,
    Withdrawn,
)
from bucketline_service.store.redis.clients import MAX_CONNECTIONS
from tests.store.jobs import FIRST, START, Job, create_announced, token
from tests.store.threads import NUM_THREADS, in_store, race

NOW_S = 1000.0
LATER_S = NOW_S + 300
WRITER = Path(__file__).with_name("writer.py")


def test_one_thread_creates_a_run(url: str, name: str) -> None:
    async def create(store: Store, number: int) -> tuple[RunRecord, bool]:
        return await store.create_run(name, f"from {number}".encode(), FIRST)

    answers = race(url, create)
    assert [made for _, made in answers].count(True) == 1
    assert len({record.document for record, _ in answers}) == 1
    winner = [made for _, made in answers].index(True)
    assert answers[0][0].document == f"from {winner}".encode()


def test_one_thread_deletes_a_run(url: str, name: str) -> None:
    in_store(url, lambda store: Job.create(store, name))

    async def delete(store: Store, _: int) -> bool:
        return await store.delete_run(name)

    assert race(url, delete).count(True) == 1


def test_a_run_created_and_deleted_at_once_is_listed_if_it_is_there(url: str, name: str) -> None:
    async def create_or_delete(store: Store, number: int) -> None:
        for _ in range(8):
            if number % 2:
                await store.create_run(name, b"", FIRST)
            else:
                await store.delete_run(name)
        if number == 1:
            await store.create_run(name, b"", FIRST)

    race(url, create_or_delete, num=4)

    async def is_listed(store: Store) -> tuple[bool, bool]:
        listed = name in await store.list_runs()
        return listed, await store.delete_run(name)

    listed, was_there = in_store(url, is_listed)
    assert listed == was_there


def test_one_thread_begins_a_generation(url: str, name: str) -> None:
    in_store(url, lambda store: Job.create(store, name))

    async def begin(store: Store, number: int) -> Begun:
        return await Job(store, name).begin(2, session=f"s{number}", offset=number)

    answers = race(url, begin)
    winners = [answer for answer in answers if answer.begun]
    assert len(winners) == 1
    assert {answer.generation for answer in answers} == {winners[0].generation}


def test_a_session_begins_once(url: str, name: str) -> None:
    """All threads try the same session again and again, each with the number that is next."""
    in_store(url, lambda store: Job.create(store, name))

    async def begin(store: Store, _: int) -> list[bool]:
        job, begun = Job(store, name), []
        for _ in range(5):
            present = (await store.read_run(name)).generation.number
            begun.append((await job.begin(present + 1, session="same")).begun)
        return begun

    assert [begun for answers in race(url, begin) for begun in answers].count(True) == 1
    assert in_store(url, lambda store: store.session(name, "same")) == (GenerationId(FIRST.birth, 2), 2)


def test_every_holder_gets_a_token_of_its_own_and_the_last_one_stands(url: str, name: str) -> None:
    in_store(url, lambda store: Job.create(store, name))

    async def lease(store: Store, number: int) -> RankRecord:
        return await Job(store, name).lease(holder=f"h{number}")

    records = race(url, lease)
    tokens = sorted(record.lease for record in records)
    assert tokens == [token(tick) for tick in range(1, NUM_THREADS + 1)]

    async def commit(store: Store, number: int) -> Commit:
        return await Job(store, name).commit(records[number].lease, Cursor(0, 1))

    outcomes = [commit.outcome for commit in race(url, commit)]
    assert outcomes.count(Outcome.OK) == 1
    assert records[outcomes.index(Outcome.OK)].lease == tokens[-1]


def test_one_holder_in_many_threads_has_one_lease(url: str, name: str) -> None:
    in_store(url, lambda store: Job.create(store, name))

    async def lease(store: Store, number: int) -> RankRecord:
        return await Job(store, name).lease(holder="peers", tick=number + 1, now_s=float(number))

    assert len({record.lease for record in race(url, lease)}) == 1


def test_racing_commits_only_move_forward(url: str, name: str) -> None:
    async def prepare(store: Store) -> int:
        return (await (await Job.create(store, name)).lease()).lease

    lease = in_store(url, prepare)

    async def commit(store: Store, number: int) -> list[tuple[Cursor, Cursor]]:
        job, seen = Job(store, name), []
        for i in range(10):
            asked = Cursor(i // 4, (number * 7 + i * 13) % 40)
            seen.append((asked, (await job.commit(lease, asked)).cursor))
        return seen

    answers = race(url, commit)
    for seen in answers:
        after = [cursor for _, cursor in seen]
        assert after == sorted(after)
        assert all(asked <= cursor for asked, cursor in seen)
    record = in_store(url, lambda store: Job(store, name).record())
    assert record is not None
    assert record.cursor == max(asked for seen in answers for asked, _ in seen)


def test_a_rank_moves_or_the_job_begins_again_but_not_both(url: str, name: str) -> None:
    """``begin`` asks that the only rank stands at the start, while others move it from there."""
    first = Generation(1, None, 1, START, 0, "b")

    async def prepare(store: Store) -> int:
        return (await (await Job.create(store, name, first)).lease()).lease

    lease = in_store(url, prepare)

    async def begin_or_commit(store: Store, number: int) -> bool:
        job = Job(store, name, first)
        if number % 2:
            return (await job.begin(2, START, session=f"s{number}")).begun
        return (await job.commit(lease, Cursor(0, number + 1))).outcome is Outcome.OK

    answers = race(url, begin_or_commit)
    moved, begun = answers[::2], answers[1::2]
    assert (begun.count(True), any(moved)) in [(1, False), (0, True)]


def test_commits_that_race_a_begin_change_nothing_after_it(url: str, name: str) -> None:
    async def prepare(store: Store) -> int:
        return (await (await Job.create(store, name)).lease()).lease

    lease = in_store(url, prepare)

    async def begin_or_commit(store: Store, number: int) -> list[Outcome]:
        job = Job(store, name)
        if number == 0:
            await job.begin(2)
            return []
        return [(await job.commit(lease, Cursor(number, step))).outcome for step in range(10)]

    for outcomes in race(url, begin_or_commit):
        assert set(outcomes) <= {Outcome.OK, Outcome.STALE}
        assert outcomes == sorted(outcomes, key=lambda outcome: outcome is Outcome.STALE)
    assert in_store(url, lambda store: store.ranks(name))[1] == []


def test_more_requests_than_connections_wait_for_one(url: str, name: str) -> None:
    """Of one store, at once, and all to the same node of a cluster."""
    num = 2 * MAX_CONNECTIONS

    async def scenario(store: Store) -> None:
        job = await Job.create(store, name, Generation(1, None, num, START, 0, "b"))
        records = await asyncio.gather(*(job.lease(rank) for rank in range(num)))
        assert [record.rank for record in records] == list(range(num))

    in_store(url, scenario)


def test_processes_share_a_store(url: str, name: str) -> None:
    """Two processes take the same rank from each other: no token is given twice."""
    in_store(url, lambda store: Job.create(store, name))
    command = [sys.executable, "-W", "error", str(WRITER), "lease", url, name, "20"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    tokens = [int(line) for process in processes for line in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0] * 2
    assert len(tokens) == len(set(tokens)) == 40


def test_abandoned_requests_leave_the_store_in_order(url: str, name: str) -> None:
    """A caller disconnects in the middle: the next ones still get their own answers."""

    async def scenario(store: Store) -> None:
        job = await Job.create(store, name)
        leases = [await job.lease(rank) for rank in range(4)]
        for i in range(21):
            abandoned = asyncio.ensure_future(job.commit(leases[0].lease, Cursor(0, i)))
            for _ in range(i % 7):
                await asyncio.sleep(0)
            abandoned.cancel()
            asked = [job.lease(rank) for rank in (1, 2, 3)]
            assert [record.rank for record in await asyncio.gather(*asked)] == [1, 2, 3]
        assert (await job.commit(leases[0].lease, Cursor(1, 0))).cursor == Cursor(1, 0)

    in_store(url, scenario)


def test_no_run_is_created_that_a_closing_has_not_seen(url: str, name: str) -> None:
    """Half of the threads create runs on a map, and say so only once they are created; the others close it, look, and
    open it again. Each run that was created before a closing is over was announced before it, and is listed."""
    rounds, map_name = 2, f"map-of-{name}"

    async def put(store: Store, number: int) -> list[str]:
        made = []
        for i in range(rounds):
            run, birth = f"{name}-{number}-{i}", f"{number}x{i}"
            while True:
                if await store.announce_run(run, birth, [map_name], NOW_S):
                    await asyncio.sleep(0.001)
                    continue
                try:
                    assert await create_announced(store, run, birth)
                except Withdrawn:
                    continue
                made.append(run)
                break
        return made

    async def close(store: Store, number: int) -> list[str]:
        """The runs that were there as the map was closed, but not as it was closed first."""
        appeared = []
        for i in range(rounds):
            mark = f"{name}-{number}-{i}"
            await store.close_map(map_name, mark, LATER_S)
            first = set(await store.list_runs())
            for _ in range(3):
                appeared += [run for run in await store.list_runs() if run not in first]
            await store.open_map(mark)
        return appeared

    async def both(store: Store, number: int) -> tuple[bool, list[str]]:
        return bool(number % 2), await (put if number % 2 else close)(store, number)

    answers = race(url, both, num=6)
    ours = f"{name}-"
    assert [run for is_put, runs in answers if not is_put for run in runs if run.startswith(ours)] == []
    made = sorted(run for is_put, runs in answers if is_put for run in runs)
    assert made == sorted(
        run for run in in_store(url, lambda store: store.list_runs()) if run.startswith(ours)
    )


def test_a_run_that_is_put_and_deleted_and_closed_at_once_is_always_listed(url: str, name: str) -> None:
    """One name, so that what a deletion does to the index meets what a creation does."""

    async def one_of_three(store: Store, number: int) -> list[bool]:
        seen = []
        for i in range(4):
            if number % 3 == 0:
                await store.announce_run(name, f"{number}x{i}", [name], NOW_S)
                try:
                    await create_announced(store, name, f"{number}x{i}")
                except Withdrawn:
                    continue
            elif number % 3 == 1:
                await store.delete_run(name)
            else:
                mark = f"{name}-{number}-{i}"
                await store.close_map(name, mark, LATER_S)
                was_listed = name in await store.list_runs()
                is_listed = name in await store.list_runs()
                seen.append(was_listed or not is_listed)
                await store.open_map(mark)
        return seen

    assert all(seen for answers in race(url, one_of_three, num=6) for seen in answers)
