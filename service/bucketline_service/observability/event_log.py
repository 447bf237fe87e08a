"""The event log: what is reported to operators, kept in the store, so that every replica shows the same list.

``EventLog.emit`` never waits. It writes the event's log line (``event_kinds.py``) and notes the event; a task writes
all noted events in one call to the store, at most once per ``PACE_S``. What the store does not accept stays here until
it does. Occurrences of a repeated event are counted: see ``_Repeats``.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import orjson

from bucketline_service import event_kinds
from bucketline_service.errors import StoreUnavailable
from bucketline_service.store.port import MAX_EVENTS, NewEvent, Store

PACE_S = 0.5
HOLD_S, MAX_HOLD_S = 2.0, 300.0
"""How long occurrences of a repeated event are gathered before they are written, at first and at most."""

MANY_RANKS = 8
"""If more ranks of a run than this have the same event at a time, one event stands for all of them."""

MAX_NOTED = 20_000
"""Repeated events that are distinguished by run and rank at a time."""

MAX_WRITTEN = 200
"""Events in one write."""

RETRY_S, MAX_RETRY_S = 1.0, 5.0
CLOSE_S = 1.0
"""How long ``close`` waits until the last events are written."""

MAX_TEXT = 200

_MEMBERS = {"at", "since", "event", "run", "rank", "count", "fields"}

Value = int | float | str | None


class EventLog:
    """One per coordinator process, used on the store's event loop. ``clock`` gives Unix seconds; ``ticks`` gives the
    seconds by which repeated events are held back."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        ticks: Callable[[], float] = time.monotonic,
        pace_s: float = PACE_S,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ticks = ticks
        self._pace_s = pace_s
        self._repeats = _Repeats()
        self._unwritten: deque[NewEvent] = deque(maxlen=MAX_EVENTS)
        self._source, self._num_made = secrets.token_hex(8), 0
        self._process = {"replica": socket.gethostname(), "pid": os.getpid()}
        self._out_since_s: float | None = None
        self._retry_s = RETRY_S
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        store.watch(self._store_failed)

    def emit(self, event: str, run: str | None = None, rank: int | None = None, **fields: Value) -> None:
        """Report an event that ``event_kinds.EVENTS`` registers as kept. ``fields`` are numbers and names, never a
        token."""
        if self._is_closed:
            return
        about = {name: value for name, value in (("run", run), ("rank", rank)) if value is not None}
        event_kinds.log(event, **about, **fields)
        short = {
            name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in fields.items()
        }
        self._repeats.add(_Key(event, run, rank), short, self._clock(), self._ticks())
        if self._task is None or self._task.done():
            # an empty context: the task is not part of the request that happens to be first
            create = asyncio.get_running_loop().create_task
            self._task = contextvars.Context().run(create, self._write_all())

    async def read(self, run: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        """The events of all replicas, newest first, of one run or of all. Damaged ones are left out."""
        found = []
        for event in await self._store.events(run, after, limit):
            with suppress(ValueError, AttributeError):
                document = orjson.loads(event.document)
                if document.keys() >= _MEMBERS:
                    found.append({"id": event.id, **document})
        return found

    async def close(self) -> None:
        """Write the remaining events, for at most ``CLOSE_S``, and accept no more."""
        self._is_closed = True
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        self._take(math.inf)

        async def write() -> None:
            while self._unwritten and await self._write():
                pass

        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(write(), CLOSE_S)

    async def _write_all(self) -> None:
        """Run until nothing is left to write and the store is available."""
        while True:
            self._take(self._ticks())
            wait_s = self._pace_s
            if self._unwritten or self._out_since_s is not None:
                if not await self._write():
                    wait_s, self._retry_s = self._retry_s, min(2 * self._retry_s, MAX_RETRY_S)
            elif not self._repeats.is_pending:
                return
            await asyncio.sleep(wait_s)

    async def _write(self) -> bool:
        """Write the oldest events, or ping where there are none. False if the store is unavailable."""
        oldest = [self._unwritten[i] for i in range(min(len(self._unwritten), MAX_WRITTEN))]
        try:
            if oldest:
                await self._store.record(oldest, int(self._clock() * 1000))
            else:
                await self._store.ping()
        except StoreUnavailable:
            return False
        for _ in oldest:
            self._unwritten.popleft()
        self._retry_s = RETRY_S
        if self._out_since_s is not None:
            lasted_s, self._out_since_s = self._clock() - self._out_since_s, None
            self.emit("store_back", lasted_s=round(lasted_s, 3))
        return True

    def _store_failed(self, error: StoreUnavailable) -> None:
        """Report an outage once, when it begins."""
        if self._out_since_s is None and not self._is_closed:
            self._out_since_s = self._clock()
            self.emit("store_unavailable", detail=error.detail)

    def _take(self, now_s: float) -> None:
        for document in self._repeats.take(now_s):
            self._num_made += 1
            text = orjson.dumps({**document, **self._process})
            self._unwritten.append(NewEvent(f"{self._source}-{self._num_made}", document["run"], text))


class _Key(NamedTuple):
    """What occurrences have in common that are counted in one event. ``number`` keeps an event by itself that is not
    repeated; it is 0 for one that is."""

    event: str
    run: str | None
    rank: int | None
    number: int = 0


@dataclass
class _Noted:
    """``num`` occurrences since the last event was taken; the next is due at ``due_s``. ``place``: the position of the
    newest occurrence among all that were added."""

    since_s: float
    due_s: float
    at_s: float = 0.0
    place: int = 0
    num: int = 0
    hold_s: float = HOLD_S
    fields: dict[str, Value] = field(default_factory=dict)


class _Repeats:
    """Occurrences on their way to become events.

    The first occurrence of a run and rank is taken at once. Those that follow are gathered into one event with a count,
    after a time that doubles while they continue: a worker that calls in a tight loop must not fill the list.
    """

    def __init__(self) -> None:
        self._noted: dict[_Key, _Noted] = {}
        self._num_added = 0

    @property
    def is_pending(self) -> bool:
        return any(noted.num for noted in self._noted.values())

    def add(self, key: _Key, fields: dict[str, Value], at_s: float, now_s: float) -> None:
        """``at_s`` is in Unix seconds, ``now_s`` in ticks."""
        self._num_added += 1
        if not event_kinds.EVENTS[key.event].is_repeated:
            key = key._replace(number=self._num_added)
        if key not in self._noted and len(self._noted) >= MAX_NOTED:
            key = _Key(key.event, None, None)
        noted = self._noted.get(key)
        if noted is None or (not noted.num and noted.due_s <= now_s):
            noted = self._noted[key] = _Noted(at_s, now_s)
        elif not noted.num:
            noted.since_s = at_s
        noted.num += 1
        noted.at_s, noted.place, noted.fields = at_s, self._num_added, fields

    def take(self, now_s: float) -> list[dict[str, Any]]:
        """The events that are due, in the order of their newest occurrence."""
        due = [(key, noted) for key, noted in self._noted.items() if noted.due_s <= now_s]
        for key, noted in due:
            if not noted.num:
                del self._noted[key]  # it has not recurred
        taken = sorted((each for each in due if each[1].num), key=_group)
        documents = [each for _, group in groupby(taken, key=_group) for each in _documents(list(group))]
        for _, noted in taken:
            noted.hold_s = min(2 * noted.hold_s, MAX_HOLD_S) if noted.num > 1 else HOLD_S
            noted.num, noted.due_s = 0, now_s + noted.hold_s
        return [document for _, document in sorted(documents, key=lambda each: each[0])]


def _group(taken: tuple[_Key, _Noted]) -> tuple[str, str, bool]:
    key, _ = taken
    return key.event, key.run or "", key.rank is None


def _documents(group: list[tuple[_Key, _Noted]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The events of one name and run, each with its place: one per rank, or a single one for many ranks."""
    key, _ = group[0]
    if key.rank is None or len(group) <= MANY_RANKS:
        yield from (_document(key, [noted]) for key, noted in group)
        return
    place, document = _document(key._replace(rank=None), [noted for _, noted in group])
    document["fields"]["num_ranks"] = len(group)
    yield place, document


def _document(key: _Key, noted: list[_Noted]) -> tuple[int, dict[str, Any]]:
    """One event; its ``fields`` are those of the newest occurrence."""
    newest = max(noted, key=lambda each: each.place)
    document = {
        "at": newest.at_s,
        "since": min(each.since_s for each in noted),
        "event": key.event,
        "run": key.run,
        "rank": key.rank,
        "count": sum(each.num for each in noted),
        "fields": dict(newest.fields),
    }
    return newest.place, document
