"""Files that appear whole: written under a temporary name, synced to the disk, then renamed into place.

A reader sees the old content or the new one, never a part, also after a crash. The rename itself survives a crash of
the machine only once its folder is synced (``sync_folder``): do that before telling anybody that the file exists.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """A new file at ``path``, which must not exist, with its content on the disk when the block ends. For files that
    are moved into place later, and for those that nobody reads before."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path, fresh: Path | None = None) -> Iterator[BinaryIO]:
    """A file that takes the place of ``path`` when the block ends, with its content on the disk. Where the block raises
    ``path`` stays as it was. ``fresh``: the temporary name, on the same file system; unless given, a hidden one beside
    ``path``. Any number of processes may replace the same file; the last one wins."""
    if fresh is None:
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with synced(fresh) as file:
            yield file
        fresh.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            fresh.unlink()
        raise


def replace_bytes(path: Path, data: bytes) -> None:
    """Replace the content of ``path``, or create it."""
    with replacing(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Wait until the names of the folder's files are on the disk: those that were created, renamed or deleted."""
    if os.name == "nt":  # Windows opens no folder, and writes renames through
        return
    _sync(folder)


def sync_tree(folder: Path) -> None:
    """Wait until the files of the folder, their content and their names, are on the disk."""
    for path in folder.iterdir():
        if path.is_file():
            _sync(path)
    sync_folder(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
