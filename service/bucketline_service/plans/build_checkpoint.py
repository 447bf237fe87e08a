"""Where a plan is built on disk: arrays as files, and a journal, so that a build that was killed is resumed.

The folder is named after the plan's fingerprint and belongs to one process at a time. Whatever the journal records as
done was on the disk before the journal was. All later writes may be repeated, because they give the same bytes.
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
from bucketline_service.planning import chunked_passes
from bucketline_service.planning.line.classify import Arrays

KEEP_EVERY_S = 5.0
"""Seconds of work that a kill may cost."""

_JOURNAL = "journal.npz"
_FILE = "file:"  # prefix of an array's name in the journal, with the size of its file


class BuildCheckpoint:
    """Implements ``classify.Checkpoint`` in ``folder``, which must exist. ``clock``: seconds, which
    pace the journal."""

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
        """Delete everything but the order, which is on the disk."""
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
            np.savez(file, chunk=np.array([chunked_passes.CHUNK]), **sizes, **state())  # type: ignore[arg-type]
        self._kept_s = self._clock()

    def flush(self) -> None:
        """Sync everything that was written to the arrays."""
        for array in self._arrays.values():
            array.flush()

    def _read(self) -> Arrays:
        """The journal, if it and its arrays are complete and its chunks have this program's size. Otherwise the folder
        is emptied."""
        try:
            # opened here: numpy leaves open what it opened itself and could not read
            with (self.folder / _JOURNAL).open("rb") as file, np.load(file, allow_pickle=False) as journal:
                arrays = dict(journal)
            sizes = {name: int(arrays.pop(name)[0]) for name in list(arrays) if name.startswith(_FILE)}
            self._found = {name.removeprefix(_FILE) for name in sizes}
            are_whole = all(self.file(name).stat().st_size == sizes[_FILE + name] for name in self._found)
            if int(arrays.pop("chunk")[0]) == chunked_passes.CHUNK and are_whole:
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
    """A file of zeros whose blocks are allocated: on a full disk, writing to the map of a sparse file kills the
    process."""
    with file.open("wb") as opened:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, num_bytes)
            return
        for begin in range(0, num_bytes, 1 << 20):
            opened.write(bytes(min(1 << 20, num_bytes - begin)))
