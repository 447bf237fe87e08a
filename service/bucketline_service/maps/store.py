"""The map store: maps by digest, and names that point to them, in a folder.

::

    objects/<digest>.arrow   the map (see resolution_map), written once, never changed
    objects/<digest>.json    its sidecar, moved into place before the .arrow
    names/<name>.json        {"name", "digest", "num_images", "id_kind", "created_at"}
    staging/<random>/        uploads in progress, deleted when a day old
    lock                     held while files are moved in or deleted

A crash leaves at most a staging directory, and an object without a name, which the next put of the same map uses."""

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

from bucketline_service.atomic_files import sync_folder, synced
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
"""An upload older than this belongs to a dead process."""


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
    """Maps in the folder ``root``, which several processes may use at once. ``timeout_s``: how long reading a map may
    take, longer for a large one (``reader_process.BYTES_PER_S``). ``clock``: Unix seconds."""

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
        on_read: Callable[[ReadResult], None] = lambda _: None,
    ) -> tuple[ResolutionMap, bool]:
        """Store the map in the file ``source`` under ``name``. Returns the map, and whether the name is new.

        ``format``: a name or media type of ``FORMATS``. Putting the same map again changes nothing; another map under
        an existing name is a ``Conflict``; a file that is refused leaves nothing behind. ``on_read`` is called with the
        result of reading the file."""
        with self._staged(name, source, format, columns) as staged:
            on_read(staged.result)
            opened, created = self._store(name, staged)
            return opened.read_from(staged.result.names), created

    def get(self, name: str) -> ResolutionMap:
        """The map of that name. Opening takes about a millisecond."""
        while True:
            given = self._given(name)
            try:
                return self._open(digest_of(given))
            except (NotFound, StoreUnavailable):
                if self._current(name) == given:  # otherwise it was deleted in between
                    raise

    def find(self, name: str) -> str:
        """The digest of the map of that name, without opening it."""
        return digest_of(self._given(name))

    def get_digest(self, digest: str) -> ResolutionMap:
        """The map with that digest."""
        if not re.fullmatch("[0-9a-f]{64}", digest) or not self._object(digest).exists():
            raise NotFound(f"a map with the digest {digest[:80]!r} does not exist")
        return ResolutionMap.open(self._object(digest), digest)

    def here(self, digest: str) -> ResolutionMap | None:
        """The map with that digest, None where it must be fetched first, which may take long."""
        return self.get_digest(digest)

    def list(self) -> list[MapInfo]:
        """All names, sorted."""
        with self._disk():
            names = sorted(path.stem for path in self._names.glob("*.json"))
        found = (self._info(name) for name in names)
        return [info for info in found if info is not None]

    def delete(self, name: str) -> None:
        """Delete a name, and the map with its last name. Open maps remain readable."""
        check_name("map", name)
        with self._disk(), locked(self._lock):
            if not self._name_path(name).exists():
                raise self._unknown(name)
            unused = self._digest_of_only(name)
            self._name_path(name).unlink()
            sync_folder(self._names)
            if unused is not None:
                self._object(unused).unlink(missing_ok=True)
                sidecar_path(self._object(unused)).unlink(missing_ok=True)

    def check(self) -> None:
        """Raise ``StoreUnavailable`` unless the maps of this host can be used."""
        self.list()

    def probe(self) -> None:
        """Raise ``StoreUnavailable`` unless the shared root responds, where there is one."""

    def close(self) -> None:
        """Abort long operations in other threads."""
        self._readers.close()

    def _current(self, name: str) -> str | None:
        """The digest that a name has now, a hyphen, and what distinguishes it from the same map put later."""
        info = self._info(name)
        return None if info is None else f"{info.digest}-{info.created_at}"

    def _given(self, name: str) -> str:
        """``_current``; ``NotFound`` where there is no such name."""
        current = self._current(check_name("map", name))
        if current is None:
            raise self._unknown(name)
        return current

    def _open(self, digest: str) -> ResolutionMap:
        return ResolutionMap.open(self._object(digest), digest)

    def _store(self, name: str, staged: StagedMap) -> tuple[ResolutionMap, bool]:
        """Give the name to a map that was read. Returns the stored map, and whether the name is new."""
        known = self._same(name, staged.result.digest)
        if known is not None:
            return known, False
        with self._disk():
            return self._publish(name, staged.result.digest, staged.write())

    @contextmanager
    def _staged(self, name: str, source: Path, format: str, columns: RequestedColumns) -> Iterator[StagedMap]:
        """The map in a file, read and checked."""
        check_name("map", name)
        how = format_named(format)
        if not source.is_file():
            raise Invalid("file", f"{source} does not exist")
        with self._staging_directory() as directory, ExitStack() as stack:
            with self._disk():
                task = ReadTask(source, how.name, columns, directory, self._max_images)
                staged = stack.enter_context(self._readers.read(task))
            yield staged

    def _digest_of_only(self, name: str) -> str | None:
        """The digest of ``name`` where no other name has it; None also where a damaged file makes this unknown."""
        try:
            infos = self.list()
        except StoreUnavailable:
            return None
        digest = next((info.digest for info in infos if info.name == name), None)
        is_shared = any(info.digest == digest for info in infos if info.name != name)
        return None if is_shared else digest

    def _same(self, name: str, digest: str) -> ResolutionMap | None:
        """The map if ``name`` has that digest already, and the stored map is intact."""
        info = self._info(name)
        if info is None:
            return None
        if info.digest != digest:
            raise taken(name, info.digest, info.num_images)
        return self._sound(digest)

    def _sound(self, digest: str) -> ResolutionMap | None:
        """The stored map if it exists and is intact to the last bit; otherwise putting it again repairs it."""
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
            if opened is None:  # missing or damaged
                opened = self._move_in(staged, digest)
            return opened, self._give_name(name, opened, staged.parent)

    def _move_in(self, staged: Path, digest: str) -> ResolutionMap:
        """Move a staged map and its sidecar into place, with the lock held."""
        path = self._object(digest)
        os.replace(sidecar_path(staged), sidecar_path(path))
        os.replace(staged, path)
        sync_folder(self._objects)
        return ResolutionMap.open(path, digest)

    def _give_name(self, name: str, opened: ResolutionMap, directory: Path) -> bool:
        """False where the name exists, and only its map was repaired."""
        if self._info(name) is not None:
            return False
        staged = directory / "name.json"
        with synced(staged) as file:
            file.write(json.dumps(self._record(name, opened)).encode())
        os.link(staged, self._name_path(name))  # fails where the name exists, even without a working lock
        sync_folder(self._names)
        return True

    def _record(self, name: str, opened: ResolutionMap) -> dict[str, Any]:
        """The record of a name given now: the fields of ``MapInfo``."""
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
        return NotFound(f"map {name!r} does not exist. Maps are: {few(known) or 'none'}", known=known[:5])

    def _object(self, digest: str) -> Path:
        return self._objects / f"{digest}.arrow"

    def _name_path(self, name: str) -> Path:
        return self._names / f"{name}.json"

    @property
    def _lock(self) -> Path:
        return self._root / "lock"

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Errors of the disk become ``StoreUnavailable``: full, read-only, missing."""
        try:
            yield
        except OSError as exc:
            reason = exc.strerror or str(exc)
            raise StoreUnavailable(
                f"cannot store maps in {self._root}: {reason}", directory=str(self._root)
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
        """Delete the uploads of dead processes."""
        with self._disk():
            directories = [*self._staging.iterdir()]
        for directory in directories:
            with suppress(OSError):
                if self._clock() - directory.stat().st_mtime > STAGING_LIFE_S:
                    shutil.rmtree(directory)


def digest_of(given: str) -> str:
    """The digest in an identifier ``<digest>-<anything>``."""
    return given.partition("-")[0]


def taken(name: str, digest: str, num_images: int) -> Conflict:
    return Conflict(
        f"map {name!r} already exists, with other content ({num_images:,} images). Maps cannot be changed: use another "
        "name, or delete the existing map",
        digest=digest,
    )
