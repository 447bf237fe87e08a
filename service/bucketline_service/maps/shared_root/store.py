"""A map store whose maps are at a root that replicas share (see root.py); here are copies that were checked.

At the root::

    names/<name>/<digest>-<nonce>.json     {"name", "digest", "num_images", "id_kind", "created_at"}
    objects/<digest>/<nonce>.arrow         the map (see resolution_map), of that name alone
    incoming/                              of a folder: files on their way in; swept when a day old

The object is there before its name, so a crash leaves an object without one: the next put sweeps those that are a day
old. Here::

    objects/<digest>.arrow, .json          copies, held against their digest; gone when no name has them
    staging/<random>/                      uploads and downloads on their way
    fetch.lock                             held while one process fetches"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bucketline_service import events
from bucketline_service.errors import Conflict, NotFound, StoreUnavailable
from bucketline_service.maps.column_names import FIND_ALL, RequestedColumns
from bucketline_service.maps.ingest import MAX_IMAGES
from bucketline_service.maps.lock import locked
from bucketline_service.maps.reader_process import DEFAULT_TIMEOUT_S, ReadResult
from bucketline_service.maps.resolution_map import ResolutionMap
from bucketline_service.maps.shared_root.map_names import SharedMapNames
from bucketline_service.maps.shared_root.root import SharedRoot
from bucketline_service.maps.shared_root.verify_copy import check_copy
from bucketline_service.maps.sidecar import sidecar_path
from bucketline_service.maps.store import STAGING_LIFE_S, MapInfo, MapStore, taken
from bucketline_service.names import check_name


class SharedMapStore(MapStore):
    """``copies``: a folder of this host's, which several processes may use at once. ``root``: what all share."""

    has_root = True

    def __init__(
        self,
        copies: Path,
        root: SharedRoot,
        *,
        max_images: int = MAX_IMAGES,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(copies, max_images=max_images, timeout_s=timeout_s, clock=clock)
        self._fetching = copies / "fetch.lock"
        with self._disk():
            self._fetching.touch()
        self._at = root
        self._at_names = SharedMapNames(root)

    def put(
        self,
        name: str,
        source: Path,
        format: str,
        columns: RequestedColumns = FIND_ALL,
        told: Callable[[ReadResult], None] = lambda _: None,
    ) -> tuple[ResolutionMap, bool]:
        with self._reading(name, source, format, columns) as reading:
            told(reading.read)
            digest = reading.read.digest
            standing = self._at_names.object_of(name)
            if standing is not None and _digest(standing) != digest:
                raise self._taken(name, standing)
            with self._disk():
                staged = reading.write()
            created = self._share(name, standing, digest, staged)
            with self._disk():
                return self._keep(digest, staged).read_from(reading.read.names), created

    def get(self, name: str) -> ResolutionMap:
        while True:
            object_id = self._at_names.object_of(check_name("map", name))
            if object_id is None:
                raise self._unknown(name)
            try:
                return self.get_digest(_digest(object_id))
            except (NotFound, StoreUnavailable):
                if self._at_names.object_of(name) == object_id:  # else it was deleted in between
                    raise

    def find(self, name: str) -> str:
        object_id = self._at_names.object_of(check_name("map", name))
        if object_id is None:
            raise self._unknown(name)
        return _digest(object_id)

    def get_digest(self, digest: str) -> ResolutionMap:
        return self.here(digest) or self._fetch(digest)

    def here(self, digest: str) -> ResolutionMap | None:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise NotFound(f"there is no map with the digest {digest[:80]!r}")
        if not self._object(digest).exists():
            return None
        with suppress(StoreUnavailable):  # damaged here: fetched anew
            return ResolutionMap.open(self._object(digest), digest)
        return None

    def list(self) -> list[MapInfo]:
        with self._disk():
            copies = {path.stem for path in self._objects.glob("*.arrow")}
        names = self._at_names.all()  # after the copies: what is put meanwhile is not taken for forgotten
        self._forget(copies - {_digest(object_id) for object_id in names.values()})
        records = self._at_names.records(names)
        return [MapInfo(**records[name]) for name in sorted(records)]

    def delete(self, name: str) -> None:
        object_id = self._at_names.object_of(check_name("map", name))
        if object_id is None:
            raise self._unknown(name)
        self._at_names.take_away(name)
        self._at.delete(_path(object_id))
        with suppress(StoreUnavailable):  # it is deleted; the copy goes with the next list
            self.list()

    def check(self) -> None:
        """The copies can be used; the root is asked by ``probe``."""
        with self._disk():
            [*self._objects.iterdir()]

    def probe(self) -> None:
        self._at.probe()

    def close(self) -> None:
        super().close()
        self._at.close()

    def _share(self, name: str, standing: str | None, digest: str, staged: Path) -> bool:
        """Bring the staged map to the root, and give it its name; False where that was there."""
        if standing is not None:
            if not self._is_sound(standing, staged.parent):  # whoever puts a map again mends it
                self._at.upload(staged, _path(standing))
            return False
        object_id = f"{digest}-{secrets.token_hex(8)}"
        self._at.upload(staged, _path(object_id))
        record = self._record(name, ResolutionMap.open(staged, digest))
        given = self._at_names.give(name, object_id, record)
        if given == object_id:
            with suppress(StoreUnavailable):
                self._sweep_root()
            return True
        self._at.delete(_path(object_id))
        if _digest(given) != digest:
            raise self._taken(name, given)
        return False

    def _keep(self, digest: str, staged: Path) -> ResolutionMap:
        """Move a checked map in, unless it is here and sound."""
        opened = self._sound(digest)
        if opened is not None:
            return opened
        with locked(self._lock):
            return self._move_in(staged, digest)

    def _fetch(self, digest: str) -> ResolutionMap:
        """From the root: every bit of it is looked at before it counts. One process of a host at a time."""
        problem: _Damaged | None = None
        with self._staging_directory() as directory, self._disk(), locked(self._fetching):
            if (found := self.here(digest)) is not None:  # by a neighbour
                return found
            for entry in self._at.files(f"objects/{digest}"):
                try:
                    copy = self._copy(entry.path, digest, directory)
                except _Damaged as error:
                    problem = error
                    continue
                with locked(self._lock):
                    opened = self._move_in(copy, digest)
                events.emit("map_fetched", level=logging.INFO, digest=digest, num_bytes=entry.num_bytes)
                return opened
        if problem is not None:
            raise StoreUnavailable(str(problem))
        raise NotFound(f"there is no map with the digest {digest!r} at {self._at.shown}")

    def _is_sound(self, object_id: str, directory: Path) -> bool:
        try:
            with self._disk():
                self._copy(_path(object_id), _digest(object_id), directory)
        except _Damaged:
            return False
        return True

    def _copy(self, path: str, digest: str, directory: Path) -> Path:
        """An object, fetched into ``directory`` and checked. ``_Damaged`` where it is not what it is called."""
        copy, where = directory / "copy.arrow", f"{self._at.shown}/{path}"
        try:
            self._at.download(path, copy)
        except FileNotFoundError:
            raise _Damaged(f"the map {where} is missing. Put the map again") from None
        try:
            check_copy(copy, digest)
        except StoreUnavailable as error:
            raise _Damaged(error.detail.replace(str(copy), where)) from None
        return copy

    def _sweep_root(self) -> None:
        """Away with uploads that never got their name: their process has died."""
        before_s = self._clock() - STAGING_LIFE_S
        self._at.sweep(before_s)
        old = [each.path for each in self._at.files("objects") if each.mtime_s < before_s]
        named = {_path(object_id) for object_id in self._at_names.all().values()}
        for path in old:
            if path not in named:
                self._at.delete(path)

    def _forget(self, digests: set[str]) -> None:
        if digests:
            with self._disk(), locked(self._lock):
                for digest in digests:
                    self._object(digest).unlink(missing_ok=True)
                    sidecar_path(self._object(digest)).unlink(missing_ok=True)

    def _taken(self, name: str, object_id: str) -> Conflict:
        record = self._at_names.records({**self._at_names.all(), name: object_id}).get(name, {})
        return taken(name, _digest(object_id), record.get("num_images", 0))


class _Damaged(Exception):  # noqa: N818 - says what it is
    """An object at the root is not what its name says."""


def _digest(object_id: str) -> str:
    return object_id.partition("-")[0]


def _path(object_id: str) -> str:
    digest, _, nonce = object_id.partition("-")
    return f"objects/{digest}/{nonce}.arrow"
