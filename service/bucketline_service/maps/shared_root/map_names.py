"""Names at a map root: ``names/<name>/<digest>-<nonce>.json``, a record that never changes. Whoever lists knows
name, digest and object of each map; the record itself is read once.

One of several who give a name at once is first. In a folder that is one rename. pyarrow has no conditional put for
object stores, so there each writes a claim beside where the record will be, ``….claim``, and *then* looks: who sees no
other claim and no record writes the record. Of any two, the one whose claim came later sees the other's, or the record
that the other wrote before it took its claim away; so two never write. Of two who see each other, the one whose claim
sorts first goes on, the other withdraws and waits for the outcome. This needs a store that lists what was written
before (S3, Google's and Azure's do), and no clock, but for claims of the dead."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bucketline_service.errors import StoreUnavailable
from bucketline_service.maps.shared_root.root import SharedRoot

CLAIM_LIFE_S = 600.0
"""A claim that is older by so much than one's own is of a process that has died."""

MAX_CLAIM_S = 60.0
"""A claim that took longer is not acted upon."""

WAIT_S = 10.0
"""How long to wait for another to decide."""

_PAUSE_S = 0.05
_NUM_READERS = 8


class SharedMapNames:
    """An object's id is ``<digest>-<nonce>``: no two uploads are the same object, so that each belongs to one name."""

    def __init__(self, root: SharedRoot, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._records: dict[tuple[str, str], dict[str, Any]] = {}

    def all(self) -> dict[str, str]:
        """The object's id of each name. One request (and one more for each thousand names)."""
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
        """Of what ``all`` has told; without those that were deleted since."""
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
        """The id that the name stands for now: this one, or that of whoever was first."""
        path = f"names/{name}/{object_id}"
        data = json.dumps(record).encode()
        if not self._root.is_folder:
            return self._give(name, object_id, path, data)
        while not self._root.create_in_new_folder(f"{path}.json", data):
            if (standing := self.object_of(name)) is not None:
                return standing
        return object_id

    def _give(self, name: str, object_id: str, path: str, data: bytes) -> str:
        give_up_s = self._clock() + WAIT_S
        claimed_s: float | None = None
        try:
            while True:
                if claimed_s is None:
                    claimed_s = self._clock()
                    self._root.write(f"{path}.claim", b"")
                records, claims = self._look(name)
                if records:
                    return records[0]
                rivals = self._living(name, object_id, claims)
                if not rivals and object_id in claims and self._clock() - claimed_s < MAX_CLAIM_S:
                    self._root.write(f"{path}.json", data)
                    return object_id
                if self._clock() > give_up_s:
                    raise StoreUnavailable(
                        f"the name {name!r} is being given to another map, or a process has died doing so. "
                        f"Put it again: in {CLAIM_LIFE_S / 60:.0f} minutes it is known which"
                    )
                if rivals and rivals[0] < object_id:
                    self._root.delete(f"{path}.claim")
                    self._await(name, rivals, give_up_s)
                    claimed_s = None
                elif rivals:
                    time.sleep(_PAUSE_S)
                else:
                    claimed_s = None  # too slow, or taken for dead
        finally:
            self._root.delete(f"{path}.claim")

    def _await(self, name: str, rivals: list[str], give_up_s: float) -> None:
        """Until one of them has decided or none is left."""
        while self._clock() <= give_up_s:
            records, claims = self._look(name)
            if records or not set(rivals) & claims.keys():
                return
            time.sleep(_PAUSE_S)

    def _living(self, name: str, own: str, claims: dict[str, float]) -> list[str]:
        """The other claims, sorted. Times are compared as the root has written them down."""
        oldest_s = claims.get(own, 0.0) - CLAIM_LIFE_S
        for each, mtime_s in claims.items():
            if mtime_s < oldest_s:
                self._root.delete(f"names/{name}/{each}.claim")
        return sorted(each for each, mtime_s in claims.items() if each != own and mtime_s >= oldest_s)

    def take_away(self, name: str) -> None:
        """All that stands under the name: what is there since is not touched."""
        for each in self._look(name)[0]:
            self._root.delete(f"names/{name}/{each}.json")

    def _look(self, name: str) -> tuple[list[str], dict[str, float]]:
        """Ids of the records, sorted, and of the claims with their times."""
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
