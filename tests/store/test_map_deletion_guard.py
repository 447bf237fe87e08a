"""Announced runs and closed maps: one of the two comes first, and the other is refused."""

from __future__ import annotations

import pytest

from bucketline_service.store import Store, Withdrawn
from tests.store.jobs import Job, create_announced

pytestmark = pytest.mark.anyio

NOW_S = 1000.0
LATER_S = NOW_S + 300


@pytest.fixture
def map_name(name: str) -> str:
    return f"map-of-{name}"


async def test_a_run_that_was_announced_is_created(store: Store, name: str, map_name: str) -> None:
    assert await store.announce_run(name, "b1", [map_name], NOW_S) == []
    assert await create_announced(store, name, "b1")
    assert (await store.read_run(name)).generation.birth == "b1"
    assert not await create_announced(store, name, "b2")  # it is there: nothing is asked of who comes later


async def test_one_that_was_not_announced_is_not(store: Store, name: str) -> None:
    with pytest.raises(Withdrawn):
        await create_announced(store, name, "b1")
    await store.announce_run(name, "b1", [], NOW_S)
    for run, birth in ((name, "b2"), (f"{name}-other", "b1")):
        with pytest.raises(Withdrawn):
            await create_announced(store, run, birth)
    listed = await store.list_runs()
    assert not [run for run in listed if run.startswith(name)]
    assert await create_announced(store, name, "b1")
    await store.delete_run(name)
    with pytest.raises(Withdrawn):  # once
        await create_announced(store, name, "b1")


async def test_who_announces_a_closed_map_is_told_which(store: Store, name: str, map_name: str) -> None:
    await store.close_map(map_name, f"{name}-mark", LATER_S)
    maps = ["another", map_name]
    assert await store.announce_run(name, "b1", maps, NOW_S) == [map_name]
    assert await store.announce_run(name, "b1", ["another"], NOW_S) == []
    await store.open_map(f"{name}-mark")
    assert await store.announce_run(name, "b1", maps, NOW_S) == []
    assert await create_announced(store, name, "b1")


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
    assert await create_announced(store, made, "b1")
    await store.close_map(map_name, f"{name}-mark", LATER_S)
    assert made in await store.list_runs()
    with pytest.raises(Withdrawn):
        await create_announced(store, late, "b1")
    assert not await create_announced(store, made, "b1")
    await store.open_map(f"{name}-mark")


async def test_a_deleted_run_takes_its_announcements_along(store: Store, name: str) -> None:
    await store.announce_run(name, "b1", [], NOW_S)
    assert await store.delete_run(name) is False
    with pytest.raises(Withdrawn):
        await create_announced(store, name, "b1")
    await Job.create(store, name)
    await store.announce_run(name, "b2", [], NOW_S)
    assert await store.delete_run(name) is True
    assert name not in await store.list_runs()
