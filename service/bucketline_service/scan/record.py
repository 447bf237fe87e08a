"""The scan's own memory, a SQLite file beside the output: what was found, what was opened, and what came of it.

Every chunk of results is committed, so a scan that is stopped, however, loses at most the chunks on their way. Memory
stays small at any number of images, as SQLite sorts on disk what does not fit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bucketline_service.errors import Conflict, Invalid
from bucketline_service.scan.scan_files import FileKind, FileResult, FoundFile, ScanFile

VERSION = "1"
_APPLICATION, _APPLICATION_AT = 0x6275636B, 68
"""Where a SQLite file says whose it is."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS units (
    unit INTEGER PRIMARY KEY, place TEXT NOT NULL UNIQUE, kind INTEGER NOT NULL, id TEXT,
    num_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, scan INTEGER NOT NULL, todo INTEGER NOT NULL, reason TEXT
);
CREATE TABLE IF NOT EXISTS images (
    unit INTEGER NOT NULL, member TEXT NOT NULL, id TEXT, width INTEGER, height INTEGER, reason TEXT,
    PRIMARY KEY (unit, member)
) WITHOUT ROWID;
"""
_FOUND = """
INSERT INTO units (place, kind, id, num_bytes, mtime_ns, reason, scan, todo) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (place) DO UPDATE SET
    todo = excluded.todo AND (todo OR kind <> excluded.kind
        OR num_bytes <> excluded.num_bytes OR mtime_ns <> excluded.mtime_ns),
    reason = CASE WHEN excluded.todo AND kind = excluded.kind
        AND num_bytes = excluded.num_bytes AND mtime_ns = excluded.mtime_ns THEN reason ELSE excluded.reason END,
    kind = excluded.kind, id = excluded.id, num_bytes = excluded.num_bytes, mtime_ns = excluded.mtime_ns,
    scan = excluded.scan
