"""Whether the files of a SQLite database are those that were opened, and whole.

Beside a database in WAL mode lie its write-ahead log and the log's index, from when the first process opens it to when
the last one closes it. What was acknowledged may stand in the log alone: whoever takes it away takes that along.
Who has it open reaches it still.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

REMEDY = (
    "Nothing is read from it or written to it any more. Stop all coordinators, put a backup in its place (without a "
    "-wal and a -shm file beside it), or what the .recover of SQLite's command line saves, and start them again"
)


class Log:
    """The write-ahead log and its index beside the database at ``path``, as they were when last looked at."""

    def __init__(self, path: Path) -> None:
        self._paths = [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm")]
        self._inodes = [inode_of(each) for each in self._paths]
        self._num_bytes = self._size()

    def is_there(self) -> bool:
        """False where one of them was removed or replaced. Costs a stat of each."""
        try:
            return [inode_of(each) for each in self._paths] == self._inodes
        except FileNotFoundError:
            return False

    def is_cut(self) -> bool:
        """Whether the log is shorter than at the last look: it only grows, unless somebody empties it, who may first
        have brought what it holds into the database, or not."""
        before, self._num_bytes = self._num_bytes, self._size()
        return self._num_bytes < before

    def _size(self) -> int:
        return self._paths[0].stat().st_size


def inode_of(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def uri(path: Path, mode: str) -> str:
    return f"file:{quote(str(path))}?mode={mode}"


def take_log_in(connection: sqlite3.Connection) -> bool:
    """Bring all that the log holds into the database and end it. False, with nothing changed, where another process
    has the database open, whose log may be this one or another."""
    try:
        mode: str = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
    except sqlite3.OperationalError:
        return False
    return mode == "delete"


def is_damage(error: BaseException) -> bool:
    """Whether SQLite says by it that the file is malformed, or none of its own: all else are classes below this one."""
    return type(error) is sqlite3.DatabaseError


def check(connection: sqlite3.Connection) -> None:
    """Read all of the file: raises what ``is_damage`` knows where its structure is damaged."""
    found = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        raise sqlite3.DatabaseError(" ".join(str(found[0]).split())[:200])


def check_afresh(path: Path, busy_s: float, suspicion: str | None = None) -> None:
    """The same by a connection of its own, which has none of the file in memory. With a ``suspicion`` of what is wrong
    whatever SQLite cannot do confirms it."""
    connection = sqlite3.connect(uri(path, "ro"), uri=True, timeout=busy_s, isolation_level=None)
    try:
        check(connection)
    except sqlite3.Error as error:
        if suspicion is None:
            raise
        raise sqlite3.DatabaseError(f"{suspicion} ({error})") from error
    finally:
        connection.close()
