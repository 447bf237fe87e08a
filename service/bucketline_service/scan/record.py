"""The record of a scan, a SQLite file beside the output: the files found, and the images of those that were opened.

Every chunk of results is committed, so a scan that is stopped in any way loses at most the chunks in work. SQLite sorts
on disk what does not fit in memory, so memory use is small for any number of images."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bucketline_service.errors import Conflict, Invalid
from bucketline_service.scan.scan_files import FileKind, FileResult, FoundFile, ScanFile

VERSION = "1"
_APPLICATION, _APPLICATION_AT = 0x6275636B, 68
"""The application id of the SQLite file, and its offset in the file."""
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
    location: str
    member: str


class BadImage(NamedTuple):
    location: str
    member: str
    reason: str


class ScanRecord:
    """The record of an output. One process at a time has it, exclusively, until it is closed."""

    def __init__(self, path: Path, ids: str, exif: bool = True) -> None:
        """A record made with other ``ids`` is emptied. ``Conflict`` while another scan has it, and where its sizes were
        read with another ``exif``, as they would be mixed, or replaced without being asked for."""
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
                str(path), "cannot be used as the record of a scan", "Move it away, or choose another output"
            ) from exc

    def _begin(self, path: Path, ids: str, exif: str) -> None:
        self._db.executescript(_SCHEMA)
        settings = dict(self._db.execute("SELECT name, value FROM settings"))
        if (settings.get("version", VERSION), settings.get("ids", ids)) != (VERSION, ids):
            self._db.executescript("DROP TABLE units; DROP TABLE images;" + _SCHEMA)
        # records of older versions do not have the setting, which was always applied
        known = settings.get("exif", "applied")
        if known != exif and self._db.execute("SELECT 1 FROM images LIMIT 1").fetchone():
            other = "with --no-exif" if known == "ignored" else "without --no-exif"
            raise Conflict(
                f"{path}: the record of this output is from a scan {other}, with other sizes. Scan {other} again, "
                "choose another output, or delete the record to open every image again"
            )
        self.scan = int(settings.get("scan", 0)) + 1
        values = [("version", VERSION), ("ids", ids), ("exif", exif), ("scan", str(self.scan))]
        self._db.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", values)

    def found(self, files: Iterable[FoundFile]) -> None:
        """Add files. Those that are new, or whose size or time has changed, are to be opened."""
        with self._transaction():
            rows = ((*each, self.scan, each.kind != FileKind.BAD) for each in files)
            self._db.executemany(_FOUND, rows)

    def reasons(self) -> set[str]:
        """All reasons why images have no size."""
        found = self._db.execute("SELECT DISTINCT reason FROM images WHERE reason IS NOT NULL")
        return {reason for (reason,) in found}

    def open_again(self, reasons: Iterable[str]) -> None:
        """Open the files again that have an image without a size for one of these reasons."""
        again = "UPDATE units SET todo = 1 WHERE unit IN (SELECT unit FROM images WHERE reason = ?)"
        with self._transaction():
            self._db.executemany(again, ((reason,) for reason in reasons))

    def counts(self) -> tuple[int, int]:
        """How many files this scan has found, and how many of them are to be opened."""
        found, todo = self._db.execute(
            "SELECT count(*), coalesce(sum(todo), 0) FROM units WHERE scan = ?", (self.scan,)
        ).fetchone()
        return found, todo

    def todo(self) -> Iterator[ScanFile]:
        """The files to open, in the order in which they were first found. ``done`` may be called during iteration."""
        last = 0
        while True:
            rows = self._db.execute(
                "SELECT unit, place, kind FROM units WHERE unit > ? AND scan = ? AND todo ORDER BY unit LIMIT 4096",
                (last, self.scan),
            ).fetchall()
            yield from (ScanFile(number, location, FileKind(kind)) for number, location, kind in rows)
            if not rows:
                return
            last = rows[-1][0]

    def done(self, results: Sequence[FileResult]) -> None:
        """Store results in one transaction."""
        with self._transaction():
            self._db.executemany("DELETE FROM images WHERE unit = ?", ((each.number,) for each in results))
            self._db.executemany(
                "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?)",
                ((each.number, *row) for each in results for row in each.rows),
            )
            self._db.executemany(
                "UPDATE units SET todo = ?, reason = ? WHERE unit = ?",
                ((each.again, each.reason, each.number) for each in results),
            )

    def sized(self) -> Iterator[SizedImage]:
        """Images with a size, by id, then by location."""
        return map(SizedImage._make, self._db.execute(_SIZED, (self.scan,)))

    def bad(self) -> Iterator[BadImage]:
        """Files and images without a size, by location."""
        return map(BadImage._make, self._db.execute(_BAD, (self.scan, self.scan)))

    def forget(self) -> None:
        """Delete the files that this scan has not found."""
        with self._transaction():
            gone = "(SELECT unit FROM units WHERE scan <> ?)"
            self._db.execute(f"DELETE FROM images WHERE unit IN {gone}", (self.scan,))
            self._db.execute("DELETE FROM units WHERE scan <> ?", (self.scan,))

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:  # commits, or rolls back after an error
            yield


def is_record(path: Path) -> bool:
    """Whether the file at ``path`` is the record of a scan; True where it does not exist."""
    if not path.exists():
        return True
    with path.open("rb") as file:
        head = file.read(_APPLICATION_AT + 4)
    own = _APPLICATION.to_bytes(4, "big")
    return not head or (head.startswith(b"SQLite format 3\0") and head[_APPLICATION_AT:] == own)
