"""Finds the files of a scan below the paths that are given. Only lists are opened, and the footers of Parquet files, as
img2dataset's tables have the sizes of a shard."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

from bucketline_service.errors import BucketlineError, Invalid
from bucketline_service.scan import path_lists
from bucketline_service.scan.scan_files import TARS, FileKind, FoundFile, IdStyle, has_image_extension, stem
from bucketline_service.scan.shards import is_img2dataset
from bucketline_service.scan.storage import (
    FolderEntry,
    Storage,
    error_text,
    identity,
    is_remote,
    is_utf8,
    parse,
    printable,
)

_LOOK_AHEAD = 1024
_NUM_THREADS = 32


class ScanOptions(NamedTuple):
    """The options of a scan. ``exif``: swap width and height of images that EXIF turns by a quarter."""

    ids: IdStyle = IdStyle.RELATIVE
    columns: path_lists.ListColumns = path_lists.ListColumns()
    hidden: bool = False
    open_all: bool = False
    exif: bool = True


class FileFinder:
    """``skipped`` counts the files left out: ``hidden`` ones, and those that are ``other`` than images by extension."""

    def __init__(self, storage: Storage, options: ScanOptions) -> None:
        self._storage = storage
        self._options = options
        self.skipped: Counter[str] = Counter()

    def find(self, path: str) -> Iterator[FoundFile]:
        location, _ = parse(path)
        try:
            entry = self._storage.stat(location)
        except OSError as exc:
            raise Invalid(location, error_text(exc)) from exc
        name = os.path.basename(location)
        if entry.is_folder:
            yield from self._folder(location)
        elif name.lower().endswith(path_lists.SUFFIXES):
            yield from self._list(location)
        elif name.lower().endswith(".parquet"):
            if not self._is_table(location):
                raise Invalid(
                    location,
                    "must be a Parquet file of img2dataset, with the columns key, status, width and height",
                )
            yield self._unit(location, entry, name)
        elif name.lower().endswith(TARS) or has_image_extension(name):
            yield self._unit(location, entry, name)
        else:
            raise Invalid(
                location,
                "must be a folder, an image, a shard or a list",
                "Shards end in .tar, lists in .csv, .json, .jsonl or .txt",
            )

    def _folder(self, root: str) -> Iterator[FoundFile]:
        # folders to list: the path below the root, and the identities of the folders above
        stack: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
        while stack:
            below, above = stack.pop()
            location = f"{root.rstrip('/')}/{below}".rstrip("/") or "/"
            try:
                own = identity(location)
                if own is not None and own in above:
                    yield _bad(location, "it is a link to a folder that contains it")
                    continue
                entries = self._storage.list(location)
            except OSError as exc:
                if not below:
                    raise Invalid(root, error_text(exc)) from exc
                yield _bad(location, error_text(exc))
                continue
            known = self._tables(location, entries)
            inner = above if own is None else above | {own}
            for entry in entries:
                name = f"{below}/{entry.name}".lstrip("/")
                if entry.name.startswith(".") and not self._options.hidden:
                    self.skipped["hidden"] += 1
                elif entry.is_folder:
                    if entry.name not in known:
                        stack.append((name, inner))
                elif (
                    entry.name in known
                    or has_image_extension(entry.name)
                    or self._is_shard(entry.name, known)
                ):
                    yield self._unit(f"{location.rstrip('/')}/{entry.name}", entry, name)
                else:
                    self.skipped["other"] += 1

    def _tables(self, location: str, entries: list[FolderEntry]) -> set[str]:
        """The names of img2dataset's tables, with and without extension: the latter are those of the folders and shards
        that they describe."""
        if self._options.open_all:
            return set()
        names = [
            each.name for each in entries if each.name.lower().endswith(".parquet") and not each.is_folder
        ]
        found = [name for name in names if self._is_table(f"{location.rstrip('/')}/{name}")]
        return {*found, *(name[: -len(".parquet")] for name in found)}

    def _is_shard(self, name: str, known: set[str]) -> bool:
        lower = name.lower()
        return lower.endswith(TARS) and name.partition(".tar")[0] not in known

    def _is_table(self, location: str) -> bool:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            with self._storage.open(location) as file:
                return is_img2dataset(parquet.ParquetFile(file).schema_arrow.names)
        except (OSError, pa.ArrowException, UnicodeDecodeError):
            return False

    def _unit(self, location: str, entry: FolderEntry, relative: str) -> FoundFile:
        """``relative``: the path relative to the one that the user has given."""
        if not is_utf8(location):
            return _bad(printable(location), "its name is not UTF-8")
        if entry.reason is not None:
            return _bad(location, entry.reason)
        lower = entry.name.lower()
        if lower.endswith(TARS):
            return FoundFile(location, FileKind.TAR, None, entry.num_bytes, entry.mtime_ns)
        if lower.endswith(".parquet"):
            return FoundFile(location, FileKind.TABLE, None, entry.num_bytes, entry.mtime_ns)
        return FoundFile(
            location, FileKind.IMAGE, self._id(location, relative), entry.num_bytes, entry.mtime_ns
        )

    def _id(self, location: str, relative: str) -> str:
        if self._options.ids is IdStyle.FULL:
            return location
        if self._options.ids is IdStyle.STEM:
            return stem(relative)
        return relative if os.sep == "/" else relative.replace(os.sep, "/")

    def _list(self, location: str) -> Iterator[FoundFile]:
        base, name = os.path.split(location)
        try:
            with self._storage.open(location, sequential=True) as file:
                listed = path_lists.read(file, name, self._options.columns)
                while some := list(islice(listed, _LOOK_AHEAD)):
                    yield from self._looked_at(some, base)
        except OSError as exc:
            raise Invalid(location, error_text(exc)) from exc

    def _looked_at(self, listed: list[path_lists.ListedFile], base: str) -> Iterable[FoundFile]:
        """The files of a list, in order; requests to remote storage run in parallel."""
        if not any(is_remote(path_lists.location(each.path, base)) for each in listed):
            return [self._listed(each, base) for each in listed]
        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            return list(threads.map(lambda each: self._listed(each, base), listed))

    def _listed(self, listed: path_lists.ListedFile, base: str) -> FoundFile:
        location = path_lists.location(listed.path, base)
        try:
            location = parse(location)[0] if "://" in location else location
            entry = self._storage.stat(location)
        except (OSError, BucketlineError) as exc:
            return _bad(location, error_text(exc) if isinstance(exc, OSError) else str(exc))
        if entry.is_folder:
            return _bad(location, "it is a folder; a list must consist of images and shards")
        found = self._unit(location, entry, listed.path)
        if found.kind is FileKind.IMAGE and listed.id is not None:
            return found._replace(id=listed.id)
        return found


def _bad(location: str, reason: str) -> FoundFile:
    return FoundFile(
        printable(location) if not is_remote(location) else location, FileKind.BAD, reason=reason
    )
