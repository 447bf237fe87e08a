"""One SQLite file: how it is opened, its schema, and the thread that runs transactions on it in groups.

Operations that wait at the same time share one transaction, so one fsync serves all of them. Each is answered only
after the transaction is committed, and has its own savepoint, so that one that fails undoes nothing of the others.

A file that is found damaged, or whose write-ahead log is lost, is not used again by this process: what SQLite reads
from it may be wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bucketline_service import event_kinds
from bucketline_service.errors import StoreUnavailable
from bucketline_service.store.sqlite import health
from bucketline_service.store.sqlite.health import Log, inode_of

T = TypeVar("T")

SCHEMA_VERSION = 4
RUNS = """
CREATE TABLE runs (
    run TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    session TEXT,
    world_size INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    step INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    birth TEXT NOT NULL,
    lockstep INTEGER,
    document BLOB NOT NULL  -- last, so that reading the generation never reads its overflow pages
);
"""
EVENTS = """
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    mark TEXT NOT NULL UNIQUE,
    run TEXT,
    document BLOB NOT NULL
);
"""
SCHEMA = f"""{RUNS}{EVENTS}CREATE TABLE sessions (
    run TEXT NOT NULL,
    session TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (run, session)
) WITHOUT ROWID;
CREATE TABLE ranks (
    run TEXT NOT NULL,
    rank INTEGER NOT NULL,
    number INTEGER NOT NULL,  -- the generation that wrote the row: an older one counts as absent
    epoch INTEGER NOT NULL,
    step INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    holder TEXT NOT NULL,
    leased_at_s REAL NOT NULL,
    lease_epoch INTEGER NOT NULL,
    lease_step INTEGER NOT NULL,
    last_seen_s REAL NOT NULL,
    PRIMARY KEY (run, rank)
) WITHOUT ROWID;
CREATE TABLE ping (id INTEGER PRIMARY KEY, pings INTEGER NOT NULL);
INSERT INTO ping VALUES (1, 0);
"""
GATE = """
CREATE TABLE IF NOT EXISTS announced (run TEXT NOT NULL, birth TEXT NOT NULL, PRIMARY KEY (run, birth)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS closed_maps (mark TEXT PRIMARY KEY, map TEXT NOT NULL, until_s REAL NOT NULL) WITHOUT ROWID;
"""
"""Runs that are about to be created, and maps that are about to be deleted."""

REPORTS = """
CREATE TABLE IF NOT EXISTS reports (
    run TEXT NOT NULL,
    image TEXT NOT NULL,
    number INTEGER NOT NULL,
    count INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT,
    first_epoch INTEGER NOT NULL,
    first_step INTEGER NOT NULL,
    first_rank INTEGER NOT NULL,
    first_at_s REAL NOT NULL,
    last_epoch INTEGER NOT NULL,
    last_step INTEGER NOT NULL,
    last_rank INTEGER NOT NULL,
    last_at_s REAL NOT NULL,
    PRIMARY KEY (run, image)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS reports_by_number ON reports (run, number);
CREATE TABLE IF NOT EXISTS reports_not_kept (
    run TEXT NOT NULL,
    rank INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    step INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (run, rank)
) WITHOUT ROWID;
"""
"""Images that could not be used; and of those for which there was no room, the number by rank, with the last place."""

ADDED = f"{GATE}{REPORTS}"
"""An older coordinator does not know these tables and can use the file all the same, so they do not change its
version."""

_OLD_BIRTHS = {1: "''", 2: "birth"}
"""Old schema versions with another table of runs: 1 had no births, 2 no lockstep. 3 had no events."""

GROUP_SIZE = 256
"""The most operations in one transaction: it limits how long the first of them waits for the last."""

BUSY_SHARE = 0.8
"""The share of the timeout spent waiting for another process's lock: SQLite's error must come before the deadline."""

LOCK_RETRY_S = 0.01


@dataclass(eq=False)
class _Operation:
    run: Callable[[sqlite3.Connection], Any]
    writes: bool
    alone: bool
    answer: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: Exception | None = None

    def settle(self) -> None:
        if self.error is not None:
            self.answer.set_exception(self.error)
        else:
            self.answer.set_result(self.result)


class SqliteFile:
    """Runs functions of a connection as transactions on one file. It can be used from any thread and event loop."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self.path = Path(path).absolute()
        self.on_unavailable: Callable[[StoreUnavailable], None] = lambda _: None
        self._timeout_s = timeout_s
        self._pending: deque[_Operation] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bucketline-sqlite")
        self._lost: str | None = None  # why the file must no longer be used
        # the attributes below belong to that thread
        self._connection: sqlite3.Connection | None = None
        self._log: Log | None = None
        self._inode: tuple[int, int] | None = None  # of the file that was first opened

    async def run(
        self, operation: Callable[[sqlite3.Connection], T], *, writes: bool, alone: bool = False
    ) -> T:
        """The function's result, after its transaction is committed. With ``alone``, no other operation shares it.

        Raises ``StoreUnavailable`` after the deadline: an operation that has not begun by then is dropped, one in
        progress may still be committed.
        """
        queued = _Operation(operation, writes, alone)
        self._pending.append(queued)
        try:
            # one drain per operation: a drain that finds the queue empty has nothing left to do
            self._thread.submit(self._drain)
        except RuntimeError as exc:
            raise StoreUnavailable("the SQLite store is closed") from exc
        try:
            answer: T = await asyncio.wait_for(asyncio.wrap_future(queued.answer), self._timeout_s)
        except TimeoutError as exc:
            late = StoreUnavailable(f"SQLite did not answer within {self._timeout_s:g} s: {self.path}")
            self.on_unavailable(late)
            raise late from exc
        except StoreUnavailable as exc:
            self.on_unavailable(exc)
            raise
        return answer

    async def examine(self) -> None:
        """Read the whole file while other operations continue; raises ``StoreUnavailable`` if it is damaged."""
        await self.run(lambda _: None, writes=False)  # checks that it is the file that was opened
        try:
            await asyncio.to_thread(health.check_on_disk, self.path, self._timeout_s * BUSY_SHARE)
        except (sqlite3.Error, OSError) as exc:
            error = self._explained(exc)
            assert isinstance(error, StoreUnavailable)
            self.on_unavailable(error)
            raise error from exc

    async def close(self) -> None:
        """Finish what is queued, then close the file. Closing again does nothing."""
        with contextlib.suppress(RuntimeError):  # already shut down
            closed = self._thread.submit(self._disconnect)
            self._thread.shutdown(wait=False)
            await asyncio.wrap_future(closed)

    def _drain(self) -> None:
        group: list[_Operation] = []
        while self._pending and len(group) < GROUP_SIZE:
            if group and (self._pending[0].alone or group[0].alone):
                break
            operation = self._pending.popleft()
            if operation.answer.set_running_or_notify_cancel():
                group.append(operation)
        if not group:
            return
        try:
            self._transact(group)
        except Exception as exc:
            # the connection may have failed: the next operation opens a new one. A connection to a damaged file is left
            # open: closing it would write to the file
            if not health.is_damage(exc):
                self._disconnect()
            for operation in group:
                operation.error = self._explained(exc)
        for operation in group:
            operation.settle()

    def _explained(self, exc: Exception) -> Exception:
        if not isinstance(exc, (sqlite3.Error, OSError)):
            return exc
        detail = f"SQLite: {getattr(exc, 'strerror', None) or exc}: {self.path}"
        if health.is_damage(exc):
            detail = self._lost = f"{detail} is damaged. {health.REMEDY}"
        if isinstance(exc, FileNotFoundError) and self._inode is not None:
            detail += ". It existed before: put it back unchanged, or put a backup in its place and restart"
        unavailable = StoreUnavailable(detail)
        unavailable.__cause__ = exc
        return unavailable

    def _transact(self, group: list[_Operation]) -> None:
        connection = self._connect()
        # a group of reads takes no lock, and costs no fsync as it writes nothing
        writes = any(operation.writes for operation in group)
        connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            for operation in group:
                _run_in_savepoint(connection, operation)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _connect(self) -> sqlite3.Connection:
        if self._lost is not None:
            raise StoreUnavailable(self._lost)
        if self._connection is not None:
            # otherwise a file that was moved or deleted would still accept writes, which would be lost
            if inode_of(self.path) == self._inode:
                if self._has_its_log(self._connection):
                    return self._connection
            else:
                self._disconnect()
        if self._inode is not None:
            # it existed before: a new, empty file in its place would hide the loss
            if inode_of(self.path) != self._inode:
                raise StoreUnavailable(
                    f"another file is in the store's place: {self.path}; restart to use it"
                )
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = _open(self.path, self._timeout_s * BUSY_SHARE, is_first=self._inode is None)
        self._inode, self._log = inode_of(self.path), Log(self.path)
        return self._connection

    def _has_its_log(self, connection: sqlite3.Connection) -> bool:
        """Whether the connection can still be used. If the log was removed, its content is in the database when this
        returns, and the connection is closed; raises ``StoreUnavailable`` if that cannot be done."""
        assert self._log is not None
        if self._log.is_there():
            if self._log.is_cut():
                health.check_on_disk(self.path, self._timeout_s * BUSY_SHARE, "its -wal file was truncated")
            return True
        if not health.merge_log(connection):
            self._lost = (
                f"SQLite: the write-ahead log of {self.path}, its -wal or its -shm file, was removed or replaced while "
                "several processes have the database open. Stop all of them with SIGTERM: the last one to end writes "
                "what was acknowledged into the database. Then start them again"
            )
            raise StoreUnavailable(self._lost)
        event_kinds.log(
            "store_log_removed", detail=f"the write-ahead log of {self.path} was removed; nothing is lost"
        )
        self._disconnect()
        return False

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def _run_in_savepoint(connection: sqlite3.Connection, operation: _Operation) -> None:
    connection.execute("SAVEPOINT operation")
    try:
        operation.result = operation.run(connection)
    except sqlite3.Error:
        raise  # SQLite may have rolled everything back: the whole group fails
    except Exception as exc:
        operation.error = exc
        connection.execute("ROLLBACK TO operation")
    connection.execute("RELEASE operation")


def _open(path: Path, busy_s: float, *, is_first: bool) -> sqlite3.Connection:
    """``is_first``: this process opens the file for the first time: it creates the file if it does not exist, and reads
    all of it."""
    uri = health.uri(path, "rwc" if is_first else "rw")
    connection = sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None)
    # a value that is not UTF-8 must not make a query fail that reads other rows
    connection.text_factory = lambda value: value.decode(errors="replace")
    try:
        deadline_s = time.monotonic() + busy_s
        while not _is_in_wal_mode(connection) and time.monotonic() < deadline_s:
            time.sleep(LOCK_RETRY_S)
        if is_first:
            health.check(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")  # processes that open a new file at once create one schema
        _make_schema(connection, path)
        for statement in ADDED.split(";\n"):
            connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _is_in_wal_mode(connection: sqlite3.Connection) -> bool:
    """Try to switch to WAL. The switch does not wait for another process's lock, so the caller tries again."""
    try:
        mode: str = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    except sqlite3.OperationalError as exc:
        if "locked" not in str(exc):
            raise
        return False
    if mode != "wal":
        raise StoreUnavailable(
            f"SQLite's WAL mode does not work on this file system (the mode remains {mode!r})"
        )
    return True


def _make_schema(connection: sqlite3.Connection, path: Path) -> None:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    if version > SCHEMA_VERSION:
        raise StoreUnavailable(
            f"{path} was written by a newer bucketline (schema {version}; this one supports up to {SCHEMA_VERSION}): "
            "run that version, or choose another file"
        )
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise StoreUnavailable(f"{path} is a SQLite file of another program: choose another file")
    for statement in (_upgrade(version) if version else SCHEMA).split(";\n"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _upgrade(version: int) -> str:
    if version not in _OLD_BIRTHS:
        return EVENTS
    # a new table: a column added to the old one would come after the document
    of_old = (
        f'run, number, session, world_size, epoch, step, "offset", {_OLD_BIRTHS[version]}, NULL, document'
    )
    return (
        f"ALTER TABLE runs RENAME TO runs_{version};{RUNS}INSERT INTO runs SELECT {of_old} FROM runs_{version};\n"
        f"DROP TABLE runs_{version};\n{EVENTS}"
    )
