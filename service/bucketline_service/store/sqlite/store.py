"""The store in one SQLite file: the default, for one machine. Several processes may share the file.

With a write-ahead log and ``synchronous = FULL``, what was acknowledged survives a power cut. The file must not be on a
network file system.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bucketline_service.errors import NotFound, StoreUnavailable
from bucketline_service.store.damage import damaged, reading, sound_generation, sound_rank
from bucketline_service.store.lease_decisions import Held, decide_begin, decide_commit, decide_lease, no_run
from bucketline_service.store.port import (
    MAX_EVENTS,
    Begun,
    Commit,
    CommitRequest,
    Cursor,
    Generation,
    GenerationId,
    KeptEvent,
    NewEvent,
    RankRecord,
    RunRecord,
    Withdrawn,
)
from bucketline_service.store.sqlite.file import SqliteFile

GENERATION_COLUMNS = 'number, session, world_size, epoch, step, "offset", birth, lockstep'
RANK_COLUMNS = "rank, number, epoch, step, lease, holder, leased_at_s, lease_epoch, lease_step, last_seen_s"


class SqliteStore:
    """Implements ``Store``. Each verb runs the function of its name below on the file's thread."""

    system = "sqlite"

    def __init__(self, path: str, *, timeout_s: float) -> None:
        self._file = SqliteFile(path, timeout_s)

    async def ping(self) -> None:
        await self._file.run(_ping, writes=True)

    async def examine(self) -> list[str]:
        await self._file.examine()
        return []

    async def announce_run(self, run: str, birth: str, maps: Sequence[str], now_s: float) -> list[str]:
        return await self._file.run(partial(_announce_run, run, birth, maps, now_s), writes=True)

    async def create_run(
        self, run: str, document: bytes, first: Generation, *, announced: bool = False
    ) -> tuple[RunRecord, bool]:
        return await self._file.run(partial(_create_run, run, document, first, announced), writes=True)

    async def close_map(self, map: str, mark: str, until_s: float) -> None:
        await self._file.run(partial(_close_map, map, mark, until_s), writes=True)

    async def open_map(self, mark: str) -> None:
        await self._file.run(partial(_open_map, mark), writes=True)

    async def read_run(self, run: str) -> RunRecord:
        return await self._file.run(partial(_read_run, run), writes=False)

    async def list_runs(self) -> list[str]:
        return await self._file.run(_list_runs, writes=False)

    async def delete_run(self, run: str) -> bool:
        return await self._file.run(partial(_delete_run, run), writes=True)

    async def session(self, run: str, session: str) -> tuple[GenerationId, int | None]:
        return await self._file.run(partial(_session, run, session), writes=False)

    async def begin(self, run: str, new: Generation, follows: GenerationId, slowest: Cursor | None) -> Begun:
        return await self._file.run(partial(_begin, run, new, follows, slowest), writes=True)

    async def lease(
        self, run: str, rank: int, holder: str, generation: GenerationId, proposed: int, now_s: float
    ) -> RankRecord | None:
        operation = partial(_lease, run, rank, holder, generation, proposed, now_s)
        return await self._file.run(operation, writes=True)

    async def commit(self, run: str, request: CommitRequest) -> Commit:
        return await self._file.run(partial(_commit, run, request), writes=True)

    async def ranks(self, run: str) -> tuple[Generation, list[RankRecord]]:
        return await self._file.run(partial(_ranks, run), writes=False)

    async def record(self, events: Sequence[NewEvent], least_id: int) -> None:
        # in its own transaction: if it fails, on a disk that is nearly full, no commit fails with it
        await self._file.run(partial(_record, events, least_id), writes=True, alone=True)

    async def events(self, run: str | None, after: int, limit: int) -> list[KeptEvent]:
        return await self._file.run(partial(_events, run, after, limit), writes=False)

    def watch(self, on_unavailable: Callable[[StoreUnavailable], None]) -> None:
        self._file.on_unavailable = on_unavailable

    async def close(self) -> None:
        await self._file.close()


def _ping(db: sqlite3.Connection) -> None:
    # a write, not only a lock: nothing less detects a full disk
    db.execute("UPDATE ping SET pings = pings + 1")


