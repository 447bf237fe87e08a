"""The files of a built plan in its folder: written once, and compared with their digests after one was touched.

``order.bin`` holds the rows by image class, uint32; ``plan.json`` the classes, the summary and checksums. It also
has the stamps (size, times, inode) that the order and the maps had when they were last read as a whole and compared
with their digests: a file whose stamp has changed is read again. ``states/`` holds what a planner keeps to save time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.atomic_files import replace_bytes, sync_tree
from bucketline_service.maps import ResolutionMap
from bucketline_service.maps.resolution_map import FileStamp
from bucketline_service.planning import chunked_passes
from bucketline_service.planning.line.image_classes import ImageClasses
from bucketline_service.planning.prepared_plan import Prepared

ORDER = "order.bin"
PLAN = "plan.json"
STATES = "states"

_PIECE_BYTES = 1 << 22
"""Of an order, hashed together: part of what its digest is."""


class PlanFiles(NamedTuple):
    """A plan as its folder holds it. ``stamp``: of the order's file, taken before it was mapped."""

    prepared: Prepared
    stamp: FileStamp


def write(folder: Path, prepared: Prepared, maps: Sequence[ResolutionMap]) -> PlanFiles:
    """Complete a folder that holds the order; everything is on the disk when this returns."""
    stamp = FileStamp.of(folder / ORDER)
    classes = prepared.groups
    about = {
        "keys": classes.keys.tolist(),
        "counts": classes.counts.tolist(),
        "samples": classes.samples.tolist(),
        "summary": prepared.summary,
        "moved_rows": prepared.moved_rows.tolist(),
        "moved_keys": prepared.moved_keys.tolist(),
        "order": order_digest(prepared.order),
    }
    (folder / PLAN).write_bytes(_document(about, _stamps(stamp, maps)))
    sync_tree(folder)
    return PlanFiles(prepared, stamp)


def read(folder: Path, maps: Sequence[ResolutionMap], *, is_doubted: bool = False) -> PlanFiles | None:
    """The plan in a folder; None if it is missing or damaged. A file that was touched since it was last read as a whole
    is compared with its digest, and all of them if ``is_doubted``. Raises ``StoreUnavailable`` for a damaged map."""
    try:
        about: dict[str, Any] = json.loads((folder / PLAN).read_text())
        if not isinstance(about, dict):
            return None
        checked = about.pop("checked")
        checked_order, checked_maps = checked["order"], list(checked["maps"])
        if about.pop("sum") != _sum(about):
            return None
        classes = ImageClasses(
            np.array(about["keys"], dtype=np.int64),
            np.array(about["counts"], dtype=np.int64),
            np.array(about["samples"], dtype=np.float64),
        )
        num_rows = int(classes.counts.sum())
        stamp = FileStamp.of(folder / ORDER)
        if stamp.num_bytes != 4 * num_rows:
            return None
        order = np.memmap(folder / ORDER, dtype=np.uint32, mode="r", shape=(num_rows,))
        is_touched = checked_order != list(stamp)
        if (is_doubted or is_touched) and order_digest(order) != about["order"]:
            return None
        # plans of before there were any have none
        moved = (np.array(about.get(name, []), dtype=np.int64) for name in ("moved_rows", "moved_keys"))
        found = PlanFiles(Prepared(classes, order, about["summary"], *moved), stamp)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    now = _stamps(stamp, maps)
    for index, image_map in enumerate(maps):
        if is_doubted or checked_maps[index : index + 1] != [now["maps"][index]]:
            image_map.verify()
    if checked != now:
        with suppress(OSError):  # it only saves reading the files again
            replace_bytes(folder / PLAN, _document(about, now))
    return found


def _document(about: dict[str, Any], checked: dict[str, Any]) -> bytes:
    return json.dumps({**about, "sum": _sum(about), "checked": checked}).encode()


def _sum(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _stamps(stamp: FileStamp, maps: Sequence[ResolutionMap]) -> dict[str, Any]:
    """The stamps of the files that were compared with their digests."""
    return {"order": list(stamp), "maps": [list(image_map.stamp) for image_map in maps]}


def order_digest(order: NDArray[np.uint32]) -> str:
    """SHA-256 over the SHA-256 of each piece, so that several threads can share the work."""
    data: memoryview = order.view(np.uint8).data

    def piece(begin: int) -> bytes:
        return hashlib.sha256(data[begin : begin + _PIECE_BYTES]).digest()

    pieces = chunked_passes.in_order(piece, range(0, len(data), _PIECE_BYTES), num_threads())
    return hashlib.sha256(b"".join(pieces)).hexdigest()


def num_threads() -> int:
    """Threads that share a pass over the rows: one for each core, at most 4, since each holds a chunk of rows."""
    affinity = getattr(os, "sched_getaffinity", None)
    return max(1, min(4, len(affinity(0)) if affinity else os.cpu_count() or 1))


class StateFiles(MutableMapping[tuple[int, int], bytes]):
    """What a planner keeps by (world_size, epoch), one file each: ``states/<world_size>-<epoch>``.

    It only saves time, so a disk that refuses one is not an error.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _file(self, key: tuple[int, int]) -> Path:
        return self._folder / f"{key[0]}-{key[1]}"

    def __getitem__(self, key: tuple[int, int]) -> bytes:
        try:
            return self._file(key).read_bytes()
        except OSError as error:
            raise KeyError(key) from error

    def __setitem__(self, key: tuple[int, int], value: bytes) -> None:
        try:
            self._folder.mkdir(exist_ok=True)
            replace_bytes(self._file(key), value)
        except OSError:
            return

    def __delitem__(self, key: tuple[int, int]) -> None:
        self._file(key).unlink(missing_ok=True)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if not self._folder.is_dir():
            return
        for file in self._folder.iterdir():
            world_size, _, epoch = file.name.partition("-")
            if world_size.isdecimal() and epoch.isdecimal():
                yield int(world_size), int(epoch)

    def __len__(self) -> int:
        return sum(1 for _ in self)
