"""A separate file system of a few MiB, which can be filled and emptied."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    def __init__(self, root: Path) -> None:
        self.root = root
        self._ballast = root / "ballast"

    def fill(self, leave_bytes: int = 0) -> None:
        """Fill the free space except for that much."""
        status = os.statvfs(self.root)
        taken = self._ballast.stat().st_size if self._ballast.exists() else 0
        size = taken + max(0, status.f_bavail * status.f_frsize - leave_bytes)
        with self._ballast.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))

    def free(self) -> None:
        self._ballast.unlink()


def files(folder: Path) -> set[str]:
    """All files except the ballast and SQLite's own."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return {name for name in found if name != "ballast" and "sqlite" not in name}


@contextmanager
def small_disk(root: Path, size: str) -> Iterator[SmallDisk]:
    """Mounted at ``root`` in memory, which needs root."""
    root.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(root)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)
