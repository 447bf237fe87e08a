"""What operators are to hear of: recent events, kept in the store, where all replicas show the same.

Nobody waits for them. ``tell`` only takes note; a task writes what is noted, all of it in one round trip, and no
oftener than every ``PACE_S``. What the store does not take waits here until it does. Of what comes by itself, such as
a fence, the first of a run and rank is told at once, and those that follow within a while as one with a count: a while
that grows as long as it goes on, so that a worker gone mad does not drown the list. Of many ranks at once one event
tells, too.
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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, get_args

import orjson

from bucketline_service.errors import StoreUnavailable
from bucketline_service.store.port import MAX_EVENTS, NewEvent, Store

Repeated = Literal[
    "lease_given",
    "fenced",
    "lease_adopted",
    "store_lost_state",
    "store_unavailable",
    "store_back",
    "map_root_unavailable",
    "map_root_back",
    "store_at_risk",
]
"""Those that come by themselves, of which several become one. What somebody asked for stands by itself."""

EventName = Literal[
    "coordinator_started",
    "coordinator_stopped",
    "map_put",
    "map_deleted",
    "run_put",
    "run_planned",
    "run_failed",
    "run_deleted",
    "session_begun",
    Repeated,
]
EVENT_NAMES: tuple[EventName, ...] = get_args(EventName)
_REPEATED: frozenset[EventName] = frozenset(get_args(Repeated))

PACE_S = 0.5
HOLD_S, MAX_HOLD_S = 2.0, 300.0
"""How long what repeats an event is gathered, at first and at most."""

MANY_RANKS = 8
"""Of one event and run: of more at once a single event tells."""

MAX_NOTED = 20_000
MAX_TOGETHER = 200
"""Events in one write."""

RETRY_S, MAX_RETRY_S = 1.0, 5.0
CLOSE_S = 1.0
"""How long the end waits for the last events to be written."""

MAX_TEXT = 200

_MEMBERS = {"at", "since", "event", "run", "rank", "count", "fields"}

Value = int | float | str | None
_Key = tuple[EventName, str | None, int | None, int]
"""The event, its run and its rank, and 0, or a number that no other has where it stands by itself."""


@dataclass
class _Noted:
    """Of one key, ``num`` times since it was written last; that is due at ``due_s``. ``place``: of the last one among
    all that were told."""

    since_s: float
    due_s: float
    at_s: float = 0.0
    place: int = 0
    num: int = 0
    hold_s: float = HOLD_S
    fields: dict[str, Value] | None = None


class EventLog:
    """One of each coordinator process. ``clock`` gives Unix seconds, ``ticks`` seconds by which to hold things back.
    It belongs to the store's event loop."""

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
        self._noted: dict[_Key, _Noted] = {}
        self._unwritten: deque[NewEvent] = deque(maxlen=MAX_EVENTS)
        self._source, self._num_told, self._num_made = secrets.token_hex(8), 0, 0
        self._process = {"replica": socket.gethostname(), "pid": os.getpid()}
        self._out_since_s: float | None = None
        self._retry_s = RETRY_S
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        store.watch(self._store_failed)

    def tell(
        self, event: EventName, run: str | None = None, rank: int | None = None, **fields: Value
    ) -> None:
        """``fields`` are numbers and names; no token belongs into one."""
        if self._is_closed:
            return
        now_s, due_s = self._clock(), self._ticks()
        self._num_told += 1
        key: _Key = (event, run, rank, 0 if event in _REPEATED else self._num_told)
        if key not in self._noted and len(self._noted) >= MAX_NOTED:
            key = (event, None, None, 0)
        noted = self._noted.get(key)
        if noted is None or (not noted.num and noted.due_s <= due_s):
            noted = self._noted[key] = _Noted(now_s, due_s)
        elif not noted.num:
            noted.since_s = now_s
        noted.num += 1
        noted.at_s = now_s
        noted.place = self._num_told
        noted.fields = {
            name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in fields.items()
        }
        if self._task is None or self._task.done():
            # in a context of its own: it is no part of the request that is the first to tell
            create = asyncio.get_running_loop().create_task
            self._task = contextvars.Context().run(create, self._write_all())

    async def read(self, run: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        """What all replicas have told, newest first."""
        kept = await self._store.events(run, after, limit)
        told = []
        for event in kept:
            with suppress(ValueError, AttributeError):  # it is damaged: the others are told all the same
                document = orjson.loads(event.document)
                if document.keys() >= _MEMBERS:
                    told.append({"id": event.id, **document})
        return told

    async def close(self) -> None:
        """Write what is left, unless that takes long, and take no more."""
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
        """Until there is nothing to wait for."""
        while True:
            self._take(self._ticks())
            wait_s = self._pace_s
            if self._unwritten or self._out_since_s is not None:
                if not await self._write():
                    wait_s, self._retry_s = self._retry_s, min(2 * self._retry_s, MAX_RETRY_S)
            elif not any(noted.num for noted in self._noted.values()):
                return
            await asyncio.sleep(wait_s)

    async def _write(self) -> bool:
        """Whether the store takes what is first."""
        events = [self._unwritten[i] for i in range(min(len(self._unwritten), MAX_TOGETHER))]
        try:
            if events:
                await self._store.record(events, int(self._clock() * 1000))
            else:
                await self._store.ping()
        except StoreUnavailable:
            return False
        for _ in events:
            self._unwritten.popleft()
        self._retry_s = RETRY_S
        if self._out_since_s is not None:
            lasted_s, self._out_since_s = self._clock() - self._out_since_s, None
            self.tell("store_back", lasted_s=round(lasted_s, 3))
        return True

    def _store_failed(self, error: StoreUnavailable) -> None:
        if self._out_since_s is None and not self._is_closed:
            self._out_since_s = self._clock()
            self.tell("store_unavailable", detail=error.detail)

    def _take(self, now_s: float) -> None:
        """Make events of what is due, and forget what has not come again."""
        due = [(key, noted) for key, noted in self._noted.items() if noted.due_s <= now_s]
        for key, noted in due:
            if not noted.num:
                del self._noted[key]
        told = [each for each in due if each[1].num]
        told.sort(key=_group)
        documents: list[tuple[int, dict[str, Any]]] = []
        for _, same in groupby(told, key=_group):
            documents += _documents(list(same))
        for _, document in sorted(documents, key=lambda each: each[0]):
            self._num_made += 1
            text = orjson.dumps({**document, **self._process})
            self._unwritten.append(NewEvent(f"{self._source}-{self._num_made}", document["run"], text))
        for _, noted in told:
            noted.hold_s = min(2 * noted.hold_s, MAX_HOLD_S) if noted.num > 1 else HOLD_S
            noted.num, noted.due_s = 0, now_s + noted.hold_s


def _group(told: tuple[_Key, _Noted]) -> tuple[str, str, bool]:
    (event, run, rank, _), _ = told
    return event, run or "", rank is None


def _documents(same: list[tuple[_Key, _Noted]]) -> list[tuple[int, dict[str, Any]]]:
    """Of one group: each by itself, or of many ranks one. With their places."""
    (event, run, rank, _), _ = same[0]
    if rank is None or len(same) <= MANY_RANKS:
        return [_document(key, [noted]) for key, noted in same]
    place, document = _document((event, run, None, 0), [noted for _, noted in same])
    document["fields"]["num_ranks"] = len(same)
    return [(place, document)]


def _document(key: _Key, noted: list[_Noted]) -> tuple[int, dict[str, Any]]:
    """``fields`` are those of the last one."""
    event, run, rank, _ = key
    last = max(noted, key=lambda each: each.place)
    document = {
        "at": last.at_s,
        "since": min(each.since_s for each in noted),
        "event": event,
        "run": run,
        "rank": rank,
        "count": sum(each.num for each in noted),
        "fields": dict(last.fields or {}),
    }
    return last.place, document
