"""The store in Redis or Valkey, for any number of coordinators on any number of machines.

Each atomic operation is one Lua script or one command; ``keys.py`` lists the keys, ``clients.py`` connects. What an
acknowledged write survives is a setting of Redis: with ``appendfsync always``, the same as with SQLite.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from bucketline_service.errors import StoreUnavailable
from bucketline_service.store.coalescer import Coalescer
from bucketline_service.store.damage import damaged, reading
from bucketline_service.store.lease_decisions import SEEN_EVERY_S, no_run
from bucketline_service.store.port import (
    LEASE_STRIDE,
    MAX_EVENTS,
    MAX_LEASE,
    Begun,
    Commit,
    CommitRequest,
    Cursor,
    Generation,
    GenerationId,
    ImageReports,
    KeptEvent,
    NewEvent,
    NewReport,
    Place,
    RankRecord,
    Reported,
    ReportOutcome,
    RunRecord,
    Withdrawn,
)
from bucketline_service.store.redis import keys, records, scripts
from bucketline_service.store.redis.clients import Client, ClusterClient, open_client
from bucketline_service.store.redis.risks import Risks, find_risks
from bucketline_service.store.store_kinds import StoreKind

T = TypeVar("T")

UNAVAILABLE = (RedisError, RedisClusterException, OSError)
"""What redis-py raises, and lets through, if there is no usable answer. That of a cluster is not a ``RedisError``."""

BROKEN = re.compile(r"WRONGTYPE|user_script:\d+: attempt to ")
"""Redis' error if a key has another type, and a script's if a record is not as it was written."""


def open_redis(url: str, kind: StoreKind, *, timeout_s: float) -> RedisStore:
    """A store on a Redis server, on the master that sentinels name, or on a cluster. Connects with the first verb."""
    client, wait_replicas = open_client(url, kind, timeout_s=timeout_s)
    return RedisStore(client, timeout_s=timeout_s, touch=wait_replicas > 0)


class RedisStore:
    """Implements ``Store`` over a client that answers in bytes. ``touch``: a repeated operation writes again what it
    finds already written, so that the client can wait until replicas have it."""

    system = "redis"

    def __init__(self, client: Client, *, timeout_s: float, touch: bool = False) -> None:
        self._client = client
        self._pings = deque(keys.PINGS if isinstance(client, ClusterClient) else keys.PINGS[:1])
        self._timeout_s = timeout_s
        self._touch = int(touch)
        self._is_closed = False
        self._commits = Coalescer(self._commit)
        self._risks: Risks | None = None  # None: not known yet
        self._on_unavailable: Callable[[StoreUnavailable], None] = lambda _: None

    async def examine(self) -> list[str]:
        if self._is_closed:
            raise StoreUnavailable("the Redis store is closed")
        try:
            found = await asyncio.wait_for(find_risks(self._client), self._timeout_s)
        except (TimeoutError, *UNAVAILABLE):
            found = None  # the next verb raises the error
        self._risks = found or self._risks
        if self._risks is not None and self._risks.evicts is not None:
            raise self._unavailable(self._risks.evicts)
        return [] if self._risks is None else self._risks.reported

    async def ping(self) -> None:
        # a write, not only PING, which a read-only replica and a full server answer too
        await self._answer(self._ping())

    async def _ping(self) -> None:
        await self.examine()
        # a cluster is available as long as one of its nodes is: the runs of that node continue
        unanswered: Exception | None = None
        for _ in range(len(self._pings)):
            key = self._pings[0]
            # before the call: a node that hangs until the deadline must not be the first one next time
            self._pings.rotate(-1)
            try:
                await self._ask("SET", key, "1")
            except UNAVAILABLE as exc:
                unanswered = exc
            else:
                self._pings.rotate(1)
                return
        assert unanswered is not None
        raise unanswered

    async def announce_run(self, run: str, birth: str, maps: Sequence[str], now_s: float) -> list[str]:
        return await self._answer(self._announce_run(run, birth, maps, now_s))

    async def _announce_run(self, run: str, birth: str, maps: Sequence[str], now_s: float) -> list[str]:
        """The order of the steps matters: see ``keys.py``."""
        await self._ask("SADD", keys.announced(run), birth)
        index = [keys.RUNS, keys.ANNOUNCED, keys.CLOSED]
        closed = await self._script(scripts.ANNOUNCE_RUN, index, [run, birth, float(now_s), *maps])
        return [map.decode() for map in closed]

    async def create_run(
        self, run: str, document: bytes, first: Generation, *, announced: bool = False
    ) -> tuple[RunRecord, bool]:
        return await self._answer(self._create_run(run, document, first, announced), run)

    async def _create_run(
        self, run: str, document: bytes, first: Generation, announced: bool
    ) -> tuple[RunRecord, bool]:
        while True:
            birth = first.birth if announced else secrets.token_hex(8)
            if not announced:
                await self._announce_run(run, birth, [], 0.0)
            answer = await self._script(
                scripts.CREATE_RUN,
                [
                    *(keys.generation(run), keys.document(run), keys.sessions(run), keys.announced(run)),
                    *keys.reports(run),
                ],
                [
                    *(keys.pack_generation(first), first.number, keys.pack_name(first.session)),
                    *(document, self._touch, birth),
                ],
            )
            if answer is not None:
                made, packed, standing = answer
                if not made:  # an older coordinator adds the name last, and may have died before that
                    await self._ask("SADD", keys.RUNS, run)
                return records.run_record(run, packed, standing), bool(made)
            if announced:
                raise Withdrawn

    async def close_map(self, map: str, mark: str, until_s: float) -> None:
        await self._answer(self._close_map(map, mark, until_s))

    async def _close_map(self, map: str, mark: str, until_s: float) -> None:
        await self._ask("HSET", keys.CLOSED, mark, f"{float(until_s)!r} {map}")
        await asyncio.gather(*(self._ask("UNLINK", keys.announced(name)) for name in await self._names()))

    async def open_map(self, mark: str) -> None:
        await self._answer(self._ask("HDEL", keys.CLOSED, mark))

    async def read_run(self, run: str) -> RunRecord:
        packed, document, is_there = await self._answer(self._read_run(run), run)
        if packed is None and not is_there:
            raise no_run(run)
        return records.run_record(run, packed, document)

    async def _read_run(self, run: str) -> tuple[bytes | None, bytes | None, bool]:
        """The generation, the document, and whether the generation's key exists with another type than a string."""
        packed, document = await self._ask("MGET", keys.generation(run), keys.document(run))
        is_there = packed is None and await self._ask("EXISTS", keys.generation(run))
        return packed, document, bool(is_there)

    async def list_runs(self) -> list[str]:
        return await self._answer(self._list_runs())

    async def _list_runs(self) -> list[str]:
        names = await self._names()
        pipeline = self._client.pipeline(transaction=False)
        for name in names:
            pipeline.exists(keys.generation(name))
        there = await pipeline.execute()
        return [name for name, is_there in zip(names, there, strict=True) if is_there]

    async def _names(self) -> list[str]:
        """The names in the index; some may have no run."""
        return sorted(name.decode(errors="replace") for name in await self._ask("SMEMBERS", keys.RUNS))

    async def delete_run(self, run: str) -> bool:
        return await self._answer(self._delete_run(run))

    async def _delete_run(self, run: str) -> bool:
        announcement = await self._ask("HGET", keys.ANNOUNCED, run)
        await self._ask("UNLINK", keys.announced(run))
        deleted: int = await self._ask("UNLINK", *keys.of_run(run))
        await self._script(scripts.UNLIST_RUN, [keys.RUNS, keys.ANNOUNCED], [run, announcement or b""])
        return deleted > 0

    async def session(self, run: str, session: str) -> tuple[GenerationId, int | None]:
        script = self._script(
            scripts.SESSION, [keys.generation(run), keys.sessions(run)], [session, self._touch]
        )
        packed, number = _found(run, await self._answer(script, run))
        with reading(run, "the generation"):
            return keys.unpack_generation(packed).id, None if number is None else int(number)

    async def begin(self, run: str, new: Generation, follows: GenerationId, slowest: Cursor | None) -> Begun:
        script = self._script(
            scripts.BEGIN,
            [keys.generation(run), keys.sessions(run), keys.ranks(run)],
            [
                *(keys.pack_generation(new), new.number, keys.pack_id(follows)),
                *(keys.pack_name(new.session), *(slowest or ("", ""))),
            ],
        )
        begun, packed = _found(run, await self._answer(script, run))
        return Begun(bool(begun), records.generation(run, packed))

    async def lease(
        self, run: str, rank: int, holder: str, generation: GenerationId, proposed: int, now_s: float
    ) -> RankRecord | None:
        script = self._script(
            scripts.LEASE,
            [keys.generation(run), keys.ranks(run)],
            [
                rank,
                holder,
                keys.pack_id(generation),
                proposed,
                LEASE_STRIDE,
                MAX_LEASE,
                float(now_s),
                SEEN_EVERY_S,
                self._touch,
            ],
        )
        record = _found(run, await self._answer(script, run))
        return records.rank(run, rank, record[0])[1] if record else None

    async def commit(self, run: str, request: CommitRequest) -> Commit:
        return await self._commits(run, request)

    async def _commit(self, run: str, requests: Sequence[CommitRequest]) -> list[Commit]:
        """One script call for several independent commits."""
        script = self._script(
            scripts.COMMIT,
            [keys.generation(run), keys.ranks(run)],
            [LEASE_STRIDE, SEEN_EVERY_S, self._touch, *map(records.pack_commit, requests)],
        )
        packed, *answers = _found(run, await self._answer(script, run))
        generation = records.generation(run, packed)
        return [records.unpack_commit(answer, generation) for answer in answers]

    async def ranks(self, run: str) -> tuple[Generation, list[RankRecord]]:
        script = self._script(scripts.RANKS, [keys.generation(run), keys.ranks(run)], [])
        packed, fields = _found(run, await self._answer(script, run))
        generation = records.generation(run, packed)
        pairs = zip(fields[::2], fields[1::2], strict=True)
        stored = [records.rank(run, rank, packed_record) for rank, packed_record in pairs]
        present = [record for of, record in stored if of == generation.id]
        return generation, sorted(present, key=lambda record: record.rank)

    async def report(
        self, run: str, place: Place, reports: Sequence[NewReport], max_images: int, now_s: float
    ) -> Reported:
        named = [(each.image, each.reason, keys.pack_name(each.detail)) for each in reports]
        script = self._script(
            scripts.REPORT,
            [keys.generation(run), *keys.reports(run)],
            [*place, float(now_s), max_images, self._touch, *(word for words in named for word in words)],
        )
        num_images, *outcomes = _found(run, await self._answer(script, run))
        return Reported([ReportOutcome(outcome.decode()) for outcome in outcomes], num_images)

    async def reports(self, run: str, after: int | None, limit: int) -> ImageReports:
        names, start = [keys.generation(run), *keys.reports(run)], "" if after is None else after
        script = self._script(scripts.REPORTS, names, [start, limit])
        return records.image_reports(run, *_found(run, await self._answer(script, run)))

    async def record(self, events: Sequence[NewEvent], least_id: int) -> None:
        packed = [keys.pack_event(event) for event in events]
        await self._answer(self._script(scripts.RECORD, [keys.EVENTS], [least_id, MAX_EVENTS, *packed]))

    async def events(self, run: str | None, after: int, limit: int) -> list[KeptEvent]:
        # Redis cannot filter by run, and there are few
        num = limit if run is None else MAX_EVENTS
        asked = self._ask("ZREVRANGEBYSCORE", keys.EVENTS, "+inf", f"({after}", "WITHSCORES", "LIMIT", 0, num)
        answer = await self._answer(asked)
        pairs = zip(answer[::2], answer[1::2], strict=True)
        found = []
        for packed, score in pairs:
            with suppress(ValueError):  # damaged: the others are still listed
                found.append(keys.unpack_event(packed, score))
        return [event for event in found if run in (None, event.run)][:limit]

    def watch(self, on_unavailable: Callable[[StoreUnavailable], None]) -> None:
        self._on_unavailable = on_unavailable

    async def close(self) -> None:
        """Close all connections. Closing again does nothing."""
        self._is_closed = True
        await self._client.aclose()

    async def _ask(self, *command: Any) -> Any:
        if self._is_closed:
            raise StoreUnavailable("the Redis store is closed")
        return await self._client.execute_command(*command)

    async def _script(self, script: scripts.Script, names: Sequence[str], args: Sequence[Any]) -> Any:
        """One round trip, two if Redis does not have the script yet."""
        try:
            return await self._ask("EVALSHA", script.sha, len(names), *names, *args)
        except NoScriptError:
            return await self._ask("EVAL", script.text, len(names), *names, *args)

    async def _answer(self, asked: Coroutine[Any, Any, T], run: str | None = None) -> T:
        """Redis' answer within the deadline, which includes retries and the wait for a connection."""
        try:
            return await asyncio.wait_for(self._safely(asked), self._timeout_s)
        except (TimeoutError, RedisTimeoutError) as exc:
            raise self._unavailable(f"Redis did not answer within {self._timeout_s:g} s") from exc
        except UNAVAILABLE as exc:
            if run is not None and isinstance(exc, ResponseError) and BROKEN.search(str(exc)):
                raise damaged(run, "a record of the run", str(exc)) from exc
            raise self._unavailable(f"Redis: {exc}") from exc
        finally:
            asked.close()  # if it was never awaited

    async def _safely(self, asked: Coroutine[Any, Any, T]) -> T:
        """Send nothing to a Redis that evicts keys, except to check whether it still does."""
        if not self._is_closed and (self._risks is None or self._risks.evicts is not None):
            await self.examine()
        return await asked

    def _unavailable(self, detail: str) -> StoreUnavailable:
        error = StoreUnavailable(detail)
        self._on_unavailable(error)
        return error


def _found(run: str, answer: Any) -> Any:
    """The script's answer; raises ``NotFound`` if it found no run."""
    if answer is None:
        raise no_run(run)
    return answer
