"""Where images are: files by absolute path, objects by ``s3://`` or ``gs://`` URI. They are opened for reading alone.

A place is a string without what is secret; what a URI says behind its ``?`` (an endpoint, a region) is kept apart, by
bucket, and goes to every process that opens something there."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from bucketline_service.errors import Invalid

SCHEMES = ("s3", "gs", "gcs")
_LOCAL_BLOCK_BYTES = 8 << 10
_REMOTE_BLOCK_BYTES = 64 << 10
_SHARD_BLOCK_BYTES = 1 << 20


class FolderEntry(NamedTuple):
    """What a folder holds. ``reason``: why nothing more is known of it."""

    name: str
    is_folder: bool
    num_bytes: int = 0
    mtime_ns: int = 0
    reason: str | None = None


_Entries = list[FolderEntry]


def is_remote(place: str) -> bool:
    return place.partition("://")[0] in SCHEMES and "://" in place


class BucketAccess(NamedTuple):
    """What a URI says of how to get to its bucket, and no place has: its user, and its query."""

    user: str = ""
    query: str = ""


def parse(path: str) -> tuple[str, BucketAccess]:
    """The place that the user means."""
    scheme, separator, rest = path.partition("://")
    if not separator:
        return os.path.abspath(path), BucketAccess()
    if scheme == "file":
        return os.path.abspath(unquote(urlsplit(path).path)), BucketAccess()
    if scheme not in SCHEMES:
        raise Invalid(
            path.partition("?")[0].rpartition("@")[2],
            f"{scheme}:// is not read",
            "Give a path, s3://bucket/prefix or gs://bucket/prefix",
        )
    rest, _, query = rest.partition("?")
    if not rest.strip("/"):
        raise Invalid(
            path.partition("?")[0].rpartition("@")[2],
            "there is no bucket in it",
            f"Give {scheme}://bucket/prefix",
        )
    bucket, slash, key = rest.partition("/")
    user, _, bucket = bucket.rpartition("@")
    return f"{scheme}://{bucket}{slash}{key}".rstrip("/"), BucketAccess(user, query)


def shown(name: str) -> str:
    """A name that is not UTF-8, so that it can be told."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class Storage:
    """Opens and lists places. ``reaches``: those of URIs, by ``scheme://bucket``, and by the scheme alone for
    buckets that only a list names."""

    def __init__(self, reaches: Mapping[str, BucketAccess]) -> None:
        self._reaches = reaches
        self._systems: dict[str, Any] = {}
        self._trees: dict[str, _Entries] = {}

    @contextmanager
    def open(self, place: str, *, sequential: bool = False) -> Iterator[IO[bytes]]:
        """``sequential``: it will be read on and on, as a shard is."""
        if is_remote(place):
            system, path = self._system(place)
            block = _SHARD_BLOCK_BYTES if sequential else _REMOTE_BLOCK_BYTES
            with system.open_input_file(path) as file:
                yield io.BufferedReader(_Remote(file), block)
        else:
            with open(place, "rb", buffering=_LOCAL_BLOCK_BYTES) as file:
                yield file

    def look(self, place: str) -> FolderEntry:
        """``FileNotFoundError`` where there is nothing."""
        if not is_remote(place):
            return _entry(os.path.basename(place), Path(place).stat())
        system, path = self._system(place)
        info = system.get_file_info(path)
        if info.type.name == "NotFound":
            raise FileNotFoundError(2, "there is nothing", place)
        return _remote_entry(info)

    def list(self, place: str) -> _Entries:
        """By name."""
        if not is_remote(place):
            with os.scandir(place) as scanned:
                return sorted((_scanned(each) for each in scanned), key=lambda entry: entry.name)
        if place.startswith("s3://"):
            entries = [_remote_entry(each) for each in self._infos(place, recursive=False)]
        else:
            entries = self._of_tree(place)
        return sorted(entries, key=lambda entry: entry.name)

    def _infos(self, place: str, *, recursive: bool) -> Iterable[Any]:
        from pyarrow import fs

        system, path = self._system(place)
        infos: Iterable[Any] = system.get_file_info(fs.FileSelector(path, recursive=recursive))
        return infos

    def _of_tree(self, place: str) -> _Entries:
        """pyarrow, asked for one folder of Google's, leaves out folders that have no object of their own, as few have
        (apache/arrow#35993). So it is asked for all that is below, and each folder is told when its turn comes."""
        if place not in self._trees:
            scheme = place.partition("://")[0]
            known = {place}
            for info in self._infos(place, recursive=True):
                path = f"{scheme}://{info.path}".rstrip("/")
                if info.is_file:
                    self._trees.setdefault(os.path.dirname(path), []).append(_remote_entry(info))
                folder = os.path.dirname(path) if info.is_file else path
                while folder not in known:
                    known.add(folder)
                    above, name = os.path.split(folder)
                    self._trees.setdefault(above, []).append(FolderEntry(name, is_folder=True))
                    folder = above
        return self._trees.pop(place, [])

    def _system(self, place: str) -> tuple[Any, str]:
        scheme, _, path = place.partition("://")
        bucket = f"{scheme}://{path.partition('/')[0]}"
        if bucket not in self._systems:
            from bucketline_service.maps.shared_root.root import open_file_system

            user, query = self._reaches.get(bucket) or self._reaches.get(scheme, BucketAccess())
            uri = bucket.replace("://", f"://{user}@") if user else bucket
            self._systems[bucket] = open_file_system(f"{uri}?{query}" if query else uri)
        return self._systems[bucket], path


class _Remote(io.RawIOBase):
    """A file of pyarrow's that behaves as one of a disk: there may be sought past its end, and its errors have a
    number, so that they are not taken for the image's."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._num_bytes = int(file.size())
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._num_bytes)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._num_bytes:
            return 0
        try:
            data = self._file.read_at(min(len(buffer), self._num_bytes - self._at), self._at)
        except OSError as exc:
            raise OSError(errno.EIO, " ".join(str(exc).split())[:200]) from exc
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def bucket_of(place: str) -> str:
    scheme, _, path = place.partition("://")
    return f"{scheme}://{path.partition('/')[0]}"


def reaches_of(paths: Iterable[str]) -> dict[str, BucketAccess]:
    """For ``Storage``: what the URIs among ``paths`` say."""
    reaches: dict[str, BucketAccess] = {}
    for path in paths:
        place, reach = parse(path)
        if any(reach):
            reaches[bucket_of(place)] = reach
            reaches.setdefault(place.partition("://")[0], reach)
    return reaches


def identity(place: str) -> tuple[int, int] | None:
    """Of a local folder: the same by whatever name it is reached."""
    if is_remote(place):
        return None
    found = os.stat(place)
    return found.st_dev, found.st_ino


def _scanned(found: os.DirEntry[str]) -> FolderEntry:
    try:
        return _entry(found.name, found.stat())
    except OSError as exc:
        return FolderEntry(found.name, False, reason=error_text(exc))


def _entry(name: str, found: os.stat_result) -> FolderEntry:
    if stat.S_ISDIR(found.st_mode):
        return FolderEntry(name, True)
    reason = None if stat.S_ISREG(found.st_mode) else "it is no regular file"
    return FolderEntry(name, False, found.st_size, found.st_mtime_ns, reason)


def _remote_entry(info: Any) -> FolderEntry:
    return FolderEntry(info.base_name, info.type.name == "Directory", info.size or 0, info.mtime_ns or 0)


def error_text(error: OSError) -> str:
    """Why something can not be read."""
    return f"it can not be read: {error.strerror or ' '.join(str(error).split())[:200]}"
