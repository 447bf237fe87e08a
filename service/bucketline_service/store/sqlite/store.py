"""The store in one SQLite file: the default, for one machine. Several processes may share the file.

With a write-ahead log and ``synchronous = FULL``, what was acknowledged survives a power cut. The file must not be on a
network file system.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from bucketline_service.errors import NotFound, StoreUnavailable
from bucketline_service.store.damage import damaged, reading, sound_generation, sound_rank, sound_report
from bucketline_service.store.lease_decisions import Held, decide_begin, decide_commit, decide_lease, no_run
from bucketline_service.store.port import (
    MAX_EVENTS,
    Begun,
    Commit,
    CommitRequest,
    Cursor,
    Generation,
    GenerationId,
    ImageReport,
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
from bucketline_service.store.sqlite.file import SqliteFile

GENERATION_COLUMNS = 'number, session, world_size, epoch, step, "offset", birth, lockstep'
RANK_COLUMNS = "rank, number, epoch, step, lease, holder, leased_at_s, lease_epoch, lease_step, last_seen_s"
REPORT_COLUMNS = (
    "number, image, count, reason, detail, first_epoch, first_step, first_rank, first_at_s, "
    "last_epoch, last_step, last_rank, last_at_s"
)

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
        _delete_reports(db, run)  # left by an older coordinator, which deleted the run and does not know them
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
    _delete_reports(db, run)
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


def _report(
    db: _Db, run: str, place: Place, reports: Sequence[NewReport], max_images: int, now_s: float
) -> Reported:
    _generation(db, run)
    num_images, num_not_kept, outcomes = _num_reported(db, run), 0, []
    for report in reports:
        if (counted := _count_report(db, run, place, report, now_s)) is not None:
            outcomes.append(counted)
        elif num_images < max_images:
            num_images += 1
            _insert_report(db, run, num_images, place, report, now_s)
            outcomes.append(ReportOutcome.NEW)
        else:
            num_not_kept += 1
            outcomes.append(ReportOutcome.NOT_KEPT)
    if num_not_kept and not _count_not_kept(db, run, place, num_not_kept):
        not_kept, repeated = ReportOutcome.NOT_KEPT, ReportOutcome.REPEATED
        outcomes = [repeated if outcome is not_kept else outcome for outcome in outcomes]
    return Reported(outcomes, num_images)


def _count_report(db: _Db, run: str, place: Place, report: NewReport, now_s: float) -> ReportOutcome | None:
    """Count it if its image is kept; None if it is not."""
    select = "SELECT last_epoch, last_step, last_rank FROM reports WHERE run = ? AND image = ?"
    last = db.execute(select, (run, report.image)).fetchone()
    if last is None:
        return None
    if place <= Place(*last):
        return ReportOutcome.REPEATED
    db.execute(
        "UPDATE reports SET count = count + 1, reason = ?, detail = ?, last_epoch = ?, last_step = ?, last_rank = ?, "
        "last_at_s = ? WHERE run = ? AND image = ?",
        (report.reason, report.detail, *place, now_s, run, report.image),
    )
    return ReportOutcome.COUNTED


def _insert_report(db: _Db, run: str, number: int, place: Place, report: NewReport, now_s: float) -> None:
    values = (number, report.image, 1, report.reason, report.detail, *place, now_s, *place, now_s)
    marks = ", ".join("?" * (len(values) + 1))
    db.execute(f"INSERT INTO reports (run, {REPORT_COLUMNS}) VALUES ({marks})", (run, *values))


def _count_not_kept(db: _Db, run: str, place: Place, num: int) -> bool:
    """Whether ``place`` is after the last one of its rank."""
    select = "SELECT epoch, step, count FROM reports_not_kept WHERE run = ? AND rank = ?"
    row = db.execute(select, (run, place.rank)).fetchone()
    epoch, step, count = row or (-1, -1, 0)
    if place <= Place(epoch, step, place.rank):
        return False
    values = (run, place.rank, place.epoch, place.step, count + num)
    db.execute("INSERT OR REPLACE INTO reports_not_kept VALUES (?, ?, ?, ?, ?)", values)
    return True


def _reports(db: _Db, run: str, after: int | None, limit: int) -> ImageReports:
    _generation(db, run)
    num_images = _num_reported(db, run)
    start = max(0, num_images - limit) if after is None else after
    (num_not_kept,) = db.execute(
        "SELECT coalesce(sum(count), 0) FROM reports_not_kept WHERE run = ?", (run,)
    ).fetchone()
    select = f"SELECT {REPORT_COLUMNS} FROM reports WHERE run = ? AND number > ? ORDER BY number LIMIT ?"
    rows = db.execute(select, (run, start, limit)).fetchall()
    with reading(run, "a report of an image"):
        return ImageReports([_image_report(row) for row in rows], num_images, num_not_kept)


def _image_report(row: tuple[Any, ...]) -> ImageReport:
    number, image, count, reason, detail, *of_places = row
    first, first_at_s, last, last_at_s = of_places[:3], of_places[3], of_places[4:7], of_places[7]
    report = ImageReport(
        number, image, count, reason, detail, Place(*first), first_at_s, Place(*last), last_at_s
    )
    return sound_report(report)


def _num_reported(db: _Db, run: str) -> int:
    (newest,) = db.execute("SELECT max(number) FROM reports WHERE run = ?", (run,)).fetchone()
    return newest or 0


def _delete_reports(db: _Db, run: str) -> None:
    db.execute("DELETE FROM reports WHERE run = ?", (run,))
    db.execute("DELETE FROM reports_not_kept WHERE run = ?", (run,))


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
    # in their own transactions: if one fails, on a disk that is nearly full, no commit fails with it
    report = _verb(_report, writes=True, alone=True)
    reports = _verb(_reports, writes=False)
    record = _verb(_record, writes=True, alone=True)
    events = _verb(_events, writes=False)

    async def examine(self) -> list[str]:
        await self._file.examine()
        return []

    def watch(self, on_unavailable: Callable[[StoreUnavailable], None]) -> None:
        self._file.on_unavailable = on_unavailable

    async def close(self) -> None:
        await self._file.close()
