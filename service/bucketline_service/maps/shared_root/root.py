"""Files at a shared root: a bucket of an object store or a folder, given by URI, through pyarrow's file systems.

A file exists completely or not at all: an object store shows it once it is complete, and in a folder it is renamed into
place. Errors become ``StoreUnavailable``, without anything that could be a secret."""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import pyarrow as pa
from pyarrow import fs

from bucketline_service.atomic_files import synced
from bucketline_service.errors import Invalid, StoreUnavailable

HINT = "Give s3://bucket/prefix, gs://bucket/prefix or file:///folder"

CONNECT_TIMEOUT_S = 2.0
REQUEST_TIMEOUT_S = 5.0
"""How long S3 may take to respond; then the request is repeated once."""
GCS_RETRY_S = 10
"""Unless the URI has ``retry_limit_seconds``. The default of Google's library is a quarter of an hour."""

_NUM_IO_THREADS = 64
"""pyarrow's I/O threads in this process, by default 8. Opening a local file needs one as well, so requests that an
object store does not answer must not block all of them."""

_STEP = 8 << 20
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


class RootFile(NamedTuple):
    """A file at the root. ``mtime_s``: by the clock of the root, or of the host that wrote it to a folder."""

    path: str
    num_bytes: int
    mtime_s: float


class SharedRoot:
    """Files by relative path. No request is made before the first call, so a coordinator can start without the root."""

    def __init__(self, uri: str) -> None:
        """``Invalid`` for a URI that cannot be used."""
        self.shown = shown(uri)
        """The URI without anything that may be a secret."""
        self._uri = uri
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._opened: Any = None
        self._secrets = _secrets(uri)
        scheme = uri.partition("://")[0] if "://" in uri else ""
        # with a region, or pyarrow would request it here
        query = "" if scheme != "s3" or "region=" in uri else f"{'&' if '?' in uri else '?'}region=us-east-1"
        try:
            opened, self._base = fs.FileSystem.from_uri(uri + query)
        except (pa.ArrowException, OSError, ValueError) as exc:
            raise Invalid("map_root", self._clean(exc), HINT) from None
        self.is_folder = isinstance(opened, fs.LocalFileSystem)
        self._base = self._base.rstrip("/")
        self._place = self._base if self.is_folder else self._base.partition("/")[0]
        if not self._base:
            raise Invalid("map_root", f"must name a bucket or folder, got {self.shown}", HINT)

    def files(self, under: str) -> list[RootFile]:
        """All files below ``under``, sorted by path."""
        start = f"{self._base}/{under}".rstrip("/")
        with self._asking():
            selector = fs.FileSelector(start, allow_not_found=True, recursive=True)
            found = self._fs.get_file_info(selector)
            if not found:
                self._exists()
        cut = len(self._base) + 1
        entries = [
            RootFile(each.path[cut:], each.size, (each.mtime_ns or 0) / 1e9) for each in found if each.is_file
        ]
        return sorted(entries)

    def probe(self) -> None:
        """Raise ``StoreUnavailable`` unless the bucket or the folder exists."""
        with self._asking():
            self._exists()

    def read(self, path: str) -> bytes | None:
        """The content of a small file, None where it does not exist."""
        with self._asking():
            try:
                with self._fs.open_input_stream(f"{self._base}/{path}") as file:
                    return cast("bytes", file.read())
            except FileNotFoundError:
                return None

    def write(self, path: str, data: bytes) -> None:
        with self._writing(path) as file:
            file.write(data)

    def upload(self, source: Path, path: str) -> None:
        with self._writing(path) as target, source.open("rb") as file:
            self._copy(file, target)

    def download(self, path: str, target: Path) -> None:
        """``FileNotFoundError`` where the file does not exist. Errors of the local disk are raised unchanged."""
        with target.open("wb") as file:
            with self._asking():
                try:
                    source = self._fs.open_input_stream(f"{self._base}/{path}")
                except FileNotFoundError:
                    source = None
            if source is None:
                raise FileNotFoundError(path)
            with source:
                while True:
                    self._go_on()
                    with self._asking():
                        data = source.read(_STEP)
                    if not data:
                        break
                    file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def delete(self, path: str) -> None:
        """Does nothing where the file does not exist."""
        with self._asking(), suppress(FileNotFoundError):
            self._fs.delete_file(f"{self._base}/{path}")
            if self.is_folder:
                with suppress(OSError):  # not empty
                    Path(self._base, path).parent.rmdir()

    def create_in_new_folder(self, path: str, data: bytes) -> bool:
        """Only for a folder: create the file together with its parent folder, atomically; False where that already has
        a file. All processes on all machines agree on which was first."""
        target = Path(self._base, path)
        with self._asking():
            fresh = self._incoming()
            fresh.mkdir()
            try:
                with synced(fresh / target.name) as file:
                    file.write(data)
                target.parent.parent.mkdir(exist_ok=True)
                os.rename(fresh, target.parent)  # may replace an empty folder, but no other
            except OSError:
                if target.parent.is_dir() and any(target.parent.iterdir()):
                    return False
                raise
            finally:
                with suppress(OSError):
                    (fresh / target.name).unlink()
                    fresh.rmdir()
        return True

    def sweep(self, before_s: float) -> None:
        """Delete incomplete files in a folder from before ``before_s``, whose process has died."""
        if self.is_folder:
            for each in self.files("incoming"):
                if each.mtime_s < before_s:
                    self.delete(each.path)

    def close(self) -> None:
        """Abort all copies; each raises ``StoreUnavailable``."""
        self._closing.set()

    @property
    def _fs(self) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = open_file_system(self._uri)
            return self._opened

    def _exists(self) -> None:
        if self._fs.get_file_info(self._place).type == fs.FileType.NotFound:
            raise StoreUnavailable(f"the map root {self.shown} does not exist: {self._place} is missing")

    def _incoming(self) -> Path:
        """A new path for an incomplete file. The root itself is never created, since it may be a share that is not
        mounted."""
        self._exists()
        folder = Path(self._base, "incoming")
        folder.mkdir(exist_ok=True)
        return folder / secrets.token_hex(8)

    @contextmanager
    def _writing(self, path: str) -> Iterator[Any]:
        with self._asking():
            if not self.is_folder:
                with self._fs.open_output_stream(f"{self._base}/{path}") as stream:
                    try:
                        yield stream
                    except BaseException:
                        # pyarrow cannot abort an upload: on close it becomes an object
                        stream.close()
                        self._fs.delete_file(f"{self._base}/{path}")
                        raise
                return
            fresh, target = self._incoming(), Path(self._base, path)
            try:
                with synced(fresh) as file:
                    yield file
                target.parent.mkdir(parents=True, exist_ok=True)
                fresh.replace(target)
            finally:
                fresh.unlink(missing_ok=True)

    def _copy(self, source: Any, target: Any) -> None:
        while data := source.read(_STEP):
            self._go_on()
            target.write(data)

    def _go_on(self) -> None:
        if self._closing.is_set():
            raise StoreUnavailable("the coordinator is shutting down; try again")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as exc:
            # pyarrow's message may contain the URI
            raise StoreUnavailable(f"the map root {self.shown} cannot be used: {self._clean(exc)}") from None

    def _clean(self, error: BaseException) -> str:
        """The first line of an error message, without anything that could be a secret."""
        text = str(error).partition("\n")[0]
        for each in self._secrets:
            text = text.replace(each, "…")
        return text[:400]