"""
_SIZED = """
SELECT coalesce(images.id, units.id) AS id, width, height, place, member
FROM units JOIN images USING (unit) WHERE scan = ? AND images.reason IS NULL AND NOT todo AND kind <> 3
ORDER BY id, place, member
"""
_BAD = """
SELECT place, '' AS member, reason FROM units WHERE scan = ? AND reason IS NOT NULL
UNION ALL
SELECT place, member, images.reason FROM units JOIN images USING (unit)
WHERE scan = ? AND images.reason IS NOT NULL AND NOT todo AND kind <> 3
ORDER BY place, member
"""


class SizedImage(NamedTuple):
    id: str
    width: int
    height: int
    place: str
    member: str


class BadImage(NamedTuple):
    place: str
    member: str
    reason: str


class ScanRecord:
    """Of one output. Used by one process at a time, which has it alone until it is closed."""

    def __init__(self, path: Path, ids: str, exif: bool = True) -> None:
        """``ids`` other than the record's own: it starts anew. ``Conflict`` while another scan has it, and where its
        sizes are of another ``exif``: with this one they would be mixed, or replaced by others unasked."""
        self._db = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            if not path.stat().st_size:
                self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA cache_size = -65536")
            self._begin(path, ids, "applied" if exif else "ignored")
        except Conflict:
            self._db.close()
            raise
        except sqlite3.Error as exc:
            self._db.close()
            if "locked" in str(exc):
                raise Conflict(f"{path}: another scan is writing this output") from exc
            raise Invalid(
                str(path), "is no record of a scan that can be used", "Move it away, or name another output"
            ) from exc

    def _begin(self, path: Path, ids: str, exif: str) -> None:
        self._db.executescript(_SCHEMA)
        settings = dict(self._db.execute("SELECT name, value FROM settings"))
        if (settings.get("version", VERSION), settings.get("ids", ids)) != (VERSION, ids):
            self._db.executescript("DROP TABLE units; DROP TABLE images;" + _SCHEMA)
        # it was always applied before there was a choice
        known = settings.get("exif", "applied")
        if known != exif and self._db.execute("SELECT 1 FROM images LIMIT 1").fetchone():
            other = "with --no-exif" if known == "ignored" else "without --no-exif"
            raise Conflict(
                f"{path}: the record of this output is of a scan {other}, which has other sizes. Scan {other} again, "
                "name another output, or delete the record to open every image anew"
            )
        self.scan = int(settings.get("scan", 0)) + 1
        values = [("version", VERSION), ("ids", ids), ("exif", exif), ("scan", str(self.scan))]
        self._db.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", values)

    def found(self, units: Iterable[FoundFile]) -> None:
        """What is new, or has another size or time than it had, is to be opened."""
        with self._transaction():
            self._db.executemany(
                _FOUND,
                (
                    (
                        *each[:2],
                        each.id,
                        each.num_bytes,
                        each.mtime_ns,
                        each.reason,
                        self.scan,
                        each.kind != FileKind.BAD,
                    )
                    for each in units
                ),
            )

    def reasons(self) -> set[str]:
        """Why images are bad, so far."""
        found = self._db.execute("SELECT DISTINCT reason FROM images WHERE reason IS NOT NULL")
        return {reason for (reason,) in found}

    def open_again(self, reasons: Iterable[str]) -> None:
        """Units with an image that was bad for one of these reasons."""
        again = "UPDATE units SET todo = 1 WHERE unit IN (SELECT unit FROM images WHERE reason = ?)"
        with self._transaction():
            self._db.executemany(again, ((reason,) for reason in reasons))

    def counts(self) -> tuple[int, int]:
        """How many units this scan has found, and how many of them are to be opened."""
        found, todo = self._db.execute(
            "SELECT count(*), coalesce(sum(todo), 0) FROM units WHERE scan = ?", (self.scan,)
        ).fetchone()
        return found, todo

    def todo(self) -> Iterator[ScanFile]:
        """In the order in which they were first found. Results may come in between."""
        last = 0
        while True:
            rows = self._db.execute(
                "SELECT unit, place, kind FROM units WHERE unit > ? AND scan = ? AND todo ORDER BY unit LIMIT 4096",
                (last, self.scan),
            ).fetchall()
            yield from (ScanFile(unit, place, FileKind(kind)) for unit, place, kind in rows)
            if not rows:
                return
            last = rows[-1][0]

    def done(self, results: Sequence[FileResult]) -> None:
        """All at once."""
        with self._transaction():
            self._db.executemany("DELETE FROM images WHERE unit = ?", ((each.unit,) for each in results))
            self._db.executemany(
                "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?)",
                ((each.unit, *row) for each in results for row in each.rows),
            )
            self._db.executemany(
                "UPDATE units SET todo = ?, reason = ? WHERE unit = ?",
                ((each.again, each.reason, each.unit) for each in results),
            )

    def sized(self) -> Iterator[SizedImage]:
        """By id; of one id by place."""
        return map(SizedImage._make, self._db.execute(_SIZED, (self.scan,)))

    def bad(self) -> Iterator[BadImage]:
        """By place."""
        return map(BadImage._make, self._db.execute(_BAD, (self.scan, self.scan)))

    def forget(self) -> None:
        """What this scan has not found."""
        with self._transaction():
            gone = "(SELECT unit FROM units WHERE scan <> ?)"
            self._db.execute(f"DELETE FROM images WHERE unit IN {gone}", (self.scan,))
            self._db.execute("DELETE FROM units WHERE scan <> ?", (self.scan,))

    def close(self) -> None:
        self._db.close()

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def is_record(path: Path) -> bool:
    """Whether the file at ``path``, if there is one, is a scan's."""
    if not path.exists():
        return True
    with path.open("rb") as file:
        head = file.read(_APPLICATION_AT + 4)
    own = _APPLICATION.to_bytes(4, "big")
    return not head or (head.startswith(b"SQLite format 3\0") and head[_APPLICATION_AT:] == own)
