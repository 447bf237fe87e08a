"""What only SQLite has: durability, locks, the file's version, a full disk."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bucketline_service.errors import StoreUnavailable
from bucketline_service.store import (
    Cursor,
    Generation,
    KeptEvent,
    NewEvent,
    NewReport,
    Outcome,
    Place,
    ReportOutcome,
    RunRecord,
    open_store,
)
from bucketline_service.store.sqlite.file import GROUP_SIZE, SCHEMA_VERSION
from bucketline_service.store.sqlite.store import SqliteStore
from tests.store.jobs import FIRST, Job

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
async def job(path: Path) -> AsyncIterator[Job]:
    store = open_store(f"sqlite:///{path}", timeout_s=30.0)
    yield await Job.create(store, "run")
    await store.close()


async def test_a_commit_is_synced_to_disk(job: Job) -> None:
    store = job.store
    assert isinstance(store, SqliteStore)

    def pragmas(db: sqlite3.Connection) -> list[object]:
        return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]

    assert await store._file.run(pragmas, writes=False) == ["wal", 2]  # 2: FULL


async def test_what_changes_nothing_writes_nothing(job: Job, path: Path) -> None:
    lease = (await job.lease()).lease
    await job.commit(lease, Cursor(0, 5))
    reports = [NewReport("a", "missing"), NewReport("b", "missing")]
    await job.store.report("run", Place(0, 5, 0), reports, 1, 9.0)
    log = path.with_name("state.db-wal")
    before = log.read_bytes()
    await job.commit(lease)
    await job.commit(lease, Cursor(0, 5))
    await job.commit(lease, Cursor(0, 9), generation=2)
    await job.commit(lease + 1, Cursor(0, 9))
    await job.lease()
    await job.begin(5)
    await job.store.create_run("run", b"other", FIRST)
    await job.store.delete_run("other")
    await job.store.report("run", Place(0, 5, 0), reports, 1, 10.0)
    await job.store.reports("run", 0, 10)
    await job.store.ranks("run")
    await job.store.read_run("run")
    assert log.read_bytes() == before
    await job.commit(lease, Cursor(0, 6))
    assert log.read_bytes() != before


async def test_ping_writes(job: Job, path: Path) -> None:
    log = path.with_name("state.db-wal")
    before = log.read_bytes()
    await job.store.ping()
    assert log.read_bytes() != before


async def test_commits_that_wait_together_share_a_transaction(job: Job, path: Path) -> None:
    """Each transaction writes its page again: 64 commits one by one write 64 frames, together far fewer."""
    leases = [await job.lease(rank) for rank in range(4)]
    log = path.with_name("state.db-wal")

    async def commit(step: int) -> None:
        await job.commit(leases[step % 4].lease, Cursor(0, step), rank=step % 4)

    before = log.stat().st_size
    for step in range(1, 65):
        await commit(step)
    alone = log.stat().st_size - before
    before = log.stat().st_size
    await asyncio.gather(*(commit(step) for step in range(65, 129)))
    together = log.stat().st_size - before
    assert together < alone / 2


async def test_more_operations_than_a_group_holds(job: Job) -> None:
    leases = await asyncio.gather(*(job.lease(rank) for rank in range(3 * GROUP_SIZE)))
    assert [record.rank for record in leases] == list(range(3 * GROUP_SIZE))


async def test_an_operation_that_fails_takes_nothing_of_its_group_along(job: Job) -> None:
    lease = (await job.lease()).lease
    asked = [job.commit(lease, Cursor(0, step)) for step in range(1, 20)]
    asked.insert(7, job.commit(lease, Cursor(2**70, 0)))
    asked.insert(9, job.begin(2, session="half", offset=2**70))  # type: ignore[arg-type]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers if isinstance(answer, Exception)] == [OverflowError] * 2
    assert (await job.record()).cursor == Cursor(0, 19)  # type: ignore[union-attr]
    assert (await job.store.session("run", "half"))[1] is None


async def test_events_that_can_not_be_written_take_no_commit_along(job: Job) -> None:
    """A group whose transaction fails fails as a whole, so events have their own."""
    store = job.store
    assert isinstance(store, SqliteStore)
    lease = (await job.lease()).lease
    await store._file.run(lambda db: db.execute("DROP TABLE events"), writes=True)
    asked = [job.commit(lease, Cursor(0, step)) for step in range(1, 4)]
    asked.insert(1, store.record([NewEvent("mark", None, b"")], 0))  # type: ignore[arg-type]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers if isinstance(answer, Exception)] == [StoreUnavailable]
    assert (await job.record()).cursor == Cursor(0, 3)  # type: ignore[union-attr]


async def test_what_an_operation_wrote_before_it_failed_is_undone(job: Job) -> None:
    store = job.store
    assert isinstance(store, SqliteStore)

    def fail_halfway(db: sqlite3.Connection) -> None:
        db.execute("UPDATE runs SET world_size = 99")
        raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        await store._file.run(fail_halfway, writes=True)
    assert (await store.read_run("run")).generation == FIRST


async def test_a_lock_of_another_process(job: Job, path: Path) -> None:
    lease = (await job.lease()).lease
    other = sqlite3.connect(path, isolation_level=None)
    hasty = open_store(f"sqlite:///{path}", timeout_s=1.5)
    await hasty.ping()
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        await Job(hasty, "run").commit(lease, Cursor(0, 1))
    assert (await job.store.read_run("run")).generation == FIRST  # reading waits for nobody
    waiting = asyncio.ensure_future(job.commit(lease, Cursor(0, 1)))
    await asyncio.sleep(0)
    other.execute("COMMIT")
    assert (await waiting).outcome is Outcome.OK
    other.close()
    await hasty.ping()
    await hasty.close()


async def refused(path: Path) -> str:
    store = open_store(f"sqlite:///{path}", timeout_s=1.0)
    with pytest.raises(StoreUnavailable) as caught:
        await store.ping()
    await store.close()
    assert str(path) in str(caught.value)
    return str(caught.value)


async def test_a_file_of_the_release_before_gets_the_tables_of_reports(job: Job, path: Path) -> None:
    await job.store.close()
    with sqlite3.connect(path) as other:
        other.executescript("DROP TABLE reports; DROP TABLE reports_not_kept")
    other.close()
    store = open_store(f"sqlite:///{path}", timeout_s=30.0)
    two = [NewReport("a", "x"), NewReport("b", "x")]
    assert (await store.report("run", Place(0, 0, 0), two, 1, 9.0)).num_images == 1
    found = await store.reports("run", 0, 10)
    assert (len(found.reports), found.num_not_kept) == (1, 1)
    await store.close()


async def test_reports_that_an_older_coordinator_left_are_not_those_of_a_new_run(
    job: Job, path: Path
) -> None:
    """It deletes a run and does not know the tables."""
    two = [NewReport("a", "x"), NewReport("b", "x")]
    await job.store.report("run", Place(0, 0, 0), two, 1, 9.0)
    with sqlite3.connect(path) as other:
        other.executescript("DELETE FROM ranks; DELETE FROM sessions; DELETE FROM runs")
    other.close()
    await Job.create(job.store, "run")
    found = await job.store.report("run", Place(0, 0, 0), two, 1, 9.0)
    assert found.outcomes == [ReportOutcome.NEW, ReportOutcome.NOT_KEPT]


async def test_a_newer_schema_is_refused(job: Job, path: Path) -> None:
    await job.store.close()
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
        other.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    other.close()
    assert f"newer bucketline (schema {SCHEMA_VERSION + 1}" in await refused(path)


VERSION_1 = """
CREATE TABLE runs (
    run TEXT PRIMARY KEY, number INTEGER NOT NULL, session TEXT, world_size INTEGER NOT NULL,
    epoch INTEGER NOT NULL, step INTEGER NOT NULL, "offset" INTEGER NOT NULL, document BLOB NOT NULL);
