"""What a process does: open a chunk of units and hand back what it found. Nothing here writes anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from bucketline_service.scan.scan_files import FileKind, FileResult, IdStyle, ScanFile
from bucketline_service.scan.shards import sized, table_rows, tar_rows, unreadable
from bucketline_service.scan.storage import BucketAccess, Storage, is_remote

NUM_THREADS = 32
"""Of each process, where what it opens is an answer of a far server and not work."""


class ReadOptions(NamedTuple):
    """What a process needs to know. ``reaches``: see ``Storage``; ``exif``: see ``headers.read_size``."""

    ids: IdStyle
    reaches: Mapping[str, BucketAccess]
    exif: bool = True


class FileReader:
    """Opens units, one after the other, or many at a time where they are remote."""

    def __init__(self, setting: ReadOptions) -> None:
        self._ids = setting.ids
        self._exif = setting.exif
        self._places = Storage(setting.reaches)
        self._threads: ThreadPoolExecutor | None = None

    def read(self, units: Sequence[ScanFile]) -> list[FileResult]:
        if len(units) > 1 and is_remote(units[0].place):
            if self._threads is None:
                self._threads = ThreadPoolExecutor(NUM_THREADS)
            return list(self._threads.map(self._read, units))
        return [self._read(unit) for unit in units]

    def _read(self, unit: ScanFile) -> FileResult:
        try:
            with self._places.open(unit.place, sequential=unit.kind is FileKind.TAR) as file:
                if unit.kind is FileKind.TAR:
                    return tar_rows(file, unit, self._ids, self._exif)
                if unit.kind is FileKind.TABLE:
                    return table_rows(file, unit, self._ids)
                return FileResult(unit.unit, [sized(file, "", None, self._exif)])
        except OSError as exc:
            return unreadable(unit, exc)
