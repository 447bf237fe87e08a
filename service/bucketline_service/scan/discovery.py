"""What there is to open below the paths that are given. Nothing is opened but lists, and the footers of Parquet files:
those of img2dataset's tell that a shard's sizes are known."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

from bucketline_service.errors import BucketlineError, Invalid
from bucketline_service.scan import path_lists
from bucketline_service.scan.scan_files import (
    TARS,
    FileKind,
    FoundFile,
    IdStyle,
    has_image_extension,
    stem,
)
from bucketline_service.scan.shards import is_img2dataset
from bucketline_service.scan.storage import (
    FolderEntry,
    Storage,
    error_text,
    identity,
    is_remote,
    is_utf8,
    parse,
    shown,
)

_LOOK_AHEAD = 1024
_NUM_THREADS = 32


class ScanOptions(NamedTuple):
    """What the user asks for. ``exif``: to turn images as it says."""

    ids: IdStyle = IdStyle.RELATIVE
    columns: path_lists.ListColumns = path_lists.ListColumns()
    hidden: bool = False
    open_all: bool = False
    exif: bool = True


class FileFinder:
    """``skipped`` counts what was passed over: ``hidden``, or ``other`` than an image by its extension."""

    def __init__(self, places: Storage, wish: ScanOptions) -> None:
        self._places = places
        self._wish = wish
        self.skipped: Counter[str] = Counter()

    def find(self, path: str) -> Iterator[FoundFile]:
        place, _ = parse(path)
        try:
            entry = self._places.look(place)
        except OSError as exc:
            raise Invalid(place, error_text(exc)) from exc
        name = os.path.basename(place)
        if entry.is_folder:
            yield from self._folder(place)
        elif name.lower().endswith(path_lists.SUFFIXES):
            yield from self._list(place)
        elif name.lower().endswith(".parquet"):
            if not self._is_table(place):
                raise Invalid(
                    place, "is no Parquet file of img2dataset", "It needs key, status, width and height"
                )
            yield self._unit(place, entry, name)
        elif name.lower().endswith(TARS) or has_image_extension(name):
            yield self._unit(place, entry, name)
        else:
            raise Invalid(
                place, "is no folder, image, shard or list", "Name it .tar, .csv, .json, .jsonl or .txt"
            )

    def _folder(self, root: str) -> Iterator[FoundFile]:
        # each with its path below the root, and the folders that it stands in
        stack: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
        while stack:
            below, above = stack.pop()
            place = f"{root.rstrip('/')}/{below}".rstrip("/") or "/"
            try:
                own = identity(place)
                if own is not None and own in above:
                    yield _bad(place, "it is a link to a folder that it stands in")
                    continue
                entries = self._places.list(place)
            except OSError as exc:
                if not below:
                    raise Invalid(root, error_text(exc)) from exc
                yield _bad(place, error_text(exc))
                continue
            known = self._tables(place, entries)
            inner = above if own is None else above | {own}
            for entry in entries:
                name = f"{below}/{entry.name}".lstrip("/")
                if entry.name.startswith(".") and not self._wish.hidden:
                    self.skipped["hidden"] += 1
                elif entry.is_folder:
                    if entry.name not in known:
                        stack.append((name, inner))
                elif (
                    entry.name in known
                    or has_image_extension(entry.name)
                    or self._is_shard(entry.name, known)
                ):
                    yield self._unit(f"{place.rstrip('/')}/{entry.name}", entry, name)
                else:
                    self.skipped["other"] += 1

    def _tables(self, place: str, entries: list[FolderEntry]) -> set[str]:
        """Names of img2dataset's tables here, and without their extensions: of the folders and shards they tell of."""
        if self._wish.open_all:
            return set()
        names = [
            each.name for each in entries if each.name.lower().endswith(".parquet") and not each.is_folder
        ]
        found = [name for name in names if self._is_table(f"{place.rstrip('/')}/{name}")]
        return {*found, *(name[: -len(".parquet")] for name in found)}

    def _is_shard(self, name: str, known: set[str]) -> bool:
        lower = name.lower()
        return lower.endswith(TARS) and name.partition(".tar")[0] not in known

    def _is_table(self, place: str) -> bool:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            with self._places.open(place) as file:
                return is_img2dataset(parquet.ParquetFile(file).schema_arrow.names)
        except (OSError, pa.ArrowException, UnicodeDecodeError):
            return False

    def _unit(self, place: str, entry: FolderEntry, relative: str) -> FoundFile:
        """``relative``: the path below what the user has named."""
        if not is_utf8(place):
            return _bad(shown(place), "its name is not UTF-8")
        if entry.reason is not None:
            return _bad(place, entry.reason)
        lower = entry.name.lower()
        if lower.endswith(TARS):
            return FoundFile(place, FileKind.TAR, None, entry.num_bytes, entry.mtime_ns)
        if lower.endswith(".parquet"):
            return FoundFile(place, FileKind.TABLE, None, entry.num_bytes, entry.mtime_ns)
        return FoundFile(place, FileKind.FILE, self._id(place, relative), entry.num_bytes, entry.mtime_ns)

    def _id(self, place: str, relative: str) -> str:
        if self._wish.ids is IdStyle.FULL:
            return place
        if self._wish.ids is IdStyle.STEM:
            return stem(relative)
        return relative if os.sep == "/" else relative.replace(os.sep, "/")

    def _list(self, place: str) -> Iterator[FoundFile]:
        base, name = os.path.split(place)
        try:
            with self._places.open(place, sequential=True) as file:
                listed = path_lists.read(file, name, self._wish.columns)
                while some := list(islice(listed, _LOOK_AHEAD)):
                    yield from self._looked_at(some, base)
        except OSError as exc:
            raise Invalid(place, error_text(exc)) from exc

    def _looked_at(self, listed: list[path_lists.ListedFile], base: str) -> Iterable[FoundFile]:
        """In their order; many at a time where a far server is asked."""
        if not any(is_remote(path_lists.place(each.path, base)) for each in listed):
            return [self._listed(each, base) for each in listed]
        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            return list(threads.map(lambda each: self._listed(each, base), listed))

    def _listed(self, listed: path_lists.ListedFile, base: str) -> FoundFile:
        place = path_lists.place(listed.path, base)
        try:
            place = parse(place)[0] if "://" in place else place
            entry = self._places.look(place)
        except (OSError, BucketlineError) as exc:
            return _bad(place, error_text(exc) if isinstance(exc, OSError) else str(exc))
        if entry.is_folder:
            return _bad(place, "it is a folder; a list names images and shards")
        found = self._unit(place, entry, listed.path)
        if found.kind is FileKind.FILE and listed.id is not None:
            return found._replace(id=listed.id)
        return found


def _bad(place: str, reason: str) -> FoundFile:
    return FoundFile(shown(place) if not is_remote(place) else place, FileKind.BAD, reason=reason)
