"""Plans on disk: built once, in a thread, kept under their fingerprint, memory-mapped by whoever opens them.

``plans/<fingerprint>/`` holds ``order.bin`` (rows by group, uint32), ``plan.json`` (groups and summary) and, for
``novelai``, ``states/`` (generator states, one file for each world size and epoch). A plan is built beside its place,
in ``work-<fingerprint>/`` (see workbench.py), by one process at a time, and renamed into it when all is on disk, so
that what is there is whole; its size is checked all the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service import events
from bucketline_service.coordinator.sources import Sources
from bucketline_service.coordinator.workbench import Workbench
from bucketline_service.errors import Invalid, Planning, StoreUnavailable
from bucketline_service.maps import locked
from bucketline_service.planning.build import Prepared, new_planner, prepare
from bucketline_service.planning.groups import Groups
from bucketline_service.planning.plan import Planner
from bucketline_service.planning.spec import PlanSpec

RETRY_AFTER_S = 1

_ORDER = "order.bin"
_WORK = "work-"

TELL_EVERY_S = 5.0
"""How far a plan is that takes longer than this is logged as often."""


@dataclass(frozen=True)
class Plan:
    """A plan that is ready: its planner, and what the stats are made of."""

    fingerprint: str
    spec: PlanSpec
    prepared: Prepared
    sources: Sources
    planner: Planner
    order_file: Path

    @property
    def is_whole(self) -> bool:
        """False where the order or a map was cut short: to read past a file's end ends the process. One that is
        deleted, with the run or by a neighbour, stays as it is for those who have it mapped."""
        try:
            is_whole = self.order_file.stat().st_size >= self.prepared.order.nbytes
        except FileNotFoundError:
            is_whole = True
        return is_whole and all(image_map.is_whole for image_map in self.sources.maps)


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
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix="tmp-", delete=False) as file:
                file.write(value)
            Path(file.name).replace(self._file(key))
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


def _is_cut_short(task: asyncio.Task[Plan | Invalid]) -> bool:
    if not task.done() or _may_do_better(task):
        return False
    plan = task.result()
    return isinstance(plan, Plan) and not plan.is_whole


class PlanShelf:
    """Opens plans and builds those that are missing, one at a time, off the event loop."""

    def __init__(self, root: Path, on_built: Callable[[float], None] = lambda seconds: None) -> None:
        self._root = root
        self._on_built = on_built
        self._tasks: dict[str, asyncio.Task[Plan | Invalid]] = {}
        self._shares: dict[str, float] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bucketline-plan")
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
        it raised."""
        task = self._tasks.get(fingerprint)
        if task is None or _may_do_better(task) or _is_cut_short(task):
            self._shares[fingerprint] = 0.0
            loop = asyncio.get_running_loop()
            job = loop.run_in_executor(self._thread, self._try, fingerprint, spec, sources, valid_rows)
            task = self._tasks[fingerprint] = asyncio.ensure_future(job)
            # a failure that nobody waits for is still no "exception was never retrieved"
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        done, _ = await asyncio.wait([task], timeout=wait_s)
        if not done:
            raise Planning("the plan is being built", retry_after=RETRY_AFTER_S)
        plan = task.result()
        if isinstance(plan, Invalid):
            raise plan.with_traceback(None)
        return plan

    def progress(self, fingerprint: str) -> float:
        """The share of a plan's building that is done, 0 to 1; 0 where it waits for others or for the disk."""
        return self._shares.get(fingerprint, 0.0)

    def forget(self, fingerprint: str) -> None:
        """Drop a plan that no run uses any more; whoever still reads its files goes on."""
        self._tasks.pop(fingerprint, None)
        self._shares.pop(fingerprint, None)
        for folder in (fingerprint, f"{_WORK}{fingerprint}"):
            shutil.rmtree(self._root / folder, ignore_errors=True)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _try(
        self,
        fingerprint: str,
        spec: PlanSpec,
        sources: Sources,
        valid_rows: Callable[[], NDArray[np.int64] | None],
    ) -> Plan | Invalid:
        """A spec that can not be met is remembered, and without its traceback, which holds on to the arrays."""
        try:
            return self._open_or_build(fingerprint, spec, sources, valid_rows)
        except Invalid as error:
            error.__context__ = error.__cause__ = None
            return error.with_traceback(None)

    def _open_or_build(
        self,
        fingerprint: str,
        spec: PlanSpec,
        sources: Sources,
        valid_rows: Callable[[], NDArray[np.int64] | None],
    ) -> Plan:
        folder = self._root / fingerprint
        with _disk(self._root):
            prepared = _open(folder)
            if prepared is None:
                begin = time.perf_counter()
                prepared = self._build(fingerprint, spec, sources, valid_rows)
                self._on_built(time.perf_counter() - begin)
        states = StateFiles(folder / "states")
        planner = new_planner(spec, prepared, sources.images, sources.int_ids, states)
        return Plan(fingerprint, spec, prepared, sources, planner, folder / _ORDER)

    def _teller(self, fingerprint: str) -> Callable[[float], None]:
        """Keeps the share that is done for those who ask, and logs it where building takes long."""
        told_s = time.monotonic()

        def tell(share: float) -> None:
            nonlocal told_s
            self._shares[fingerprint] = share
            now_s = time.monotonic()
            if now_s - told_s >= TELL_EVERY_S:
                told_s = now_s
                events.emit("planning", level=logging.INFO, fingerprint=fingerprint, progress=round(share, 3))

        return tell

    def _build(
        self,
        fingerprint: str,
        spec: PlanSpec,
        sources: Sources,
        valid_rows: Callable[[], NDArray[np.int64] | None],
    ) -> Prepared:
        folder, beside = self._root / fingerprint, self._root / f"{_WORK}{fingerprint}"
        with locked(self._root / "lock"):
            # a neighbour may have built it while this one waited
            prepared = _open(folder)
            if prepared is not None:
                return prepared
            beside.mkdir(exist_ok=True)
            try:
                # once for each plan, since all that follows is believed without another look
                for image_map in sources.maps:
                    image_map.verify()
                desk = Workbench(beside, self._teller(fingerprint))
                prepared = prepare(
                    spec, sources.images, valid_rows=valid_rows(), desk=desk, num_threads=num_threads()
                )
                desk.finish()
                groups = prepared.groups
                about = {
                    "keys": groups.keys.tolist(),
                    "counts": groups.counts.tolist(),
                    "samples": groups.samples.tolist(),
                    "summary": prepared.summary,
                }
                (beside / "plan.json").write_text(json.dumps(about))
                _sync(beside)
                shutil.rmtree(folder, ignore_errors=True)  # what is there is damaged
                beside.rename(folder)
            except BaseException:
                shutil.rmtree(beside, ignore_errors=True)
                raise
        # a neighbour may have deleted the run, and the plan with it: then what was built still serves
        return _open(folder) or prepared


def _may_do_better(task: asyncio.Task[Plan | Invalid]) -> bool:
    """Whether to build again: a disk may have room now. A spec that can not be met is no exception here."""
    return task.done() and (task.cancelled() or task.exception() is not None)


def num_threads() -> int:
    """As many as there are cores for, but a few: each holds a chunk of rows."""
    affinity = getattr(os, "sched_getaffinity", None)
    return max(1, min(4, len(affinity(0)) if affinity else os.cpu_count() or 1))


def _open(folder: Path) -> Prepared | None:
    """The plan in a folder; None where there is none that is whole."""
    try:
        about: dict[str, Any] = json.loads((folder / "plan.json").read_text())
        groups = Groups(
            np.array(about["keys"], dtype=np.int64),
            np.array(about["counts"], dtype=np.int64),
            np.array(about["samples"], dtype=np.float64),
        )
        num = int(groups.counts.sum())
        if (folder / _ORDER).stat().st_size != 4 * num:
            return None
        order = np.memmap(folder / _ORDER, dtype=np.uint32, mode="r", shape=(num,))
        return Prepared(groups, order, about["summary"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def _sync(folder: Path) -> None:
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _disk(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"the plan folder {root} can not be used: {error}") from error
