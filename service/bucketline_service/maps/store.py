"""Where maps are kept: content by digest, names that point at it.

::

    objects/<digest>.arrow   the map (see resolution_map), written once, never changed
    objects/<digest>.json    its sidecar; moved into place before the .arrow, which makes it count
    names/<name>.json        {"name", "digest", "num_images", "id_kind", "created_at"}
    staging/<random>/        uploads on their way in; swept when a day old
    lock                     held while something moves in or out

A crash leaves nothing but a staging directory, and perhaps an object without a name, which the next put of it
adopts."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bucketline_service.errors import Conflict, Invalid, NotFound, StoreUnavailable
from bucketline_service.maps.column_names import FIND_ALL, RequestedColumns
from bucketline_service.maps.formats import format_named
from bucketline_service.maps.ingest import MAX_IMAGES
from bucketline_service.maps.lock import locked
from bucketline_service.maps.optional_columns import Summaries
from bucketline_service.maps.reader_process import (
    DEFAULT_TIMEOUT_S,
    ReaderPool,
    ReadResult,
    ReadTask,
    StagedMap,
)
from bucketline_service.maps.resolution_map import ResolutionMap
from bucketline_service.maps.sidecar import sidecar_path
from bucketline_service.maps.spool import IdKind
from bucketline_service.names import check_name, few

STAGING_LIFE_S = 24 * 3600.0
"""An upload that has not moved in for a day will not: its process has died."""


@dataclass(frozen=True)
class MapInfo:
    """A name in the store. ``created_at``: when the name was given, ISO 8601, UTC. ``optional``: as in
    ``ResolutionMap``."""

    name: str
    digest: str
    num_images: int
    id_kind: IdKind
    created_at: str
    optional: Summaries = field(default_factory=dict)


class MapStore:
    """Maps under ``root``, which several processes may use at once. ``timeout_s``: how long reading a map may take, and
    longer for a large one (``reader_process.BYTES_PER_S``). ``clock``: Unix seconds."""

    has_root = False

    def __init__(
        self,
        root: Path,
        *,
        max_images: int = MAX_IMAGES,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._root = root
        self._objects, self._names, self._staging = (root / part for part in ("objects", "names", "staging"))
        self._max_images = min(max_images, MAX_IMAGES)
        self._clock = clock
        self._readers = ReaderPool(timeout_s)
        with self._disk():
            for directory in (self._objects, self._names, self._staging):
                directory.mkdir(parents=True, exist_ok=True)
            if not self._lock.exists():
                self._lock.touch()
        self._sweep()

    def put(
        self,
        name: str,
        source: Path,
        format: str,
        columns: RequestedColumns = FIND_ALL,
        told: Callable[[ReadResult], None] = lambda _: None,
    ) -> tuple[ResolutionMap, bool]:
        """Keep the map in the file ``source`` under ``name``; whether this call gave the name.

        ``format``: a name or media type of ``FORMATS``. The same content again changes nothing; other content
        under a taken name is a ``Conflict``; a refused file leaves nothing behind. ``told``: called with what reading
        the file has found."""
        with self._reading(name, source, format, columns) as reading:
            told(reading.read)
            known = self._same(name, reading.read.digest)
            if known is not None:
                return known.read_from(reading.read.names), False
            with self._disk():
                opened, created = self._publish(name, reading.read.digest, reading.write())
            return opened.read_from(reading.read.names), created

    def get(self, name: str) -> ResolutionMap:
        """The map of that name. Opening costs about a millisecond; keep what you use often."""
        while True:
            info = self._info(check_name("map", name))
            if info is None:
                raise self._unknown(name)
            try:
                return ResolutionMap.open(self._object(info.digest), info.digest)
            except StoreUnavailable:
                if self._info(name) == info:  # else it was deleted in between
                    raise

    def find(self, name: str) -> str:
        """The digest of the map of that name, which is not opened."""
        info = self._info(check_name("map", name))
        if info is None:
            raise self._unknown(name)
        return info.digest

    def get_digest(self, digest: str) -> ResolutionMap:
        """The map with that content, whatever its names."""
        if not re.fullmatch("[0-9a-f]{64}", digest) or not self._object(digest).exists():
            raise NotFound(f"there is no map with the digest {digest[:80]!r}")
        return ResolutionMap.open(self._object(digest), digest)

    def here(self, digest: str) -> ResolutionMap | None:
        """The same, None where it has to be fetched first, which takes its time."""
        return self.get_digest(digest)

    def list(self) -> list[MapInfo]:
        """All names, sorted."""
        with self._disk():
            names = sorted(path.stem for path in self._names.glob("*.json"))
        found = (self._info(name) for name in names)
        return [info for info in found if info is not None]

    def delete(self, name: str) -> None:
        """Take the name away, and the content with its last name. Maps that are open stay readable."""
        check_name("map", name)
        with self._disk(), locked(self._lock):
            if not self._name_path(name).exists():
                raise self._unknown(name)
            unused = self._digest_of_only(name)
            self._name_path(name).unlink()
            _sync_directory(self._names)
            if unused is not None:
                self._object(unused).unlink(missing_ok=True)
                sidecar_path(self._object(unused)).unlink(missing_ok=True)

    def check(self) -> None:
        """Raise ``StoreUnavailable`` unless the maps that are here can be used."""
        self.list()

    def probe(self) -> None:
        """Raise ``StoreUnavailable`` unless what the maps are shared through answers, where that is not their
        folder."""

    def close(self) -> None:
        """End what is going on in other threads, where that could take long."""
        self._readers.close()

    @contextmanager
    def _reading(
        self, name: str, source: Path, format: str, columns: RequestedColumns
    ) -> Iterator[StagedMap]:
        """The map that is to have that name, read and checked; staged where it is written."""
        check_name("map", name)
        how = format_named(format)
        if not source.is_file():
            raise Invalid("file", f"there is no file {source}")
        with self._staging_directory() as directory, ExitStack() as stack:
            with self._disk():
                task = ReadTask(source, how.name, columns, directory, self._max_images)
                reading = stack.enter_context(self._readers.read(task))
            yield reading

    def _digest_of_only(self, name: str) -> str | None:
        """The digest of ``name`` where no other name has it. None as well where a damaged file keeps us from
        knowing."""
        try:
            infos = self.list()
        except StoreUnavailable:
            return None
        digest = next((info.digest for info in infos if info.name == name), None)
        is_shared = any(info.digest == digest for info in infos if info.name != name)
        return None if is_shared else digest

    def _same(self, name: str, digest: str) -> ResolutionMap | None:
        """The map where ``name`` has that content already, sound and ready."""
        info = self._info(name)
        if info is None:
            return None
        if info.digest != digest:
            raise taken(name, info.digest, info.num_images)
        return self._sound(digest)

    def _sound(self, digest: str) -> ResolutionMap | None:
        """The map of that content where it is there and every bit of it: whoever puts a map again mends it."""
        with suppress(StoreUnavailable):
            opened = ResolutionMap.open(self._object(digest), digest)
            opened.verify()
            return opened
        return None

    def _publish(self, name: str, digest: str, staged: Path) -> tuple[ResolutionMap, bool]:
        opened = self._sound(digest)  # reads all of it: before the lock
        with locked(self._lock):
            known = self._same(name, digest)
            if known is not None:
                return known, False
            if opened is None:  # not there, or damaged
                opened = self._move_in(staged, digest)
            return opened, self._give_name(name, opened, staged.parent)

    def _move_in(self, staged: Path, digest: str) -> ResolutionMap:
        """The staged map and its sidecar into their place. With the lock held."""
        path = self._object(digest)
        os.replace(sidecar_path(staged), sidecar_path(path))
        os.replace(staged, path)
        _sync_directory(self._objects)
        return ResolutionMap.open(path, digest)

    def _give_name(self, name: str, opened: ResolutionMap, directory: Path) -> bool:
        """False where the name was there (and only its content had to be mended)."""
        if self._info(name) is not None:
            return False
        staged = directory / "name.json"
        with staged.open("wb") as file:
            file.write(json.dumps(self._record(name, opened)).encode())
            file.flush()
            os.fsync(file.fileno())
        os.link(
            staged, self._name_path(name)
        )  # fails where the name is taken, even if the lock is not honoured
        _sync_directory(self._names)
        return True

    def _record(self, name: str, opened: ResolutionMap) -> dict[str, Any]:
        """What is written down under a name, as of now: the fields of ``MapInfo``."""
        created_at = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")
        info = MapInfo(name, opened.digest, opened.num_images, opened.id_kind, created_at, opened.optional)
        about = asdict(info)
        if not info.optional:
            del about["optional"]
        return about

    def _info(self, name: str) -> MapInfo | None:
        path = self._name_path(name)
        try:
            return MapInfo(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StoreUnavailable(f"cannot read {path}: {exc.strerror}") from exc
        except (ValueError, TypeError) as exc:
            raise StoreUnavailable(f"{path} is damaged: delete the map and put it again") from exc

    def _unknown(self, name: str) -> NotFound:
        known = [info.name for info in self.list()]
        there = few(known) or "none at all"
        return NotFound(f"there is no map {name!r}; there is {there}", known=known[:5])

    def _object(self, digest: str) -> Path:
        return self._objects / f"{digest}.arrow"

    def _name_path(self, name: str) -> Path:
        return self._names / f"{name}.json"

    @property
    def _lock(self) -> Path:
        return self._root / "lock"

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """What the disk says becomes ``StoreUnavailable``: full, read-only, gone."""
        try:
            yield
        except OSError as exc:
            reason = exc.strerror or str(exc)
            raise StoreUnavailable(
                f"cannot keep maps in {self._root}: {reason}", directory=str(self._root)
            ) from exc

    @contextmanager
    def _staging_directory(self) -> Iterator[Path]:
        with self._disk():
            directory = Path(tempfile.mkdtemp(dir=self._staging))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _sweep(self) -> None:
        """Away with what uploads have left whose process died."""
        with self._disk():
            left = [*self._staging.iterdir()]
        for directory in left:
            with suppress(OSError):
                if self._clock() - directory.stat().st_mtime > STAGING_LIFE_S:
                    shutil.rmtree(directory)


def taken(name: str, digest: str, num_images: int) -> Conflict:
    return Conflict(
        f"the name {name!r} is taken by another map of {num_images:,} images. A map never"
        " changes: use another name, or delete that one",
        digest=digest,
    )


def _sync_directory(path: Path) -> None:
    """A rename is on the disk when its directory is."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
