"""Plans on disk: built once, in a thread, kept under their fingerprint, memory-mapped by whoever opens them.

``plans/<fingerprint>/`` holds ``order.bin`` (rows by group, uint32), ``plan.json`` (groups, summary and checksums) and,
for ``novelai``, ``states/`` (generator states, one file for each world size and epoch). A plan is built beside its
place, in ``work-<fingerprint>/`` (see workbench.py), by one process at a time, and renamed into it when all is on disk,
so that what is there is whole. It is checked all the same: ``plan.json`` tells the stamps (size, times, inode) that the
order and the maps had when they were last held against their digests; where a file has another now, it is read again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service import events
from bucketline_service.atomic_files import replace_bytes, sync_tree
from bucketline_service.errors import Invalid, Planning, StoreUnavailable
from bucketline_service.maps import ResolutionMap, locked
from bucketline_service.maps.resolution_map import FileStamp, is_untouched
from bucketline_service.observability import traces
from bucketline_service.planning import chunked_map
from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.line.image_classes import ImageClasses
from bucketline_service.planning.lockstep import Locksteps
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.planner import Planner
from bucketline_service.planning.prepared import Prepared
from bucketline_service.plans.build_checkpoint import BuildCheckpoint
from bucketline_service.plans.run_images import Sources

RETRY_AFTER_S = 1

_ORDER = "order.bin"
_ABOUT = "plan.json"
_WORK = "work-"

_PIECE = 1 << 22
"""Bytes of an order that are hashed together: part of what its digest is."""

_OPENERS = 2

OPEN_WAIT_S = 1.0
"""How long one waits at least for a plan that is on disk: it is soon there, and nothing that is still to be planned."""

TELL_EVERY_S = 5.0
"""How far a plan is that takes longer than this is logged as often."""


class _Cancelled(Exception):  # noqa: N818 - no error: nobody needs the plan any more
    """Ends a build whose plan was forgotten."""


class _Shelved(NamedTuple):
    """``stamp``: of the order's file, from before it was mapped."""

    prepared: Prepared
    stamp: FileStamp


@dataclass(frozen=True)
class _Order:
    """What it takes to open a plan or to build it. ``is_doubted``: a file of it was touched while it was open, so
    that all of them are read again. ``is_forgotten``: set from outside, ends the building."""

    fingerprint: str
    spec: PlanSpec
    sources: Sources
    valid_rows: Callable[[], NDArray[np.int64] | None]
    is_doubted: bool
    is_forgotten: threading.Event


@dataclass(frozen=True)
class Plan:
    """A plan that is ready: its planner, those of other locksteps, and what the stats are made of."""

    fingerprint: str
    spec: PlanSpec
    prepared: Prepared
    sources: Sources
    planner: Planner
    locksteps: Locksteps
    order_file: Path
    order_stamp: FileStamp

    @property
    def is_whole(self) -> bool:
        """False where the order or a map was touched: it may hold something else by now, and to read past a file's end
        ends the process. One that is deleted, with the run or by a neighbour, stays as it is for those who have it
        mapped. Costs one stat a file."""
        return is_untouched(self.order_file, self.order_stamp) and all(
            image_map.is_whole for image_map in self.sources.maps
        )


