"""Checks that the files of a SQLite database are those that were opened, and not damaged.

A database in WAL mode has a write-ahead log and the log's index beside it, from when the first process opens it until
the last one closes it. What was acknowledged may be in the log alone, and is lost if the log is removed. A process that
has the log open can still read it.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

REMEDY = (
    "It is no longer read or written. Stop all coordinators, replace it with a backup (without a -wal and a -shm file "
    "beside it) or with what .recover of SQLite's command line saves, and start them again"
)


class Log:
    """The write-ahead log and its index beside the database at ``path``, as they were when last checked."""

    def __init__(self, path: Path) -> None:
        self._paths = [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm")]
        self._inodes = [inode_of(each) for each in self._paths]
        self._num_bytes = self._size()

    def is_there(self) -> bool:
        """False if one of them was removed or replaced. Costs one stat each."""
        try:
            return [inode_of(each) for each in self._paths] == self._inodes
        except FileNotFoundError:
            return False

    def is_cut(self) -> bool:
        """Whether the log is shorter than at the last check. It only grows, unless another program truncates it, which
        may or may not have copied its content into the database first."""
        before, self._num_bytes = self._num_bytes, self._size()
        return self._num_bytes < before

    def _size(self) -> int:
        return self._paths[0].stat().st_size


def inode_of(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def uri(path: Path, mode: str) -> str:
    return f"file:{quote(str(path))}?mode={mode}"


def merge_log(connection: sqlite3.Connection) -> bool:
    """Write the content of the log into the database and remove the log. False, with nothing changed, if another
    process has the database open: its log may be another one."""
    try:
        mode: str = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
    except sqlite3.OperationalError:
        return False
    return mode == "delete"


def is_damage(error: BaseException) -> bool:
    """Whether the error says that the file is malformed or not a database: all others have a subclass of this one."""
    return type(error) is sqlite3.DatabaseError


def check(connection: sqlite3.Connection) -> None:
    """Read the whole file; raises an error that ``is_damage`` recognizes if its structure is damaged."""
    found = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        raise sqlite3.DatabaseError(" ".join(str(found[0]).split())[:200])


def check_on_disk(path: Path, busy_s: float, suspicion: str | None = None) -> None:
    """The same with a new connection, which has nothing of the file in memory. With a ``suspicion``, any error of
    SQLite confirms it."""
    connection = sqlite3.connect(uri(path, "ro"), uri=True, timeout=busy_s, isolation_level=None)
    try:
        check(connection)
    except sqlite3.Error as error:
        if suspicion is None:
            raise
        raise sqlite3.DatabaseError(f"{suspicion} ({error})") from error
    finally:
        connection.close()
