"""The store in one SQLite file: the default, for one machine. Several processes may share the file.

With a write-ahead log and ``synchronous = FULL``, what was acknowledged survives a power cut. The file must not be on a
network file system.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

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

_Db = sqlite3.Connection


def _ping(db: _Db) -> None:
    # a write, not only a lock: nothing less detects a full disk
    db.execute("UPDATE ping SET pings = pings + 1")


def _announce_run(db: _Db, run: str, birth: str, maps: Sequence[str], now_s: float) -> list[str]:
    db.execute("DELETE FROM closed_maps WHERE until_s <= ?", (now_s,))
    closed = {map for (map,) in db.execute("SELECT map FROM closed_maps")}
    if found := [map for map in maps if map in closed]:
        return found
    db.execute("INSERT OR IGNORE INTO announced VALUES (?, ?)", (run, birth))
    return []


def _close_map(db: _Db, map: str, mark: str, until_s: float) -> None:
    db.execute("INSERT OR REPLACE INTO closed_maps VALUES (?, ?, ?)", (mark, map, until_s))
    db.execute("DELETE FROM announced")


def _open_map(db: _Db, mark: str) -> None:
    db.execute("DELETE FROM closed_maps WHERE mark = ?", (mark,))


def _create_run(
    db: _Db, run: str, document: bytes, first: Generation, *, announced: bool = False
) -> tuple[RunRecord, bool]:
    try:
        return _read_run(db, run), False
    except NotFound:
        key = (run, first.birth)
        if not db.execute("DELETE FROM announced WHERE run = ? AND birth = ?", key).rowcount and announced:
            raise Withdrawn from None
        db.execute(
            f"INSERT INTO runs (run, {GENERATION_COLUMNS}, document) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (run, *_generation_values(first), document),
        )
        _write_session(db, run, first)
        return RunRecord(document, first), True


def _read_run(db: _Db, run: str) -> RunRecord:
    generation = _generation(db, run)
    (document,) = db.execute("SELECT document FROM runs WHERE run = ?", (run,)).fetchone()
    if not isinstance(document, bytes):
        raise damaged(run, "its document", f"its type is {type(document).__name__}")
    return RunRecord(document, generation)


def _list_runs(db: _Db) -> list[str]:
    return sorted(run for (run,) in db.execute("SELECT run FROM runs"))


def _delete_run(db: _Db, run: str) -> bool:
    db.execute("DELETE FROM ranks WHERE run = ?", (run,))
    db.execute("DELETE FROM sessions WHERE run = ?", (run,))
    db.execute("DELETE FROM announced WHERE run = ?", (run,))
    return db.execute("DELETE FROM runs WHERE run = ?", (run,)).rowcount > 0


def _session(db: _Db, run: str, session: str) -> tuple[GenerationId, int | None]:
    row = db.execute("SELECT number FROM sessions WHERE run = ? AND session = ?", (run, session)).fetchone()
    return _generation(db, run).id, None if row is None else row[0]


def _begin(db: _Db, run: str, new: Generation, follows: GenerationId, slowest: Cursor | None) -> Begun:
    generation = _generation(db, run)
    is_used = new.session is not None and _session(db, run, new.session)[1] is not None
    stands_at = generation.origin if slowest is None else _slowest(db, run, generation)
    begun = decide_begin(new, follows, generation, is_used, slowest, stands_at)
    if begun.begun:
        db.execute(
            f"UPDATE runs SET ({GENERATION_COLUMNS}) = (?, ?, ?, ?, ?, ?, ?, ?) WHERE run = ?",
            (*_generation_values(new), run),
        )
        _write_session(db, run, new)
    return begun


def _lease(
    db: _Db, run: str, rank: int, holder: str, generation: GenerationId, proposed: int, now_s: float
) -> RankRecord | None:
    present = _generation(db, run)
    if present.id != generation:
        return None
    record, is_new = decide_lease(rank, holder, proposed, now_s, present, _held(db, run, rank))
    if is_new:
        _write_rank(db, run, present, record)
    return record


def _commit(db: _Db, run: str, request: CommitRequest) -> Commit:
    generation = _generation(db, run)
    commit, record = decide_commit(request, generation, _held(db, run, request.rank))
    if record is not None:
        _write_rank(db, run, generation, record)
    return commit


def _ranks(db: _Db, run: str) -> tuple[Generation, list[RankRecord]]:
    generation = _generation(db, run)
    select = f"SELECT {RANK_COLUMNS} FROM ranks WHERE run = ? AND number = ? ORDER BY rank"
    # all of them at once: a read that is interrupted stays open, and blocks the next write
    rows = db.execute(select, (run, generation.number)).fetchall()
    return generation, [_held_of(run, row).record for row in rows]


def _record(db: _Db, events: Sequence[NewEvent], least_id: int) -> None:
    (newest,) = db.execute("SELECT max(id) FROM events").fetchone()
    event_id = max(newest or 0, least_id - 1)
    for event in events:
        values = (event_id + 1, event.mark, event.run, event.document)
        event_id += db.execute("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?)", values).rowcount
    db.execute(
        "DELETE FROM events WHERE id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (MAX_EVENTS,),
    )


def _events(db: _Db, run: str | None, after: int, limit: int) -> list[KeptEvent]:
    select = "SELECT id, run, document FROM events WHERE id > ? AND (? IS NULL OR run = ?) ORDER BY id DESC LIMIT ?"
    return [KeptEvent(*row) for row in db.execute(select, (after, run, run, limit))]


def _generation(db: _Db, run: str) -> Generation:
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


def _slowest(db: _Db, run: str, generation: Generation) -> Cursor:
    of_generation = "FROM ranks WHERE run = ? AND number = ? AND rank < ?"
    key = (run, generation.number, generation.world_size)
    (num_present,) = db.execute(f"SELECT count(*) {of_generation}", key).fetchone()
    if num_present < generation.world_size:
        return generation.origin  # a rank without a record is there, and no cursor is before it
    row = db.execute(f"SELECT epoch, step {of_generation} ORDER BY epoch, step LIMIT 1", key).fetchone()
    return Cursor(*row)


def _held(db: _Db, run: str, rank: int) -> Held | None:
    row = db.execute(f"SELECT {RANK_COLUMNS} FROM ranks WHERE run = ? AND rank = ?", (run, rank)).fetchone()
    return None if row is None else _held_of(run, row)


def _held_of(run: str, row: tuple[Any, ...]) -> Held:
    rank, number, epoch, step, lease, holder, leased_at_s, lease_epoch, lease_step, last_seen_s = row
    cursor, lease_cursor = Cursor(epoch, step), Cursor(lease_epoch, lease_step)
    record = RankRecord(rank, cursor, lease, holder, leased_at_s, lease_cursor, last_seen_s)
    with reading(run, f"the record of rank {rank}"):
        return Held(number, sound_rank(record))


def _write_session(db: _Db, run: str, generation: Generation) -> None:
    if generation.session is not None:
        db.execute("INSERT INTO sessions VALUES (?, ?, ?)", (run, generation.session, generation.number))


def _write_rank(db: _Db, run: str, generation: Generation, record: RankRecord) -> None:
    held = (record.lease, record.holder, record.leased_at_s, *record.lease_cursor, record.last_seen_s)
    values = (record.rank, generation.number, *record.cursor, *held)
    marks = ", ".join("?" * (len(values) + 1))
    db.execute(f"INSERT OR REPLACE INTO ranks (run, {RANK_COLUMNS}) VALUES ({marks})", (run, *values))


_P = ParamSpec("_P")
_T = TypeVar("_T")
_Verb = Callable[Concatenate["SqliteStore", _P], Coroutine[Any, Any, _T]]


def _verb(
    operation: Callable[Concatenate[_Db, _P], _T], *, writes: bool, alone: bool = False
) -> _Verb[_P, _T]:
    """The verb that runs a function of the connection on the file's thread."""

    async def verb(self: SqliteStore, /, *args: _P.args, **named: _P.kwargs) -> _T:
        return await self._file.run(lambda db: operation(db, *args, **named), writes=writes, alone=alone)

    return verb