def _announce_run(
    run: str, birth: str, maps: Sequence[str], now_s: float, db: sqlite3.Connection
) -> list[str]:
    db.execute("DELETE FROM closed_maps WHERE until_s <= ?", (now_s,))
    closed = {map for (map,) in db.execute("SELECT map FROM closed_maps")}
    if found := [map for map in maps if map in closed]:
        return found
    db.execute("INSERT OR IGNORE INTO announced VALUES (?, ?)", (run, birth))
    return []


def _close_map(map: str, mark: str, until_s: float, db: sqlite3.Connection) -> None:
    db.execute("INSERT OR REPLACE INTO closed_maps VALUES (?, ?, ?)", (mark, map, until_s))
    db.execute("DELETE FROM announced")


def _open_map(mark: str, db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM closed_maps WHERE mark = ?", (mark,))


def _create_run(
    run: str, document: bytes, first: Generation, announced: bool, db: sqlite3.Connection
) -> tuple[RunRecord, bool]:
    try:
        return _read_run(run, db), False
    except NotFound:
        key = (run, first.birth)
        if not db.execute("DELETE FROM announced WHERE run = ? AND birth = ?", key).rowcount and announced:
            raise Withdrawn from None
        db.execute(
            f"INSERT INTO runs (run, {GENERATION_COLUMNS}, document) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (run, *_generation_values(first), document),
        )
        _write_session(run, first, db)
        return RunRecord(document, first), True


def _read_run(run: str, db: sqlite3.Connection) -> RunRecord:
    generation = _generation(run, db)
    (document,) = db.execute("SELECT document FROM runs WHERE run = ?", (run,)).fetchone()
    if not isinstance(document, bytes):
        raise damaged(run, "its document", f"its type is {type(document).__name__}")
    return RunRecord(document, generation)


def _list_runs(db: sqlite3.Connection) -> list[str]:
    return sorted(run for (run,) in db.execute("SELECT run FROM runs"))


def _delete_run(run: str, db: sqlite3.Connection) -> bool:
    db.execute("DELETE FROM ranks WHERE run = ?", (run,))
    db.execute("DELETE FROM sessions WHERE run = ?", (run,))
    db.execute("DELETE FROM announced WHERE run = ?", (run,))
    return db.execute("DELETE FROM runs WHERE run = ?", (run,)).rowcount > 0


def _session(run: str, session: str, db: sqlite3.Connection) -> tuple[GenerationId, int | None]:
    row = db.execute("SELECT number FROM sessions WHERE run = ? AND session = ?", (run, session)).fetchone()
    return _generation(run, db).id, None if row is None else row[0]


def _begin(
    run: str, new: Generation, follows: GenerationId, slowest: Cursor | None, db: sqlite3.Connection
) -> Begun:
    generation = _generation(run, db)
    is_used = new.session is not None and _session(run, new.session, db)[1] is not None
    stands_at = generation.origin if slowest is None else _slowest(run, generation, db)
    begun = decide_begin(new, follows, generation, is_used, slowest, stands_at)
    if begun.begun:
        db.execute(
            f"UPDATE runs SET ({GENERATION_COLUMNS}) = (?, ?, ?, ?, ?, ?, ?, ?) WHERE run = ?",
            (*_generation_values(new), run),
        )
        _write_session(run, new, db)
    return begun


def _lease(
    run: str, rank: int, holder: str, of: GenerationId, proposed: int, now_s: float, db: sqlite3.Connection
) -> RankRecord | None:
    generation = _generation(run, db)
    if generation.id != of:
        return None
    record, is_new = decide_lease(rank, holder, proposed, now_s, generation, _held(run, rank, db))
    if is_new:
        _write_rank(run, generation, record, db)
    return record


def _commit(run: str, request: CommitRequest, db: sqlite3.Connection) -> Commit:
    generation = _generation(run, db)
    commit, record = decide_commit(request, generation, _held(run, request.rank, db))
    if record is not None:
        _write_rank(run, generation, record, db)
    return commit


def _ranks(run: str, db: sqlite3.Connection) -> tuple[Generation, list[RankRecord]]:
    generation = _generation(run, db)
    select = f"SELECT {RANK_COLUMNS} FROM ranks WHERE run = ? AND number = ? ORDER BY rank"
    # all of them at once: a read that is interrupted stays open, and blocks the next write
    rows = db.execute(select, (run, generation.number)).fetchall()
    return generation, [_held_of(run, row).record for row in rows]


def _record(events: Sequence[NewEvent], least_id: int, db: sqlite3.Connection) -> None:
    (newest,) = db.execute("SELECT max(id) FROM events").fetchone()
    event_id = max(newest or 0, least_id - 1)
    for event in events:
        values = (event_id + 1, event.mark, event.run, event.document)
        event_id += db.execute("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?)", values).rowcount
    db.execute(
        "DELETE FROM events WHERE id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (MAX_EVENTS,),
    )


def _events(run: str | None, after: int, limit: int, db: sqlite3.Connection) -> list[KeptEvent]:
    select = "SELECT id, run, document FROM events WHERE id > ? AND (? IS NULL OR run = ?) ORDER BY id DESC LIMIT ?"
    return [KeptEvent(*row) for row in db.execute(select, (after, run, run, limit))]


def _generation(run: str, db: sqlite3.Connection) -> Generation:
    """The run's present generation; raises ``NotFound`` if there is no such run."""
    row = db.execute(f"SELECT {GENERATION_COLUMNS} FROM runs WHERE run = ?", (run,)).fetchone()
    if row is None:
        raise no_run(run)
    number, session, world_size, epoch, step, offset, birth, lockstep = row
    with reading(run, "the generation"):
        return sound_generation(
            Generation(number, session, world_size, Cursor(epoch, step), offset, birth, lockstep)
        )


def _generation_values(value: Generation) -> tuple[Any, ...]:
    start = (value.number, value.session, value.world_size, *value.origin, value.offset)
    return (*start, value.birth, value.lockstep)


def _slowest(run: str, generation: Generation, db: sqlite3.Connection) -> Cursor:
    of_generation = "FROM ranks WHERE run = ? AND number = ? AND rank < ?"
    key = (run, generation.number, generation.world_size)
    (num_present,) = db.execute(f"SELECT count(*) {of_generation}", key).fetchone()
    if num_present < generation.world_size:
        return generation.origin  # a rank without a record is there, and no cursor is before it
    row = db.execute(f"SELECT epoch, step {of_generation} ORDER BY epoch, step LIMIT 1", key).fetchone()
    return Cursor(*row)


def _held(run: str, rank: int, db: sqlite3.Connection) -> Held | None:
    row = db.execute(f"SELECT {RANK_COLUMNS} FROM ranks WHERE run = ? AND rank = ?", (run, rank)).fetchone()
    return None if row is None else _held_of(run, row)


def _held_of(run: str, row: tuple[Any, ...]) -> Held:
    rank, number, epoch, step, lease, holder, leased_at_s, lease_epoch, lease_step, last_seen_s = row
    cursor, lease_cursor = Cursor(epoch, step), Cursor(lease_epoch, lease_step)
    record = RankRecord(rank, cursor, lease, holder, leased_at_s, lease_cursor, last_seen_s)
    with reading(run, f"the record of rank {rank}"):
        return Held(number, sound_rank(record))


def _write_session(run: str, generation: Generation, db: sqlite3.Connection) -> None:
    if generation.session is not None:
        db.execute("INSERT INTO sessions VALUES (?, ?, ?)", (run, generation.session, generation.number))


def _write_rank(run: str, generation: Generation, record: RankRecord, db: sqlite3.Connection) -> None:
    values = (
        record.rank,
        generation.number,
        *record.cursor,
        record.lease,
        record.holder,
        record.leased_at_s,
        *record.lease_cursor,
        record.last_seen_s,
    )
    marks = ", ".join("?" * (len(values) + 1))
    db.execute(f"INSERT OR REPLACE INTO ranks (run, {RANK_COLUMNS}) VALUES ({marks})", (run, *values))
