"""Lists and opens images: local files by absolute path, objects by ``s3://`` or ``gs://`` URI, always read-only.

A location is a string without secrets. The user and the query of a URI (an endpoint, a region) are kept separately, by
bucket, and passed to every process that opens a file there."""

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
    """An entry of a folder. ``reason``: why it cannot be opened."""

    name: str
    is_folder: bool
    num_bytes: int = 0
    mtime_ns: int = 0
    reason: str | None = None


_Entries = list[FolderEntry]


def is_remote(location: str) -> bool:
    return location.partition("://")[0] in SCHEMES and "://" in location


class BucketAccess(NamedTuple):
    """How to access a bucket: the user and the query of a URI, which are not part of a location."""

    user: str = ""
    query: str = ""


def parse(path: str) -> tuple[str, BucketAccess]:
    """The location, and access, of a path or URI that the user has given."""
    scheme, separator, rest = path.partition("://")
    if not separator:
        return os.path.abspath(path), BucketAccess()
    if scheme == "file":
        return os.path.abspath(unquote(urlsplit(path).path)), BucketAccess()
    if scheme not in SCHEMES:
        raise Invalid(
            path.partition("?")[0].rpartition("@")[2],
            f"{scheme}:// is not supported",
            "Give a path, s3://bucket/prefix or gs://bucket/prefix",
        )
    rest, _, query = rest.partition("?")
    if not rest.strip("/"):
        raise Invalid(
            path.partition("?")[0].rpartition("@")[2], "must name a bucket", f"Give {scheme}://bucket/prefix"
        )
    bucket, slash, key = rest.partition("/")
    user, _, bucket = bucket.rpartition("@")
    return f"{scheme}://{bucket}{slash}{key}".rstrip("/"), BucketAccess(user, query)


def printable(name: str) -> str:
    """A name that may not be UTF-8, as text for messages."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class Storage:
    """Opens and lists locations. ``buckets``: how to access each ``scheme://bucket``, and under the scheme alone, how
    to access buckets that only occur in a list."""

    def __init__(self, buckets: Mapping[str, BucketAccess]) -> None:
        self._buckets = buckets
        self._systems: dict[str, Any] = {}
        self._trees: dict[str, _Entries] = {}

    @contextmanager
    def open(self, location: str, *, sequential: bool = False) -> Iterator[IO[bytes]]:
        """Open for reading. ``sequential``: the file will be read from start to end, as a shard."""
        if is_remote(location):
            system, path = self._system(location)
            block = _SHARD_BLOCK_BYTES if sequential else _REMOTE_BLOCK_BYTES
            with system.open_input_file(path) as file:
                yield io.BufferedReader(_Remote(file), block)
        else:
            with open(location, "rb", buffering=_LOCAL_BLOCK_BYTES) as file:
                yield file

    def stat(self, location: str) -> FolderEntry:
        """``FileNotFoundError`` where nothing exists."""
        if not is_remote(location):
            return _entry(os.path.basename(location), Path(location).stat())
        system, path = self._system(location)
        info = system.get_file_info(path)
        if info.type.name == "NotFound":
            raise FileNotFoundError(2, "it does not exist", location)
        return _remote_entry(info)

    def list(self, location: str) -> _Entries:
        """The entries of a folder, by name."""
        if not is_remote(location):
            with os.scandir(location) as scanned:
                return sorted((_scanned(each) for each in scanned), key=lambda entry: entry.name)
        if location.startswith("s3://"):
            entries = [_remote_entry(each) for each in self._infos(location, recursive=False)]
        else:
            entries = self._of_tree(location)
        return sorted(entries, key=lambda entry: entry.name)

    def _infos(self, location: str, *, recursive: bool) -> Iterable[Any]:
        from pyarrow import fs

        system, path = self._system(location)
        infos: Iterable[Any] = system.get_file_info(fs.FileSelector(path, recursive=recursive))
        return infos

    def _of_tree(self, location: str) -> _Entries:
        """The entries of a folder in Google's storage. pyarrow omits folders without an object of their own, which few
        have (apache/arrow#35993), so everything below is listed at once, and each folder is returned from that."""
        if location not in self._trees:
            scheme = location.partition("://")[0]
            known = {location}
            for info in self._infos(location, recursive=True):
                path = f"{scheme}://{info.path}".rstrip("/")
                if info.is_file:
                    self._trees.setdefault(os.path.dirname(path), []).append(_remote_entry(info))
                folder = os.path.dirname(path) if info.is_file else path
                while folder not in known:
                    known.add(folder)
                    above, name = os.path.split(folder)
                    self._trees.setdefault(above, []).append(FolderEntry(name, is_folder=True))
                    folder = above
        return self._trees.pop(location, [])

    def _system(self, location: str) -> tuple[Any, str]:
        scheme, _, path = location.partition("://")
        bucket = f"{scheme}://{path.partition('/')[0]}"
        if bucket not in self._systems:
            from bucketline_service.maps.shared_root.root import open_file_system

            user, query = self._buckets.get(bucket) or self._buckets.get(scheme, BucketAccess())
            uri = bucket.replace("://", f"://{user}@") if user else bucket
            self._systems[bucket] = open_file_system(f"{uri}?{query}" if query else uri)
        return self._systems[bucket], path


class _Remote(io.RawIOBase):
    """A remote file that behaves like a local one: seeking past its end is allowed, and its errors have an errno, which
    distinguishes them from errors of an image."""

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


def bucket_of(location: str) -> str:
    scheme, _, path = location.partition("://")
    return f"{scheme}://{path.partition('/')[0]}"


def bucket_access(paths: Iterable[str]) -> dict[str, BucketAccess]:
    """The ``buckets`` of ``Storage`` for the URIs in ``paths``."""
    buckets: dict[str, BucketAccess] = {}
    for path in paths:
        location, access = parse(path)
        if any(access):
            buckets[bucket_of(location)] = access
            buckets.setdefault(location.partition("://")[0], access)
    return buckets


def identity(location: str) -> tuple[int, int] | None:
    """The device and inode of a local folder, which are the same under each of its names."""
    if is_remote(location):
        return None
    found = os.stat(location)
    return found.st_dev, found.st_ino


def _scanned(found: os.DirEntry[str]) -> FolderEntry:
    try:
        return _entry(found.name, found.stat())
    except OSError as exc:
        return FolderEntry(found.name, False, reason=error_text(exc))


def _entry(name: str, found: os.stat_result) -> FolderEntry:
    if stat.S_ISDIR(found.st_mode):
        return FolderEntry(name, True)
    reason = None if stat.S_ISREG(found.st_mode) else "it is not a regular file"
    return FolderEntry(name, False, found.st_size, found.st_mtime_ns, reason)


def _remote_entry(info: Any) -> FolderEntry:
    return FolderEntry(info.base_name, info.type.name == "Directory", info.size or 0, info.mtime_ns or 0)


def error_text(error: OSError) -> str:
    """The reason why a file cannot be read."""
    return f"it cannot be read: {error.strerror or ' '.join(str(error).split())[:200]}"