CREATE TABLE sessions (
    run TEXT NOT NULL, session TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (run, session)) WITHOUT ROWID;
CREATE TABLE ranks (
    run TEXT NOT NULL, rank INTEGER NOT NULL, number INTEGER NOT NULL, epoch INTEGER NOT NULL, step INTEGER NOT NULL,
    lease INTEGER NOT NULL, holder TEXT NOT NULL, leased_at_s REAL NOT NULL, lease_epoch INTEGER NOT NULL,
    lease_step INTEGER NOT NULL, last_seen_s REAL NOT NULL, PRIMARY KEY (run, rank)) WITHOUT ROWID;
CREATE TABLE ping (id INTEGER PRIMARY KEY, pings INTEGER NOT NULL);
INSERT INTO ping VALUES (1, 0);
INSERT INTO runs VALUES ('run', 2, 's', 4, 0, 3, 12, x'646f63');
INSERT INTO sessions VALUES ('run', 's', 2);
INSERT INTO ranks VALUES ('run', 1, 2, 0, 5, 16385, 'me', 10.0, 0, 3, 11.0);
PRAGMA user_version = 1;
"""


VERSION_2 = (
    VERSION_1.replace("document BLOB", "birth TEXT NOT NULL, document BLOB")
    .replace("12, x'646f63'", "12, 'b7', x'646f63'")
    .replace("user_version = 1", "user_version = 2")
)


VERSION_3 = (
    VERSION_2.replace("document BLOB", "lockstep INTEGER, document BLOB")
    .replace("'b7', x'646f63'", "'b7', NULL, x'646f63'")
    .replace("user_version = 2", "user_version = 3")
)


@pytest.mark.parametrize(("version", "birth"), [(VERSION_1, ""), (VERSION_2, "b7"), (VERSION_3, "b7")])
async def test_a_file_from_before_there_were_births_or_locksteps_or_events_goes_on(
    path: Path, version: str, birth: str
) -> None:
    with sqlite3.connect(path) as other:
        other.executescript(version)
    other.close()
    second = Generation(2, "s", 4, Cursor(0, 3), 12, birth, lockstep=None)
    for _ in range(2):  # opened, and opened again
        store = open_store(f"sqlite:///{path}", timeout_s=30.0)
        old = Job(store, "run", second)
        assert await store.read_run("run") == RunRecord(b"doc", second)
        assert await store.session("run", "s") == (second.id, 2)
        commit = await old.commit(16385, Cursor(0, 6), rank=1, generation=2)
        assert (commit.outcome, commit.cursor) == (Outcome.OK, Cursor(0, 6))
        await store.close()
    store = open_store(f"sqlite:///{path}", timeout_s=30.0)
    third = (await Job(store, "run", second).begin(3, session="t", lockstep=6)).generation
    assert (await store.read_run("run")).generation == third
    assert (third.number, third.lockstep) == (3, 6)
    assert (await store.create_run("new", b"", FIRST))[0].generation == FIRST
    await store.record([NewEvent("mark", "run", b"told")], 7)
    assert await store.events("run", 0, 10) == [KeptEvent(7, "run", b"told")]
    reported = await store.report("run", Place(0, 1, 1), [NewReport("a", "missing")], 10, 12.0)
    assert reported.outcomes == [ReportOutcome.NEW]
    await store.close()
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
        columns = [name for _, name, *_ in other.execute("PRAGMA table_info(runs)")]
        tables = {name for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    other.close()
    assert columns[-1] == "document"  # else each reading of a generation would walk over it
    now = {
        "runs",
        "sessions",
        "ranks",
        "events",
        "ping",
        "announced",
        "closed_maps",
        "reports",
        "reports_not_kept",
    }
    assert tables == now


async def test_another_programs_file_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    assert "another program" in await refused(path)


async def test_a_broken_file_is_refused(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    assert "not a database" in await refused(path)
    assert path.read_bytes() == b"no database" * 1000


async def test_another_file_in_the_stores_place_is_refused(job: Job, path: Path) -> None:
    """A store that is swapped under a running service has lost what was acknowledged."""
    path.rename(path.with_name("old.db"))
    other = open_store(f"sqlite:///{path}")
    await other.ping()
    with pytest.raises(StoreUnavailable, match="another file"):
        await job.store.read_run("run")
    await other.close()


async def test_a_deleted_file_is_not_made_again(job: Job, path: Path) -> None:
    path.unlink()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="No such file"):
            await job.store.create_run("new", b"", FIRST)
    assert not path.exists()


FULL_DISK = """
import asyncio, resource, sys
from bucketline_service.errors import StoreUnavailable
from bucketline_service.store import Cursor, Generation, open_store

async def main():
    store = open_store(sys.argv[1], timeout_s=30.0)
    first = Generation(1, None, 1, Cursor(0, 0), 0, "b")
    await store.create_run("before", b"", first)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # no file may grow further, not for root either
    try:
        await store.create_run("run", bytes(1_000_000), first)
    except StoreUnavailable as exc:
        print(exc)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert await store.list_runs() == ["before"]
    await store.create_run("run", bytes(1_000_000), first)
    print(await store.list_runs())
    await store.close()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX")
def test_a_full_disk(path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, f"sqlite:///{path}"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert lines[0].startswith("SQLite: ")
    assert lines[0].endswith(str(path))
    assert lines[1] == "['before', 'run']"
