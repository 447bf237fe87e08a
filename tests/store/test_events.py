"""The event log: one list for all, in one order, bounded, and without duplicates."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from bucketline_service.store import KeptEvent, NewEvent, Store, open_store
from bucketline_service.store.port import MAX_EVENTS
from tests.store.conftest import TIMEOUT_S
from tests.store.jobs import Job

pytestmark = pytest.mark.anyio


def event(run: str | None = None, document: bytes = b'{"a b": "\xc3\xb6"}') -> NewEvent:
    return NewEvent(uuid.uuid4().hex, run, document)


async def newest(store: Store) -> int:
    """The id of the newest event; the stores are shared."""
    return max((kept.id for kept in await store.events(None, 0, 1)), default=0)


async def test_events_come_newest_first_as_they_were_recorded(store: Store, name: str) -> None:
    before = await newest(store)
    first, second, third = event(name, b""), event(None), event(name)
    await store.record([first, second], 0)
    await store.record([third], 0)
    kept = await store.events(None, before, 10)
    assert [(each.run, each.document) for each in kept] == [
        (each.run, each.document) for each in (third, second, first)
    ]
    assert [each.id for each in kept] == sorted((each.id for each in kept), reverse=True)
    assert len({each.id for each in kept}) == 3


async def test_only_what_is_asked_for_is_told(store: Store, name: str) -> None:
    mine = [event(name, str(number).encode()) for number in range(6)]
    await store.record([each for pair in zip(mine, [event() for _ in mine], strict=True) for each in pair], 0)
    kept = await store.events(name, 0, 100)
    assert [each.document for each in kept] == [b"5", b"4", b"3", b"2", b"1", b"0"]
    assert await store.events(name, 0, 2) == kept[:2]
    assert await store.events(name, kept[3].id, 100) == kept[:3]
    assert await store.events(name, kept[0].id, 100) == []
    assert len(await store.events(None, kept[-1].id, 4)) == 4
    assert await store.events(f"{name}-other", 0, 100) == []


async def test_a_repeat_changes_nothing(store: Store, name: str) -> None:
    events = [event(name), event(name)]
    await store.record(events, 0)
    kept = await store.events(name, 0, 10)
    await store.record(events, kept[0].id + 1000)
    await store.record([*events, event(name)], 0)  # and what is new in it counts
    again = await store.events(name, 0, 10)
    assert again[1:] == kept
    assert again[0].id == kept[0].id + 1


async def test_ids_grow_with_what_the_caller_says_and_never_fall(store: Store, name: str) -> None:
    least = await newest(store) + 1_000
    await store.record([event(name), event(name)], least)
    await store.record([event(name)], 5)
    assert [each.id for each in await store.events(name, 0, 10)] == [least + 2, least + 1, least]


async def test_the_newest_are_kept(store: Store, name: str) -> None:
    await store.record([event(name, b"old")], 0)
    (old,) = await store.events(name, 0, 10)
    await store.record([event(None) for _ in range(MAX_EVENTS - 1)], 0)
    assert await store.events(name, 0, 10) == [old]
    await store.record([event(name, b"new")], 0)
    assert [each.document for each in await store.events(name, 0, 10)] == [b"new"]
    assert len(await store.events(None, 0, 2 * MAX_EVENTS)) == MAX_EVENTS


async def test_an_event_outlives_its_run_and_the_process(url: str, job: Job) -> None:
    await job.store.record([event(job.run, b"told")], 0)
    await job.store.delete_run(job.run)
    other = open_store(url, timeout_s=TIMEOUT_S)
    assert [each.document for each in await other.events(job.run, 0, 10)] == [b"told"]
    await other.close()


async def test_processes_that_record_together_lose_none(url: str, name: str) -> None:
    stores = [open_store(url, timeout_s=TIMEOUT_S) for _ in range(4)]
    told = [[event(name) for _ in range(10)] for _ in stores]
    await asyncio.gather(
        *(store.record([each], 0) for store, mine in zip(stores, told, strict=True) for each in mine)
    )
    kept: list[KeptEvent] = await stores[0].events(name, 0, 100)
    assert len({each.id for each in kept}) == len(kept) == 40
    for store in stores:
        await store.close()