class StateFiles(MutableMapping[tuple[int, int], bytes]):
    """Checkpoints of the ``novelai`` planner, one file each: ``states/<world_size>-<epoch>``.

    They only save time, so a disk that does not take one is no error.
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


def _is_touched(task: asyncio.Task[Plan | Invalid]) -> bool:
    if not task.done() or _may_do_better(task):
        return False
    plan = task.result()
    return isinstance(plan, Plan) and not plan.is_whole


class PlanStore:
    """Opens plans and builds those that are missing, one at a time, off the event loop. Those that are on disk are
    opened by threads of their own, and do not wait for what is being built."""

    def __init__(self, root: Path, on_built: Callable[[float], None] = lambda seconds: None) -> None:
        self._root = root
        self._on_built = on_built
        self._tasks: dict[str, asyncio.Task[Plan | Invalid]] = {}
        self._shares: dict[str, float] = {}
        self._took_s: dict[str, float] = {}
        self._forgotten: dict[str, threading.Event] = {}
        self._openers = ThreadPoolExecutor(_OPENERS, thread_name_prefix="bucketline-open")
        self._builder = ThreadPoolExecutor(1, thread_name_prefix="bucketline-plan")
        with _disk(root):
            root.mkdir(parents=True, exist_ok=True)
            for left in root.glob(f"{_WORK}*"):
                # a day old: nobody has come back for it
                if left.stat().st_mtime < time.time() - 24 * 3600:
                    shutil.rmtree(left, ignore_errors=True)

    async def get(
        self,
        fingerprint: str,
        spec: PlanSpec,
        sources: Sources,
        valid_rows: Callable[[], NDArray[np.int64] | None],
        wait_s: float,
    ) -> Plan:
        """The plan, built if need be. Raises ``Planning`` where it is not ready after ``wait_s``, and what building
        it raised: ``StoreUnavailable`` for a damaged map among it."""
        task = self._tasks.get(fingerprint)
        is_touched = task is not None and _is_touched(task)
        if task is None or _may_do_better(task) or is_touched:
            self._shares[fingerprint] = 0.0
            is_forgotten = self._forgotten[fingerprint] = threading.Event()
            order = _Order(fingerprint, spec, sources, valid_rows, is_touched, is_forgotten)
            task = self._tasks[fingerprint] = asyncio.ensure_future(self._get(order))
            # a failure that nobody waits for is still no "exception was never retrieved"
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        if not task.done() and (self._root / fingerprint / _ABOUT).exists():
            wait_s = max(wait_s, OPEN_WAIT_S)
        done, _ = await asyncio.wait([task], timeout=wait_s)
        if not done:
            raise Planning("the plan is being built", retry_after=RETRY_AFTER_S)
        try:
            plan = task.result()
        except _Cancelled as error:
            # its run was deleted while this one, about to be put, waited for the same plan
            raise Planning("the plan is built anew", retry_after=RETRY_AFTER_S) from error
        if isinstance(plan, Invalid):
            raise plan.with_traceback(None)
        return plan

    def progress(self, fingerprint: str) -> float:
        """The share of a plan's building that is done, 0 to 1; 0 where it waits for others or for the disk."""
        return self._shares.get(fingerprint, 0.0)

    async def settled(self, fingerprint: str) -> Plan | Invalid | None:
        """What becomes of a plan that is on its way here; None where there is none, or where it came to nothing."""
        task = self._tasks.get(fingerprint)
        if task is None:
            return None
        await asyncio.wait([task])
        return None if _may_do_better(task) else task.result()

    def took_s(self, fingerprint: str) -> float | None:
        """How long building the plan took; None where this process has not built it."""
        return self._took_s.get(fingerprint)

    def forget(self, fingerprint: str) -> None:
        """Drop a plan that no run uses any more, and stop its building; whoever still reads its files goes on."""
        is_forgotten = self._forgotten.pop(fingerprint, None)
        if is_forgotten is not None:
            is_forgotten.set()
        self._tasks.pop(fingerprint, None)
        self._shares.pop(fingerprint, None)
        self._took_s.pop(fingerprint, None)
        for folder in (fingerprint, f"{_WORK}{fingerprint}"):
            shutil.rmtree(self._root / folder, ignore_errors=True)

    def close(self) -> None:
        for executor in (self._openers, self._builder):
            executor.shutdown(wait=True, cancel_futures=True)

    async def _get(self, order: _Order) -> Plan | Invalid:
        loop = asyncio.get_running_loop()
        plan = await loop.run_in_executor(self._openers, self._try, self._open, order)
        if plan is None:
            run = copy_context().run  # the thread's part of the trace of who asked first
            plan = await loop.run_in_executor(self._builder, run, self._try, self._open_or_build, order)
        assert plan is not None
        return plan

    def _try(self, work: Callable[[_Order], Plan | None], order: _Order) -> Plan | Invalid | None:
        """A spec that can not be met is remembered, and without its traceback, which holds on to the arrays."""
        try:
            with _disk(self._root):
                return work(order)
        except Invalid as error:
            error.__context__ = error.__cause__ = None
            return error.with_traceback(None)

    def _open(self, order: _Order) -> Plan | None:
        """None where no whole plan is on disk."""
        shelved = _shelved(self._root / order.fingerprint, order.sources.maps, order.is_doubted)
        return None if shelved is None else self._plan(order, shelved)

    def _open_or_build(self, order: _Order) -> Plan:
        # what waited its turn may be of no use by now
        if order.is_forgotten.is_set():
            raise _Cancelled
        begin = time.perf_counter()
        with locked(self._root / "lock"):
            # a neighbour may have built it while this one waited
            shelved = _shelved(self._root / order.fingerprint, order.sources.maps, order.is_doubted)
            if shelved is None:
                with traces.span("plan build", fingerprint=order.fingerprint):
                    shelved = self._build(order)
                took_s = self._took_s[order.fingerprint] = time.perf_counter() - begin
                self._on_built(took_s)
        return self._plan(order, shelved)

    def _plan(self, order: _Order, shelved: _Shelved) -> Plan:
        folder, sources, prepared = self._root / order.fingerprint, order.sources, shelved.prepared
        states = StateFiles(folder / "states")
        planner = new_planner(order.spec, prepared, sources.images, sources.int_ids, states)
        locksteps = Locksteps(order.spec, prepared, sources.images, planner)
        return Plan(
            order.fingerprint,
            order.spec,
            prepared,
            sources,
            planner,
            locksteps,
            folder / _ORDER,
            shelved.stamp,
        )

    def _teller(self, fingerprint: str, is_forgotten: threading.Event) -> Callable[[float], None]:
        """Keeps the share that is done for those who ask, and logs it where building takes long. Raises ``_Cancelled``
        where nobody needs the plan any more."""
        told_s = time.monotonic()

        def tell(share: float) -> None:
            nonlocal told_s
            if is_forgotten.is_set():
                raise _Cancelled
            self._shares[fingerprint] = share
            now_s = time.monotonic()
            if now_s - told_s >= TELL_EVERY_S:
                told_s = now_s
                events.log("planning", fingerprint=fingerprint, progress=round(share, 3))

        return tell

    def _build(self, order: _Order) -> _Shelved:
        """With the lock held. Raises ``_Cancelled`` where the plan is forgotten, and then leaves nothing."""
        fingerprint, maps = order.fingerprint, order.sources.maps
        folder, beside = self._root / fingerprint, self._root / f"{_WORK}{fingerprint}"
        beside.mkdir(exist_ok=True)
        try:
            # once for each plan, since all that follows is believed without another look
            for image_map in maps:
                image_map.verify()
            tell = self._teller(fingerprint, order.is_forgotten)
            checkpoint = BuildCheckpoint(beside, tell)
            prepared = prepare(
                order.spec,
                order.sources.images,
                valid_rows=order.valid_rows(),
                checkpoint=checkpoint,
                num_threads=num_threads(),
            )
            checkpoint.finish()
            stamp = FileStamp.of(beside / _ORDER)
            groups = prepared.groups
            about = {
                "keys": groups.keys.tolist(),
                "counts": groups.counts.tolist(),
                "samples": groups.samples.tolist(),
                "summary": prepared.summary,
                "order": _digest(prepared.order),
            }
            text = json.dumps({**about, "sum": _sum(about), "checked": _stamps(stamp, maps)})
            (beside / _ABOUT).write_text(text)
            sync_tree(beside)
            if order.is_forgotten.is_set():
                raise _Cancelled
            shutil.rmtree(folder, ignore_errors=True)  # what is there is damaged
            beside.rename(folder)
            if order.is_forgotten.is_set():  # too late for whoever forgot it to see it
                shutil.rmtree(folder, ignore_errors=True)
                raise _Cancelled
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        # a neighbour may have deleted the run, and the plan with it: then what was built still serves
        return _shelved(folder, maps) or _Shelved(prepared, stamp)


