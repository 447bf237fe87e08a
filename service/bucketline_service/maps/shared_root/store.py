"""A map store whose maps are at a root shared by replicas (see root.py), with verified copies on this host.

At the root::

    names/<name>/<digest>-<nonce>.json     {"name", "digest", "num_images", "id_kind", "created_at"}
    objects/<digest>/<nonce>.arrow         the map (see resolution_map), which belongs to that name alone
    incoming/                              of a folder: incomplete files, deleted when a day old

The object is written before its name, so a crash leaves an object without a name; the next put deletes those that are a
day old. On this host::

    objects/<digest>.arrow, .json          copies, verified by their digest; deleted when no name has them
    staging/<random>/                      uploads and downloads in progress
    fetch.lock                             held while a process fetches"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bucketline_service import event_kinds
from bucketline_service.errors import Conflict, NotFound, StoreUnavailable
from bucketline_service.maps.ingest import MAX_IMAGES
from bucketline_service.maps.lock import locked
from bucketline_service.maps.reader_process import DEFAULT_TIMEOUT_S, StagedMap
from bucketline_service.maps.resolution_map import ResolutionMap
from bucketline_service.maps.shared_root.map_names import SharedMapNames
from bucketline_service.maps.shared_root.root import SharedRoot
from bucketline_service.maps.shared_root.verify_copy import verify_copy
from bucketline_service.maps.sidecar import sidecar_path
from bucketline_service.maps.store import STAGING_LIFE_S, MapInfo, MapStore, digest_of, taken


class SharedMapStore(MapStore):
    """``copies``: a folder of this host, which several processes may use at once. ``root``: shared by all replicas."""

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
        self._shared = root
        self._map_names = SharedMapNames(root)

    def _store(self, name: str, staged: StagedMap) -> tuple[ResolutionMap, bool]:
        digest = staged.result.digest
        current = self._current(name)
        if current is not None and digest_of(current) != digest:
            raise self._taken(name, current)
        with self._disk():
            path = staged.write()
        created = self._share(name, current, digest, path)
        with self._disk():
            return self._sound(digest) or self._install(digest, path), created

    def _current(self, name: str) -> str | None:
        return self._map_names.object_of(name)

    def _open(self, digest: str) -> ResolutionMap:
        return self.get_digest(digest)

    def get_digest(self, digest: str) -> ResolutionMap:
        return self.here(digest) or self._fetch(digest)

    def here(self, digest: str) -> ResolutionMap | None:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise NotFound(f"a map with the digest {digest[:80]!r} does not exist")
        if not self._object(digest).exists():
            return None
        with suppress(StoreUnavailable):  # a damaged copy is fetched again
            return ResolutionMap.open(self._object(digest), digest)
        return None

    def list(self) -> list[MapInfo]:
        with self._disk():
            copies = {path.stem for path in self._objects.glob("*.arrow")}
        names = self._map_names.all()  # after the copies, so that a map put meanwhile is not deleted
        self._forget(copies - {digest_of(object_id) for object_id in names.values()})
        records = self._map_names.records(names)
        return [MapInfo(**records[name]) for name in sorted(records)]

    def delete(self, name: str) -> None:
        object_id = self._given(name)
        self._map_names.take_away(name)
        self._shared.delete(_path(object_id))
        with suppress(StoreUnavailable):  # the copy is deleted by the next list
            self.list()

    def check(self) -> None:
        """Whether the copies can be used; ``probe`` checks the root."""
        with self._disk():
            [*self._objects.iterdir()]

    def probe(self) -> None:
        self._shared.probe()

    def close(self) -> None:
        super().close()
        self._shared.close()

    def _share(self, name: str, current: str | None, digest: str, staged: Path) -> bool:
        """Upload the staged map and give it its name; False where the name exists."""
        if current is not None:
            if not self._is_sound(current, staged.parent):  # putting a map again repairs it
                self._shared.upload(staged, _path(current))
            return False
        object_id = f"{digest}-{secrets.token_hex(8)}"
        self._shared.upload(staged, _path(object_id))
        record = self._record(name, ResolutionMap.open(staged, digest))
        given = self._map_names.give(name, object_id, record)
        if given == object_id:
            with suppress(StoreUnavailable):
                self._sweep_root()
            return True
        self._shared.delete(_path(object_id))
        if digest_of(given) != digest:
            raise self._taken(name, given)
        return False

    def _install(self, digest: str, staged: Path) -> ResolutionMap:
        with locked(self._lock):
            return self._move_in(staged, digest)

    def _fetch(self, digest: str) -> ResolutionMap:
        """Copy a map from the root and verify it. One process of a host at a time."""
        problem: _Damaged | None = None
        with self._staging_directory() as directory, self._disk(), locked(self._fetching):
            if (found := self.here(digest)) is not None:  # fetched by another process
                return found
            for entry in self._shared.files(f"objects/{digest}"):
                try:
                    copy = self._copy(entry.path, digest, directory)
                except _Damaged as error:
                    problem = error
                    continue
                opened = self._install(digest, copy)
                event_kinds.log("map_fetched", digest=digest, num_bytes=entry.num_bytes)
                return opened
        if problem is not None:
            raise StoreUnavailable(str(problem))
        raise NotFound(f"a map with the digest {digest!r} does not exist at {self._shared.shown}")

    def _is_sound(self, object_id: str, directory: Path) -> bool:
        try:
            with self._disk():
                self._copy(_path(object_id), digest_of(object_id), directory)
        except _Damaged:
            return False
        return True

    def _copy(self, path: str, digest: str, directory: Path) -> Path:
        """Fetch an object into ``directory`` and verify it; ``_Damaged`` where it does not have its digest."""
        copy, where = directory / "copy.arrow", f"{self._shared.shown}/{path}"
        try:
            self._shared.download(path, copy)
        except FileNotFoundError:
            raise _Damaged(f"the map {where} is missing. Put the map again") from None
        try:
            verify_copy(copy, digest)
        except StoreUnavailable as error:
            raise _Damaged(error.detail.replace(str(copy), where)) from None
        return copy

    def _sweep_root(self) -> None:
        """Delete objects without a name from processes that have died."""
        before_s = self._clock() - STAGING_LIFE_S
        self._shared.sweep(before_s)
        old = [each.path for each in self._shared.files("objects") if each.mtime_s < before_s]
        named = {_path(object_id) for object_id in self._map_names.all().values()}
        for path in old:
            if path not in named:
                self._shared.delete(path)

    def _forget(self, digests: set[str]) -> None:
        if digests:
            with self._disk(), locked(self._lock):
                for digest in digests:
                    self._object(digest).unlink(missing_ok=True)
                    sidecar_path(self._object(digest)).unlink(missing_ok=True)

    def _taken(self, name: str, object_id: str) -> Conflict:
        record = self._map_names.records({**self._map_names.all(), name: object_id}).get(name, {})
        return taken(name, digest_of(object_id), record.get("num_images", 0))


class _Damaged(Exception):  # noqa: N818 - handled in this module
    """An object at the root is missing or does not have its digest."""


def _path(object_id: str) -> str:
    digest, _, nonce = object_id.partition("-")
    return f"objects/{digest}/{nonce}.arrow"
