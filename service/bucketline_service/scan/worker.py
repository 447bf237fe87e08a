"""Opens a chunk of files, in whatever process, and returns the sizes. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from bucketline_service.scan.scan_files import FileKind, FileResult, IdStyle, ScanFile
from bucketline_service.scan.shards import read_table, read_tar, size_row, unreadable
from bucketline_service.scan.storage import BucketAccess, Storage, is_remote

NUM_THREADS = 32
"""Threads of each process for remote files, where most of the time is spent waiting."""


class ReadOptions(NamedTuple):
    """How to open files. ``buckets``: see ``Storage``; ``exif``: see ``headers.read_size``."""

    ids: IdStyle
    buckets: Mapping[str, BucketAccess]
    exif: bool = True


class FileReader:
    """Opens files, one after the other, or many at once where they are remote."""

    def __init__(self, read_options: ReadOptions) -> None:
        self._ids = read_options.ids
        self._exif = read_options.exif
        self._storage = Storage(read_options.buckets)
        self._threads: ThreadPoolExecutor | None = None

    def read(self, files: Sequence[ScanFile]) -> list[FileResult]:
        if len(files) > 1 and is_remote(files[0].location):
            if self._threads is None:
                self._threads = ThreadPoolExecutor(NUM_THREADS)
            return list(self._threads.map(self._read, files))
        return [self._read(scan_file) for scan_file in files]

    def _read(self, scan_file: ScanFile) -> FileResult:
        try:
            with self._storage.open(scan_file.location, sequential=scan_file.kind is FileKind.TAR) as file:
                if scan_file.kind is FileKind.TAR:
                    return read_tar(file, scan_file, self._ids, self._exif)
                if scan_file.kind is FileKind.TABLE:
                    return read_table(file, scan_file, self._ids)
                return FileResult(scan_file.number, [size_row(file, "", None, self._exif)])
        except OSError as exc:
            return unreadable(scan_file, exc)
