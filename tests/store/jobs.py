"""A run in a store, with arguments that most tests don't care about filled in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from bucketline_service.errors import StoreUnavailable
from bucketline_service.store import (
    LEASE_STRIDE,
    Begun,
    Commit,
    CommitRequest,
    Cursor,
    Generation,
    GenerationId,
    RankRecord,
    Store,
)

T = TypeVar("T")

START = Cursor(0, 0)
FIRST = Generation(number=1, session=None, world_size=4, origin=START, offset=0, birth="0123456789abcdef")
NOW_S = 1000.0
EVERY_S = 0.05


def token(tick: int, rank: int = 0) -> int:
    return tick * LEASE_STRIDE + rank


async def answered(verb: Callable[[], Awaitable[T]]) -> T:
    """Its answer, as soon as there is a store to give it. Other errors than its absence are not passed over."""
    while True:
        with suppress(StoreUnavailable):
            return await verb()
        await asyncio.sleep(EVERY_S)  # a server that is gone refuses at once


@dataclass
class Job:
    store: Store
    run: str
    first: Generation = FIRST

    @classmethod
    async def create(cls, store: Store, run: str, first: Generation = FIRST) -> Job:
        await store.create_run(run, b"document", first)
        return cls(store, run, first)

    def id(self, number: int = 1) -> GenerationId:
        return GenerationId(self.first.birth, number)

    async def begin(self, number: int = 2, slowest: Cursor | None = None, **changes: object) -> Begun:
        new = replace(self.first, number=number, **changes)  # type: ignore[arg-type]
        return await self.store.begin(self.run, new, self.id(number - 1), slowest)

    async def lease(
        self,
        rank: int = 0,
        holder: str = "worker",
        *,
        tick: int = 1,
        generation: int = 1,
        now_s: float = NOW_S,
    ) -> RankRecord:
        of = self.id(generation)
        record = await self.store.lease(self.run, rank, holder, of, token(tick, rank), now_s)
        assert record is not None
        return record

    async def commit(
        self,
        lease: int,
        cursor: Cursor | None = None,
        *,
        rank: int = 0,
        generation: int = 1,
        not_before: Cursor | None = None,
        trusted: bool = False,
        now_s: float = NOW_S,
    ) -> Commit:
        request = CommitRequest(rank, lease, self.id(generation), cursor, not_before, trusted, now_s)
        return await self.store.commit(self.run, request)

    async def record(self, rank: int = 0) -> RankRecord | None:
        """What the store keeps of the rank."""
        _, records = await self.store.ranks(self.run)
        return next((record for record in records if record.rank == rank), None)


async def create_announced(store: Store, run: str, birth: str) -> bool:
    """Whether this call created the run, which was announced with this birth; else ``Withdrawn``."""
    _, created = await store.create_run(run, b"", replace(FIRST, birth=birth), announced=True)
    return created