def shown(uri: str) -> str:
    """A URI for logs and messages: without user, password and query."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri.partition("?")[0]
    return f"{scheme}://{re.split(r'[?#]', rest)[0].rpartition('@')[2]}"


def _secrets(uri: str) -> list[str]:
    """The values that no message may contain, longest first."""
    rest = uri.partition("://")[2]
    user = rest.rpartition("@")[0]
    found = [uri, rest, user, *user.split(":"), *(os.environ.get(name, "") for name in _SECRETS)]
    found += [value for _, value in parse_qsl(rest.partition("?")[2])]
    found += [unquote(each) for each in found]
    return sorted({each for each in found if len(each) > 3}, key=len, reverse=True)


def open_file_system(uri: str) -> Any:
    """pyarrow's file system with timeouts of seconds instead of minutes."""
    scheme = urlsplit(uri).scheme
    given = dict(parse_qsl(urlsplit(uri).query))
    more: dict[str, Any] = {}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if scheme == "s3" and "region" not in given and region:
        more = {"region": region}  # otherwise pyarrow requests the bucket's region
    if scheme in ("gs", "gcs") and "retry_limit_seconds" not in given:
        more = {"retry_limit_seconds": GCS_RETRY_S}
    if more:
        uri += ("&" if "?" in uri else "?") + urlencode(more)
    opened, _ = fs.FileSystem.from_uri(uri)
    if not isinstance(opened, fs.LocalFileSystem):
        pa.set_io_thread_count(max(pa.io_thread_count(), _NUM_IO_THREADS))
    if scheme != "s3":
        return opened
    # a URI cannot have these options, so the file system is made again from those that pickle would store
    _, (options,) = opened.__reduce__()
    options |= {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "request_timeout": REQUEST_TIMEOUT_S,
        "background_writes": False,  # an upload uses one of pyarrow's threads at a time
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=2),
    }
    if "allow_delayed_open" in options:
        options["allow_delayed_open"] = True  # a small file is one request, not three
    return fs.S3FileSystem(**options)
