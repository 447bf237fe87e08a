"""Runs that are announced and maps that are closed: of the two, one comes first, and the other is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from bucketline_service.store import Store, Withdrawn
from tests.store.jobs import FIRST, Job
from tests.store.threads import in_store, race

pytestmark = pytest.mark.anyio

NOW_S = 1000.0
LATER_S = NOW_S + 300


@pytest.fixture
def map_name(name: str) -> str:
    return f"map-of-{name}"


async def create(store: Store, run: str, birth: str) -> bool:
    _, created = await store.create_run(run, b"", replace(FIRST, birth=birth), announced=True)
    return created


async def test_a_run_that_was_announced_is_created(store: Store, name: str, map_name: str) -> None:
    assert await store.announce_run(name, "b1", [map_name], NOW_S) == []
    assert await create(store, name, "b1")
    assert (await store.read_run(name)).generation.birth == "b1"
    assert not await create(store, name, "b2")  # it is there: nothing is asked of who comes later


async def test_one_that_was_not_announced_is_not(store: Store, name: str) -> None:
    with pytest.raises(Withdrawn):
        await create(store, name, "b1")
    await store.announce_run(name, "b1", [], NOW_S)
    for run, birth in ((name, "b2"), (f"{name}-other", "b1")):
        with pytest.raises(Withdrawn):
            await create(store, run, birth)
    listed = await store.list_runs()
    assert not [run for run in listed if run.startswith(name)]
    assert await create(store, name, "b1")
    await store.delete_run(name)
    with pytest.raises(Withdrawn):  # once
        await create(store, name, "b1")


async def test_who_announces_a_closed_map_is_told_which(store: Store, name: str, map_name: str) -> None:
    await store.close_map(map_name, f"{name}-mark", LATER_S)
    maps = ["another", map_name]
    assert await store.announce_run(name, "b1", maps, NOW_S) == [map_name]
    assert await store.announce_run(name, "b1", ["another"], NOW_S) == []
    await store.open_map(f"{name}-mark")
    assert await store.announce_run(name, "b1", maps, NOW_S) == []
    assert await create(store, name, "b1")


async def test_a_closed_map_opens_by_itself(store: Store, name: str, map_name: str) -> None:
    await store.close_map(map_name, f"{name}-mark", LATER_S)
    assert await store.announce_run(name, "b1", [map_name], LATER_S - 1) == [map_name]
    assert await store.announce_run(name, "b1", [map_name], LATER_S + 1) == []
    await store.open_map(f"{name}-mark")


async def test_each_mark_closes_by_itself(store: Store, name: str, map_name: str) -> None:
    for mark in ("one", "two"):
        await store.close_map(map_name, f"{name}-{mark}", LATER_S)
    await store.open_map(f"{name}-one")
    await store.open_map("never-closed")
    assert await store.announce_run(name, "b1", [map_name], NOW_S) == [map_name]
    await store.open_map(f"{name}-two")
    assert await store.announce_run(name, "b1", [map_name], NOW_S) == []


async def test_closing_withdraws_what_was_announced_and_leaves_what_was_created(
    store: Store, name: str, map_name: str
) -> None:
    made, late = f"{name}-made", f"{name}-late"
    for run in (made, late):
        assert await store.announce_run(run, "b1", [map_name], NOW_S) == []
    assert await create(store, made, "b1")
    await store.close_map(map_name, f"{name}-mark", LATER_S)
    assert made in await store.list_runs()
    with pytest.raises(Withdrawn):
        await create(store, late, "b1")
    assert not await create(store, made, "b1")
    await store.open_map(f"{name}-mark")


async def test_a_deleted_run_takes_its_announcements_along(store: Store, name: str) -> None:
    await store.announce_run(name, "b1", [], NOW_S)
    assert await store.delete_run(name) is False
    with pytest.raises(Withdrawn):
        await create(store, name, "b1")
    await Job.create(store, name)
    await store.announce_run(name, "b2", [], NOW_S)
    assert await store.delete_run(name) is True
    assert name not in await store.list_runs()


def test_no_run_is_created_that_a_closing_has_not_seen(url: str, name: str) -> None:
    """Half of the threads create runs on a map, and say so only once they are created; the others close it, look, and
    open it again. Each run that was created before a closing is over was announced before it, and is listed."""
    rounds, map_name = 8, f"map-of-{name}"

    async def put(store: Store, number: int) -> list[str]:
        made = []
        for i in range(rounds):
            run, birth = f"{name}-{number}-{i}", f"{number}x{i}"
            while True:
                if await store.announce_run(run, birth, [map_name], NOW_S):
                    await asyncio.sleep(0.001)
                    continue
                try:
                    assert await create(store, run, birth)
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

    answers = race(url, both, num=8)
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
        for i in range(20):
            if number % 3 == 0:
                await store.announce_run(name, f"{number}x{i}", [name], NOW_S)
                try:
                    await create(store, name, f"{number}x{i}")
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