class SqliteStore:
    """Implements ``Store``. Each verb is the function of its name above, run on the file's thread."""

    system = "sqlite"

    def __init__(self, path: str, *, timeout_s: float) -> None:
        self._file = SqliteFile(path, timeout_s)

    ping = _verb(_ping, writes=True)
    announce_run = _verb(_announce_run, writes=True)
    create_run = _verb(_create_run, writes=True)
    close_map = _verb(_close_map, writes=True)
    open_map = _verb(_open_map, writes=True)
    read_run = _verb(_read_run, writes=False)
    list_runs = _verb(_list_runs, writes=False)
    delete_run = _verb(_delete_run, writes=True)
    session = _verb(_session, writes=False)
    begin = _verb(_begin, writes=True)
    lease = _verb(_lease, writes=True)
    commit = _verb(_commit, writes=True)
    ranks = _verb(_ranks, writes=False)
    # in its own transaction: if it fails, on a disk that is nearly full, no commit fails with it
    record = _verb(_record, writes=True, alone=True)
    events = _verb(_events, writes=False)

    async def examine(self) -> list[str]:
        await self._file.examine()
        return []

    def watch(self, on_unavailable: Callable[[StoreUnavailable], None]) -> None:
        self._file.on_unavailable = on_unavailable

    async def close(self) -> None:
        await self._file.close()