def _may_do_better(task: asyncio.Task[Plan | Invalid]) -> bool:
    """Whether to build again: a disk may have room now. A spec that can not be met is no exception here."""
    return task.done() and (task.cancelled() or task.exception() is not None)


def num_threads() -> int:
    """As many as there are cores for, but a few: each holds a chunk of rows."""
    affinity = getattr(os, "sched_getaffinity", None)
    return max(1, min(4, len(affinity(0)) if affinity else os.cpu_count() or 1))


def _shelved(folder: Path, maps: Sequence[ResolutionMap], is_doubted: bool = False) -> _Shelved | None:
    """The plan in a folder; None where there is none that is whole. Where ``is_doubted``, or where a file was touched
    since it was last read as a whole, it is held against its digest: ``StoreUnavailable`` for a map that differs."""
    try:
        about: dict[str, Any] = json.loads((folder / _ABOUT).read_text())
        if not isinstance(about, dict):
            return None
        checked = about.pop("checked")
        was_order, was_maps = checked["order"], list(checked["maps"])
        if about.pop("sum") != _sum(about):
            return None
        groups = ImageClasses(
            np.array(about["keys"], dtype=np.int64),
            np.array(about["counts"], dtype=np.int64),
            np.array(about["samples"], dtype=np.float64),
        )
        num = int(groups.counts.sum())
        stamp = FileStamp.of(folder / _ORDER)
        if stamp.num_bytes != 4 * num:
            return None
        order = np.memmap(folder / _ORDER, dtype=np.uint32, mode="r", shape=(num,))
        if (is_doubted or was_order != list(stamp)) and _digest(order) != about["order"]:
            return None
        shelved = _Shelved(Prepared(groups, order, about["summary"]), stamp)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    now = _stamps(stamp, maps)
    for index, image_map in enumerate(maps):
        if is_doubted or was_maps[index : index + 1] != [now["maps"][index]]:
            image_map.verify()
    if checked != now:
        _rewrite(folder, {**about, "sum": _sum(about), "checked": now})
    return shelved


def _stamps(stamp: FileStamp, maps: Sequence[ResolutionMap]) -> dict[str, Any]:
    """What the files look like that were held against their digests."""
    return {"order": list(stamp), "maps": [list(image_map.stamp) for image_map in maps]}


def _sum(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _digest(order: NDArray[np.uint32]) -> str:
    """SHA-256 over the SHA-256 of each piece, so that several threads can share the work."""
    data: memoryview = order.view(np.uint8).data

    def piece(begin: int) -> bytes:
        return hashlib.sha256(data[begin : begin + _PIECE]).digest()

    pieces = chunked_map.in_order(piece, range(0, len(data), _PIECE), num_threads())
    return hashlib.sha256(b"".join(pieces)).hexdigest()


def _rewrite(folder: Path, about: dict[str, Any]) -> None:
    """It only saves reading the files again, so a folder that can not be written to is no error."""
    with suppress(OSError):
        replace_bytes(folder / _ABOUT, json.dumps(about).encode())


@contextmanager
def _disk(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"the plan folder {root} can not be used: {error}") from error
