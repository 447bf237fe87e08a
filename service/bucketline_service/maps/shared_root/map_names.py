"""Map names at a shared root: ``names/<name>/<digest>-<nonce>.json``, records that never change. A listing has the
name, the digest and the object of every map; the record itself is read once.

If several processes give a name at once, one must be first. In a folder that is decided by one rename. pyarrow has no
conditional put for object stores, so there each process writes a claim beside the future record, ``….claim``, and
*then* lists: a process that sees neither another claim nor a record writes the record, and removes its claim
afterwards. Of any two processes, the one whose claim came later sees the claim of the other or its record, so two never
write. If two see each other, the claim that sorts first remains and the other is withdrawn for a moment. This requires
a store that lists what was written before, as S3, Google's and Azure's do. Clocks matter only for the claims of dead
processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bucketline_service.errors import StoreUnavailable
from bucketline_service.maps.shared_root.root import SharedRoot

CLAIM_LIFE_S = 600.0
"""A claim that is this much older than the own one belongs to a dead process."""

MAX_CLAIM_S = 60.0
"""A claim older than this is not acted upon, as another process may have deleted it."""

WAIT_S = 10.0
"""How long to wait for other claims."""

_PAUSE_S, _MAX_PAUSE_S = 0.05, 1.0
_NUM_READERS = 8


class SharedMapNames:
    """An object id is ``<digest>-<nonce>``. Every upload is a new object, which belongs to one name."""

    def __init__(self, root: SharedRoot, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._records: dict[tuple[str, str], dict[str, Any]] = {}

    def all(self) -> dict[str, str]:
        """The object id of each name. One request for each thousand names."""
        found: dict[str, str] = {}
        for entry in self._root.files("names"):
            name, _, file = entry.path.removeprefix("names/").partition("/")
            if file.endswith(".json") and "/" not in file:
                found.setdefault(name, file.removesuffix(".json"))
        return found

    def object_of(self, name: str) -> str | None:
        records, _ = self._look(name)
        return records[0] if records else None

    def records(self, names: dict[str, str]) -> dict[str, dict[str, Any]]:
        """The records of names returned by ``all``, except those deleted since."""
        wanted = list(names.items())
        unknown = [each for each in wanted if each not in self._records]
        if unknown:
            with ThreadPoolExecutor(min(_NUM_READERS, len(unknown))) as readers:
                for each, record in zip(unknown, readers.map(self._read, unknown), strict=True):
                    if record is not None:
                        self._records[each] = record
        self._records = {each: record for each, record in self._records.items() if each in set(wanted)}
        return {name: self._records[name, of] for name, of in wanted if (name, of) in self._records}

    def give(self, name: str, object_id: str, record: dict[str, Any]) -> str:
        """Give the name to an object. Returns the object id of the name: this one, or the one that was first."""
        path = f"names/{name}/{object_id}"
        data = json.dumps(record).encode()
        if not self._root.is_folder:
            return self._give(name, object_id, path, data)
        while not self._root.create_in_new_folder(f"{path}.json", data):
            if (current := self.object_of(name)) is not None:
                return current
        return object_id

    def _give(self, name: str, object_id: str, path: str, data: bytes) -> str:
        give_up_s = self._clock() + WAIT_S
        claimed_s: float | None = None
        pause_s = _PAUSE_S
        try:
            while self._clock() <= give_up_s:
                if claimed_s is None:
                    claimed_s = self._clock()
                    self._root.write(f"{path}.claim", b"")
                records, claims = self._look(name)
                if records:
                    return records[0]
                rivals = self._rivals(name, object_id, claims)
                is_valid = object_id in claims and self._clock() - claimed_s < MAX_CLAIM_S
                if is_valid and not rivals:
                    self._root.write(f"{path}.json", data)
                    return object_id
                if not is_valid or rivals[0] < object_id:  # expired, or the other claim goes first
                    self._root.delete(f"{path}.claim")
                    claimed_s = None
                if rivals:
                    time.sleep(pause_s)
                    pause_s = _PAUSE_S if claimed_s is not None else min(2 * pause_s, _MAX_PAUSE_S)
        finally:
            self._root.delete(f"{path}.claim")
        raise StoreUnavailable(
            f"another process is giving the name {name!r} to a map, or has died doing so. Put the map again; after "
            f"{CLAIM_LIFE_S / 60:.0f} minutes the claim of a dead process expires"
        )

    def _rivals(self, name: str, own: str, claims: dict[str, float]) -> list[str]:
        """The other claims, sorted; expired ones are deleted. Their times are all by the clock of the root."""
        oldest_s = claims.get(own, 0.0) - CLAIM_LIFE_S
        for each, mtime_s in claims.items():
            if mtime_s < oldest_s:
                self._root.delete(f"names/{name}/{each}.claim")
        return sorted(each for each, mtime_s in claims.items() if each != own and mtime_s >= oldest_s)

    def take_away(self, name: str) -> None:
        """Delete the records of the name that exist now."""
        for each in self._look(name)[0]:
            self._root.delete(f"names/{name}/{each}.json")

    def _look(self, name: str) -> tuple[list[str], dict[str, float]]:
        """The object ids of the records, sorted, and those of the claims with their times."""
        records, claims = [], {}
        for entry in self._root.files(f"names/{name}"):
            object_id, _, kind = entry.path.rpartition("/")[2].rpartition(".")
            if kind == "json":
                records.append(object_id)
            elif kind == "claim":
                claims[object_id] = entry.mtime_s
        return records, claims

    def _read(self, name_and_object: tuple[str, str]) -> dict[str, Any] | None:
        name, object_id = name_and_object
        data = self._root.read(f"names/{name}/{object_id}.json")
        if data is None:
            return None
        try:
            record = json.loads(data)
            if record["name"] == name and record["digest"] == object_id.partition("-")[0]:
                return dict(record)
        except (ValueError, KeyError, TypeError):
            pass
        raise StoreUnavailable(
            f"names/{name}/{object_id}.json at {self._root.shown} is damaged: delete the map and put it again"
        )
