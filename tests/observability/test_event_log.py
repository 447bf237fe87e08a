"""Events on their way into the store: repeated ones become one with a count, and an outage loses none."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import bucketline_service as service
from bucketline_service import event_kinds
from bucketline_service.observability.event_log import (
    HOLD_S,
    MANY_RANKS,
    MAX_HOLD_S,
    EventLog,
)
from bucketline_service.store import Store, open_store
from bucketline_service.store.port import MAX_EVENTS
from tests.shell import ROOT

pytestmark = pytest.mark.anyio

WAIT_S, EVERY_S = 30.0, 0.01


class Clock:
    """Unix seconds, and the seconds by which an event log holds things back: they stand still."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = open_store(f"sqlite:///{tmp_path}/mounted/state.db", timeout_s=WAIT_S)
    yield store
    await store.close()


@pytest.fixture
async def event_log(store: Store, clock: Clock) -> AsyncIterator[EventLog]:
    event_log = EventLog(store, clock, clock, EVERY_S)
    yield event_log
    await event_log.close()


async def until(
    event_log: EventLog, condition: Callable[[list[dict[str, Any]]], object]
) -> list[dict[str, Any]]:
    """The events, newest first, as soon as the condition holds of them."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition(events := await event_log.read(None, 0, MAX_EVENTS)):
        assert time.monotonic() < deadline_s, events
        await asyncio.sleep(EVERY_S)
    return events


def brief(events: list[dict[str, Any]]) -> list[tuple[str, str | None, int | None, int]]:
    """Oldest first."""
    return [(each["event"], each["run"], each["rank"], each["count"]) for each in reversed(events)]


async def test_a_worker_gone_mad_is_told_of_once_in_a_while(event_log: EventLog, clock: Clock) -> None:
    for _ in range(3):
        clock.now_s += 0.25
        event_log.emit("fenced", "run", 1, generation=2)
    (first,) = await until(event_log, len)
    assert (first["count"], first["since"], first["at"]) == (3, clock.now_s - 0.5, clock.now_s)
    assert (first["fields"], first["rank"]) == ({"generation": 2}, 1)

    hold_s = HOLD_S
    for round_ in range(2, 12):
        hold_s = min(2 * hold_s, MAX_HOLD_S)
        clock.now_s += 0.9 * hold_s
        for _ in range(500):
            event_log.emit("fenced", "run", 1, generation=2)
        event_log.emit("map_put", map=f"m{round_}")  # written by itself: the fences are held back
        events = await until(event_log, lambda found: found[0]["event"] == "map_put")
        assert [each["count"] for each in events if each["event"] == "fenced"] == [500] * (round_ - 2) + [3]
        clock.now_s += 0.2 * hold_s
        await until(event_log, lambda found: found[0]["event"] == "fenced")
    assert hold_s == MAX_HOLD_S


async def test_another_rank_or_run_is_told_at_once(event_log: EventLog) -> None:
    event_log.emit("fenced", "run", 1)
    await until(event_log, len)
    event_log.emit("fenced", "run", 1)
    event_log.emit("fenced", "run", 2)
    event_log.emit("fenced", "other", 1)
    events = await until(event_log, lambda found: len(found) == 3)
    assert brief(events) == [("fenced", "run", 1, 1), ("fenced", "run", 2, 1), ("fenced", "other", 1, 1)]


async def test_of_many_ranks_one_event_tells(event_log: EventLog) -> None:
    for rank in range(MANY_RANKS):
        event_log.emit("lease_given", "small", rank, holder=f"worker {rank}")
    for rank in range(1000):
        event_log.emit("lease_given", "large", rank, holder=f"worker {rank}")
    events = await until(event_log, len)
    large = [each for each in events if each["run"] == "large"]
    assert brief(large) == [("lease_given", "large", None, 1000)]
    assert large[0]["fields"]["num_ranks"] == 1000
    assert brief([each for each in events if each["run"] == "small"]) == [
        ("lease_given", "small", rank, 1) for rank in range(MANY_RANKS)
    ]


async def test_what_somebody_asked_for_stands_by_itself(event_log: EventLog) -> None:
    names = [f"map-{number}" for number in range(20)]
    for name in names:
        event_log.emit("map_put", map=name, num_images=5)
    events = await until(event_log, len)
    assert [each["fields"]["map"] for each in reversed(events)] == names


async def test_the_last_ones_are_written_at_the_end(store: Store, clock: Clock) -> None:
    first = EventLog(store, clock, clock, EVERY_S)
    first.emit("fenced", "run", 0)
    await until(first, len)
    first.emit("fenced", "run", 0)  # held back
    first.emit("coordinator_stopped")
    await first.close()
    first.emit("fenced", "run", 0)  # too late
    assert [each[0] for each in brief(await first.read(None, 0, 10))] == [
        "fenced",
        "fenced",
        "coordinator_stopped",
    ]


async def test_an_outage_is_two_events_and_loses_none(tmp_path: Path, clock: Clock) -> None:
    """The disk is unmounted, as far as the store can tell."""
    folder = tmp_path / "mounted"
    store = open_store(f"sqlite:///{folder}/state.db", timeout_s=WAIT_S)
    event_log = EventLog(store, clock, clock, EVERY_S)
    event_log.emit("map_put", map="before")
    await until(event_log, len)
    folder.rename(tmp_path / "elsewhere")
    for _ in range(50):
        clock.now_s += 0.1
        with pytest.raises(Exception, match="No such file"):
            await store.list_runs()
        event_log.emit("map_put", map="meanwhile")
    (tmp_path / "elsewhere").rename(folder)
    events = await until(event_log, lambda found: found[0]["event"] == "store_back")
    names = [each["event"] for each in reversed(events)]
    assert names == ["map_put", "store_unavailable", *["map_put"] * 50, "store_back"]
    out, back = events[-2], events[0]
    assert out["at"] < events[1]["at"] <= back["at"]
    assert back["fields"] == {"lasted_s": pytest.approx(4.9)}
    assert "No such file" in out["fields"]["detail"]
    await event_log.close()
    await store.close()


async def test_a_long_outage_keeps_the_newest(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("")
    store = open_store(f"sqlite:///{tmp_path}/file/state.db", timeout_s=WAIT_S)
    event_log = EventLog(store, clock, clock, EVERY_S)
    for number in range(MAX_EVENTS + 200):
        clock.now_s += 1
        event_log.emit("map_put", map=str(number))
    await event_log.close()  # without success, and soon
    (tmp_path / "file").unlink()
    await event_log.close()
    events = await event_log.read(None, 0, 2 * MAX_EVENTS)
    assert len(events) == MAX_EVENTS
    assert events[0]["fields"]["map"] == str(MAX_EVENTS + 199)
    await store.close()


CALL = re.compile(r"(?:event_log\.emit|self\.emit|self\._tell|event_kinds\.log)\(\s*\"(\w+)\"")


def test_every_event_is_registered_and_every_registered_one_is_reported() -> None:
    reported = {
        name for file in Path(service.__path__[0]).rglob("*.py") for name in CALL.findall(file.read_text())
    }
    assert reported == set(event_kinds.EVENTS)


def test_every_event_is_documented() -> None:
    """Those that are kept in the protocol, those that only have a log line in the operator's guide."""
    protocol = (ROOT / "docs/reference/http.md").read_text()
    operations = (ROOT / "docs/how-to/monitoring.md").read_text()
    for name, kind in event_kinds.EVENTS.items():
        assert f"`{name}`" in (protocol if kind.is_kept else operations), name


async def test_emitting_waits_for_nobody(store: Store, clock: Clock) -> None:
    """The task is the only one that calls the store, and ends when there are no more events."""
    event_log = EventLog(store, clock, clock, EVERY_S)
    before = len(asyncio.all_tasks())
    for rank in range(100):
        event_log.emit("fenced", "run", rank % 4)
    assert len(asyncio.all_tasks()) == before + 1
    await until(event_log, len)
    deadline_s = time.monotonic() + WAIT_S
    while len(asyncio.all_tasks()) > before:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(EVERY_S)
    assert event_log.emit("fenced", "run", 1) is None
    await event_log.close()
