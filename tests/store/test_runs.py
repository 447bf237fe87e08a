"""Creating, reading, listing and deleting runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from bucketline_service.errors import NotFound
from bucketline_service.store import CommitRequest, Cursor, Generation, GenerationId, RunRecord, Store
from tests.store.jobs import FIRST, START, Job, token

pytestmark = pytest.mark.anyio

ODD = Generation(
    number=7,
    session="a name, {with} all % sörts",
    world_size=10_000,
    origin=Cursor(3, 2**53),
    offset=2**53,
    birth="",
)


async def test_a_created_run_is_read_back(store: Store, name: str) -> None:
    assert await store.create_run(name, b"spec", FIRST) == (RunRecord(b"spec", FIRST), True)
    assert await store.read_run(name) == RunRecord(b"spec", FIRST)


async def test_a_taken_name_stays_as_it_is(store: Store, name: str) -> None:
    await store.create_run(name, b"spec", FIRST)
    assert await store.create_run(name, b"other", ODD) == (RunRecord(b"spec", FIRST), False)
    assert await store.read_run(name) == RunRecord(b"spec", FIRST)
    assert ODD.session is not None
    assert await store.session(name, ODD.session) == (FIRST.id, None)


async def test_the_document_is_opaque(store: Store, name: str) -> None:
    document = bytes(range(256)) * 4096
    await store.create_run(name, document, FIRST)
    assert (await store.read_run(name)).document == document
    await store.create_run(name + "-empty", b"", FIRST)
    assert (await store.read_run(name + "-empty")).document == b""


async def test_a_generation_is_read_back(store: Store, name: str) -> None:
    sessions = (None, "", "-", "+", "+x", " two  words ")
    plain = [Generation(1, session, 1, Cursor(1, 2), 3, "b1", 6) for session in sessions]
    for number, generation in enumerate([ODD, *plain]):
        run = f"{name}-{number}"
        made, _ = await store.create_run(run, b"", generation)
        assert made.generation == generation
        assert (await store.read_run(run)).generation == generation
        assert (await store.ranks(run))[0] == generation


async def test_the_first_session_is_remembered(store: Store, name: str) -> None:
    await store.create_run(name, b"", Generation(1, "first", 1, START, 0, "b"))
    assert await store.session(name, "first") == (GenerationId("b", 1), 1)


async def test_runs_are_listed_by_name(store: Store, name: str) -> None:
    wanted = [f"{name}-{suffix}" for suffix in ("B", "a", "b", "ü", "z")]
    for run in reversed(wanted):
        await store.create_run(run, b"", FIRST)
    listed = await store.list_runs()
    assert listed == sorted(listed)
    assert [run for run in listed if run.startswith(name)] == sorted(wanted)


async def test_a_deleted_run_is_not_listed(store: Store, name: str) -> None:
    await store.create_run(name, b"", FIRST)
    assert await store.delete_run(name)
    assert name not in await store.list_runs()


async def test_deleting_tells_whether_there_was_a_run(job: Job) -> None:
    assert await job.store.delete_run(job.run) is True
    assert await job.store.delete_run(job.run) is False


async def test_a_deleted_run_leaves_nothing_behind(job: Job) -> None:
    await job.lease(rank=1, tick=9)
    await job.begin(session="used")
    await job.lease(rank=2, tick=9, generation=2)
    await job.store.delete_run(job.run)
    with pytest.raises(NotFound):
        await job.store.read_run(job.run)
    again = await Job.create(job.store, job.run)
    assert await again.store.ranks(again.run) == (FIRST, [])
    assert (await again.store.session(again.run, "used"))[1] is None
    for rank in (1, 2):
        assert (await again.lease(rank, tick=1)).lease == token(1, rank)
    assert again.run in await again.store.list_runs()


async def test_any_name_is_a_run_of_its_own(store: Store, name: str) -> None:
    plain = await Job.create(store, name)
    for suffix in ("}", "{", "}:ranks", "%7D", " ", "a b", "\n", "é", ":", "*"):
        odd = await Job.create(store, name + suffix)
        lease = await odd.lease()
        assert (await odd.commit(lease.lease, Cursor(0, 5))).cursor == Cursor(0, 5)
        assert await plain.record() is None
        assert odd.run in await store.list_runs()
        assert await store.delete_run(odd.run)
        assert await store.read_run(plain.run)


UNKNOWN: dict[str, Callable[[Store, str], Awaitable[object]]] = {
    "read_run": lambda store, run: store.read_run(run),
    "session": lambda store, run: store.session(run, "s"),
    "begin": lambda store, run: store.begin(run, FIRST, FIRST.id, None),
    "lease": lambda store, run: store.lease(run, 0, "h", FIRST.id, 1 << 14, 0.0),
    "commit": lambda store, run: store.commit(
        run, CommitRequest(0, 1 << 14, FIRST.id, START, None, True, 0.0)
    ),
    "ranks": lambda store, run: store.ranks(run),
}


async def test_an_unknown_run_is_not_found(store: Store, name: str) -> None:
    for verb in UNKNOWN.values():
        with pytest.raises(NotFound, match=name):
            await verb(store, name)
    assert name not in await store.list_runs()


async def test_ping_returns(store: Store) -> None:
    for _ in range(2):
        await store.ping()


async def test_closing_twice_is_once(store: Store) -> None:
    await store.ping()
    await store.close()
    await store.close()
