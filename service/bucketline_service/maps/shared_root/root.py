"""The place that replicas share maps through: a bucket of an object store or a folder, by URI, over pyarrow's file
systems.

A file is there as a whole or not at all: an object store shows it when it is complete, in a folder it is renamed into
its place. What the place says becomes ``StoreUnavailable``, without anything that could be a secret."""

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

from bucketline_service.errors import Invalid, StoreUnavailable

HINT = "Give s3://bucket/prefix, gs://bucket/prefix or file:///folder"

CONNECT_TIMEOUT_S = 2.0
REQUEST_TIMEOUT_S = 5.0
"""How long S3 may be silent; after that it is asked once more."""
GCS_RETRY_S = 10
"""Unless the URI says ``retry_limit_seconds``. Its library would go on for a quarter of an hour."""

_NUM_IO_THREADS = 64
"""Of pyarrow, for all of the process. It has 8, and to open a file on the own disk takes one as well: requests that an
object store does not answer must not hold all of them."""

_STEP = 8 << 20
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


class RootFile(NamedTuple):
    """A file at the root. ``mtime_s``: by the clock of the root, or of whoever wrote it into a folder."""

    path: str
    num_bytes: int
    mtime_s: float


class SharedRoot:
    """Files by relative path. Nothing is asked before the first verb, so that a coordinator starts without it."""

    def __init__(self, uri: str) -> None:
        """Raises ``Invalid`` for a URI that nothing could be behind."""
        self.shown = shown(uri)
        """The URI without what may be a secret."""
        self._uri = uri
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._opened: Any = None
        self._secrets = _secrets(uri)
        scheme = uri.partition("://")[0] if "://" in uri else ""
        # with a region, or it would be asked for here
        query = "" if scheme != "s3" or "region=" in uri else f"{'&' if '?' in uri else '?'}region=us-east-1"
        try:
            opened, self._base = fs.FileSystem.from_uri(uri + query)
        except (pa.ArrowException, OSError, ValueError) as exc:
            raise Invalid("map_root", self._clean(exc), HINT) from None
        self.is_folder = isinstance(opened, fs.LocalFileSystem)
        self._base = self._base.rstrip("/")
        self._place = self._base if self.is_folder else self._base.partition("/")[0]
        if not self._base:
            raise Invalid("map_root", f"{self.shown} names no bucket or folder", HINT)

    def files(self, under: str) -> list[RootFile]:
        """All files below ``under``, by path."""
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
        """Raise ``StoreUnavailable`` unless the bucket or the folder is there."""
        with self._asking():
            self._exists()

    def read(self, path: str) -> bytes | None:
        """A small file, None where there is none."""
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
        """``FileNotFoundError`` where there is none. What the own disk says is left as it is."""
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
        """Done as well where there is none."""
        with self._asking(), suppress(FileNotFoundError):
            self._fs.delete_file(f"{self._base}/{path}")
            if self.is_folder:
                with suppress(OSError):  # not empty
                    Path(self._base, path).parent.rmdir()

    def create_in_new_folder(self, path: str, data: bytes) -> bool:
        """Of a folder alone: the file and the folder that it is in, at once; False where that holds a file already,
        whatever its name. All processes on all machines agree on who was first."""
        target = Path(self._base, path)
        with self._asking():
            fresh = self._incoming()
            fresh.mkdir()
            try:
                _write(fresh / target.name, data)
                target.parent.parent.mkdir(exist_ok=True)
                os.rename(
                    fresh, target.parent
                )  # onto an empty one it may be, not onto one that holds something
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
        """Away with what was on its way into a folder before ``before_s``: its process has died."""
        if self.is_folder:
            for each in self.files("incoming"):
                if each.mtime_s < before_s:
                    self.delete(each.path)

    def close(self) -> None:
        """End what is being copied; each copy raises ``StoreUnavailable``."""
        self._closing.set()

    @property
    def _fs(self) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = open_file_system(self._uri)
            return self._opened

    def _exists(self) -> None:
        if self._fs.get_file_info(self._place).type == fs.FileType.NotFound:
            raise StoreUnavailable(f"the map root {self.shown} is not there: there is no {self._place}")

    def _incoming(self) -> Path:
        """A new path of a folder. Its root is not made here: where a share is not mounted, it must be missed."""
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
                        # pyarrow can not abort it: what is there already becomes an object
                        stream.close()
                        self._fs.delete_file(f"{self._base}/{path}")
                        raise
                return
            fresh, target = self._incoming(), Path(self._base, path)
            try:
                with fresh.open("wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
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
            raise StoreUnavailable("the coordinator is ending; ask again")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as exc:
            raise StoreUnavailable(
                f"the map root {self.shown} can not be used: {self._clean(exc)}"
            ) from None  # pyarrow's own words may hold the URI

    def _clean(self, error: BaseException) -> str:
        """What an error says, in a line and without what could be a secret."""
        text = str(error).partition("\n")[0]
        for each in self._secrets:
            text = text.replace(each, "…")
        return text[:400]


def shown(uri: str) -> str:
    """A root's URI for logs and messages: without user, password and query."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri.partition("?")[0]
    return f"{scheme}://{re.split(r'[?#]', rest)[0].rpartition('@')[2]}"


def _secrets(uri: str) -> list[str]:
    """What no message may hold: the longest first."""
    rest = uri.partition("://")[2]
    user = rest.rpartition("@")[0]
    found = [uri, rest, user, *user.split(":"), *(os.environ.get(name, "") for name in _SECRETS)]
    found += [value for _, value in parse_qsl(rest.partition("?")[2])]
    found += [unquote(each) for each in found]
    return sorted({each for each in found if len(each) > 3}, key=len, reverse=True)


def open_file_system(uri: str) -> Any:
    """pyarrow's file system, which waits seconds, and not minutes, for what does not answer."""
    scheme = urlsplit(uri).scheme
    given = dict(parse_qsl(urlsplit(uri).query))
    more: dict[str, Any] = {}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if scheme == "s3" and "region" not in given and region:
        more = {"region": region}  # else pyarrow would ask for the bucket's
    if scheme in ("gs", "gcs") and "retry_limit_seconds" not in given:
        more = {"retry_limit_seconds": GCS_RETRY_S}
    if more:
        uri += ("&" if "?" in uri else "?") + urlencode(more)
    opened, _ = fs.FileSystem.from_uri(uri)
    if not isinstance(opened, fs.LocalFileSystem):
        pa.set_io_thread_count(max(pa.io_thread_count(), _NUM_IO_THREADS))
    if scheme != "s3":
        return opened
    # a URI can not say these: the same file system again, from the options that pickle would take
    _, (options,) = opened.__reduce__()
    options |= {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "request_timeout": REQUEST_TIMEOUT_S,
        "background_writes": False,  # an upload has one of pyarrow's threads at a time
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=2),
    }
    if "allow_delayed_open" in options:
        options["allow_delayed_open"] = True  # a small file is one request, not three
    return fs.S3FileSystem(**options)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
