"""Where a plan is built on disk: arrays as files, and a journal, so that a build that was killed goes on.

The folder has its work's name (the fingerprint) and belongs to one process at a time. What the journal tells is done
was on the disk before the journal was; all later writes may be made again, for they are the same.
"""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service.atomic_files import replacing
from bucketline_service.planning import chunked_map
from bucketline_service.planning.line.classify import Arrays

KEEP_EVERY_S = 5.0
"""Work that a kill may cost."""

_JOURNAL = "journal.npz"
_FILE = "file:"  # before the name of an array in the journal, whose size it tells


class BuildCheckpoint:
    """Implements ``classify.Checkpoint`` in ``folder``, which must exist. ``clock``: seconds, for the journal's
    pace."""

    def __init__(
        self,
        folder: Path,
        tell: Callable[[float], None],
        *,
        keep_every_s: float = KEEP_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.tell = tell
        self._keep_every_s = keep_every_s
        self._clock = clock
        self._kept_s = clock()
        self._arrays: dict[str, np.memmap[Any, Any]] = {}
        self._found: set[str] = set()
        self._journal = self._read()

    def array(self, name: str, num: int, dtype: type[np.generic]) -> NDArray[Any]:
        if not num:
            return np.empty(0, dtype=dtype)
        file = self.file(name)
        num_bytes = num * np.dtype(dtype).itemsize
        if name not in self._found:
            _allocate(file, num_bytes)
        self._arrays[name] = np.memmap(file, dtype=dtype, mode="r+", shape=(num,))
        return self._arrays[name]

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.bin"

    def load(self) -> Arrays:
        return self._journal

    def finish(self) -> None:
        """Leave nothing but the order, which is on the disk."""
        self.flush()
        self._arrays.clear()
        for name in (_JOURNAL, self.file("codes").name):
            (self.folder / name).unlink(missing_ok=True)

    def keep(self, state: Callable[[], Arrays]) -> None:
        if self._clock() - self._kept_s < self._keep_every_s:
            return
        self.flush()
        sizes = {f"{_FILE}{name}": np.array([array.nbytes]) for name, array in self._arrays.items()}
        with replacing(self.folder / _JOURNAL) as file:
            np.savez(file, chunk=np.array([chunked_map.CHUNK]), **sizes, **state())  # type: ignore[arg-type]
        self._kept_s = self._clock()

    def flush(self) -> None:
        """Everything that was written to the arrays onto the disk."""
        for array in self._arrays.values():
            array.flush()

    def _read(self) -> Arrays:
        """The journal, where it is whole, and its arrays are, and its chunks are this program's; else the folder is
        emptied."""
        try:
            # opened here: numpy leaves open what it opened itself and could not read
            with (self.folder / _JOURNAL).open("rb") as file, np.load(file, allow_pickle=False) as journal:
                arrays = dict(journal)
            sizes = {name: int(arrays.pop(name)[0]) for name in list(arrays) if name.startswith(_FILE)}
            self._found = {name.removeprefix(_FILE) for name in sizes}
            are_whole = all(self.file(name).stat().st_size == sizes[_FILE + name] for name in self._found)
            if int(arrays.pop("chunk")[0]) == chunked_map.CHUNK and are_whole:
                for unfinished in self.folder.glob(f".{_JOURNAL}.*"):  # of a build that was killed meanwhile
                    unfinished.unlink()
                return arrays
        except (OSError, ValueError, KeyError, EOFError, IndexError, zipfile.BadZipFile):
            pass
        self._found = set()
        for left in self.folder.iterdir():
            left.unlink()
        return {}


def _allocate(file: Path, num_bytes: int) -> None:
    """A file of zeros that has its place on the disk: writing to a map of one that has not kills the process where the
    disk is full."""
    with file.open("wb") as opened:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, num_bytes)
            return
        for begin in range(0, num_bytes, 1 << 20):
            opened.write(bytes(min(1 << 20, num_bytes - begin)))
