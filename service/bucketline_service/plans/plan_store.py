"""Opens the plans of runs, and builds those that are missing, one at a time, off the event loop.

A plan is a folder named after its fingerprint (see ``plan_files``). It is built beside its place, in
``work-<fingerprint>/`` (see ``build_checkpoint``), by one process at a time, and renamed into it when everything is on
the disk, so that a folder with the plan's name is complete.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bucketline_service import event_kinds
from bucketline_service.errors import Invalid, Planning, StoreUnavailable
from bucketline_service.maps import locked
from bucketline_service.maps.resolution_map import FileStamp, is_untouched
from bucketline_service.observability import traces
from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.lockstep_plans import Locksteps
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.planner_port import Planner
from bucketline_service.planning.prepared_plan import Prepared
from bucketline_service.plans import plan_files
from bucketline_service.plans.build_checkpoint import BuildCheckpoint
from bucketline_service.plans.plan_files import PlanFiles, StateFiles, num_threads
from bucketline_service.plans.run_images import Sources

RETRY_AFTER_S = 1

OPEN_WAIT_S = 1.0
"""The least time to wait for a plan that is on the disk: it opens soon, and is not being planned."""

TELL_EVERY_S = 5.0
"""How often the progress of a build is logged."""

ABANDONED_AFTER_S = 24 * 3600
"""Age of a build that no process has resumed, after which a start deletes it."""

_WORK = "work-"
_OPENERS = 2


class _Cancelled(Exception):  # noqa: N818 - not an error: nobody needs the plan any more
    """Ends a build whose plan was forgotten."""


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
        """False if the order or a map was touched: it may hold something else by now, and reading past a file's end
        ends the process. A file that is deleted, with the run or by another process, stays as it is for those that
        have it mapped. Costs one stat a file."""
        return is_untouched(self.order_file, self.order_stamp) and all(
            image_map.is_whole for image_map in self.sources.maps
        )


@dataclass(eq=False)
class _Job:
    """One plan to open or build, and how far it is. ``is_doubted``: a file of it was touched while it was open, so that
    all of them are read again. ``progress``: the share of the build that is done. ``forgotten``: set from outside to
    end the build."""

    fingerprint: str
    spec: PlanSpec
    sources: Sources
    valid_rows: Callable[[], NDArray[np.int64] | None]
    is_doubted: bool = False
    took_s: float | None = None
    progress: float = 0.0
    forgotten: threading.Event = field(default_factory=threading.Event)
    task: asyncio.Task[Plan | Invalid] | None = None

    @property
    def has_failed(self) -> bool:
        """Whether another attempt may succeed, for example once the disk has room. A spec that cannot be planned is a
        result and not a failure."""
        task = self.task
        return task is not None and task.done() and (task.cancelled() or task.exception() is not None)

    @property
    def is_touched(self) -> bool:
        if self.task is None or not self.task.done() or self.has_failed:
            return False
        plan = self.task.result()
        return isinstance(plan, Plan) and not plan.is_whole

    def check_needed(self) -> None:
        if self.forgotten.is_set():
            raise _Cancelled


class PlanStore:
    """Plans by fingerprint. Those on the disk are opened by threads of their own, and do not wait for builds.
    ``on_built`` receives the seconds that each build took."""

    def __init__(self, root: Path, on_built: Callable[[float], None] = lambda seconds: None) -> None:
        self._root = root
        self._on_built = on_built
        self._jobs: dict[str, _Job] = {}
        self._openers = ThreadPoolExecutor(_OPENERS, thread_name_prefix="bucketline-open")
        self._builder = ThreadPoolExecutor(1, thread_name_prefix="bucketline-plan")
        with _disk(root):
            root.mkdir(parents=True, exist_ok=True)
            for unfinished in root.glob(f"{_WORK}*"):
                if unfinished.stat().st_mtime < time.time() - ABANDONED_AFTER_S:
                    shutil.rmtree(unfinished, ignore_errors=True)

    async def get(
        self,
        fingerprint: str,
        spec: PlanSpec,
        sources: Sources,
        valid_rows: Callable[[], NDArray[np.int64] | None],
        wait_s: float,
    ) -> Plan:
        """The plan, built if it is missing. Raises ``Planning`` if it is not ready after ``wait_s``, and what building
        it raised, for example ``StoreUnavailable`` for a damaged map."""
        job = self._jobs.get(fingerprint)
        if job is None:
            job = self._start(_Job(fingerprint, spec, sources, valid_rows))
        elif job.has_failed or job.is_touched:
            is_doubted = not job.has_failed
            job = self._start(_Job(fingerprint, spec, sources, valid_rows, is_doubted, job.took_s))
        task = job.task
        assert task is not None
        if not task.done() and (self._root / fingerprint / plan_files.PLAN).exists():
            wait_s = max(wait_s, OPEN_WAIT_S)
        done, _ = await asyncio.wait([task], timeout=wait_s)
        if not done:
            raise Planning("the plan is being built", retry_after=RETRY_AFTER_S)
        try:
            plan = task.result()
        except _Cancelled as error:
            # its run was deleted while another one, about to be put, waited for the same plan
            raise Planning("the plan is being built again", retry_after=RETRY_AFTER_S) from error
        if isinstance(plan, Invalid):
            raise plan.with_traceback(None)
        return plan

    def progress(self, fingerprint: str) -> float:
        """The share of a plan's build that is done, 0 to 1; 0 while it waits for other builds or for the disk."""
        job = self._jobs.get(fingerprint)
        return 0.0 if job is None else job.progress

    async def settled(self, fingerprint: str) -> Plan | Invalid | None:
        """The result of a plan that was asked for here, once there is one; None if it was not, or if it failed."""
        job = self._jobs.get(fingerprint)
        if job is None or job.task is None:
            return None
        await asyncio.wait([job.task])
        return None if job.has_failed else job.task.result()

    def took_s(self, fingerprint: str) -> float | None:
        """Seconds that the build took; None if this process has not built the plan."""
        job = self._jobs.get(fingerprint)
        return None if job is None else job.took_s

    def forget(self, fingerprint: str) -> None:
        """Delete a plan that no run uses any more, and stop its build. Processes that have its files mapped
        continue."""
        job = self._jobs.pop(fingerprint, None)
        if job is not None:
            job.forgotten.set()
        for folder in (fingerprint, f"{_WORK}{fingerprint}"):
            shutil.rmtree(self._root / folder, ignore_errors=True)

    def close(self) -> None:
        for executor in (self._openers, self._builder):
            executor.shutdown(wait=True, cancel_futures=True)

    def _start(self, job: _Job) -> _Job:
        self._jobs[job.fingerprint] = job
        job.task = asyncio.ensure_future(self._run(job))
        # retrieves the exception, so that asyncio does not log a failure that no caller waits for
        job.task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return job

    async def _run(self, job: _Job) -> Plan | Invalid:
        loop = asyncio.get_running_loop()
        plan = await loop.run_in_executor(self._openers, self._attempt, self._open, job)
        if plan is None:
            run = copy_context().run  # the build belongs to the trace of the first caller
            plan = await loop.run_in_executor(self._builder, run, self._attempt, self._open_or_build, job)
        assert plan is not None
        return plan

    def _attempt(self, work: Callable[[_Job], Plan | None], job: _Job) -> Plan | Invalid | None:
        """The result of ``work``. An ``Invalid`` is kept as a result, without its traceback, which would keep the
        arrays alive."""
        try:
            with _disk(self._root):
                return work(job)
        except Invalid as error:
            error.__context__ = error.__cause__ = None
            return error.with_traceback(None)

    def _open(self, job: _Job) -> Plan | None:
        """None if no complete plan is on the disk."""
        files = plan_files.read(self._root / job.fingerprint, job.sources.maps, is_doubted=job.is_doubted)
        return None if files is None else self._plan(job, files)

    def _open_or_build(self, job: _Job) -> Plan:
        job.check_needed()  # it may have waited long for its turn
        begin = time.perf_counter()
        with locked(self._root / "lock"):
            # another process may have built it meanwhile
            plan = self._open(job)
            if plan is None:
                with traces.span("plan build", fingerprint=job.fingerprint):
                    files = self._build(job)
                job.took_s = time.perf_counter() - begin
                self._on_built(job.took_s)
                plan = self._plan(job, files)
        return plan

    def _plan(self, job: _Job, files: PlanFiles) -> Plan:
        folder, sources, prepared = self._root / job.fingerprint, job.sources, files.prepared
        states = StateFiles(folder / plan_files.STATES)
        planner = new_planner(job.spec, prepared, sources.images, sources.int_ids, states)
        locksteps = Locksteps(job.spec, prepared, sources.images, planner)
        order_file = folder / plan_files.ORDER
        spec = prepared.planned(job.spec)
        return Plan(job.fingerprint, spec, prepared, sources, planner, locksteps, order_file, files.stamp)

    def _build(self, job: _Job) -> PlanFiles:
        """With the lock held. Raises ``_Cancelled`` if the plan is forgotten, and then leaves nothing behind."""
        maps = job.sources.maps
        folder, work = self._root / job.fingerprint, self._root / f"{_WORK}{job.fingerprint}"
        work.mkdir(exist_ok=True)
        try:
            for image_map in maps:  # once for each plan: from here on the maps are trusted
                image_map.verify()
            checkpoint = BuildCheckpoint(work, _reporter(job))
            prepared = prepare(
                job.spec,
                job.sources.images,
                valid_rows=job.valid_rows(),
                checkpoint=checkpoint,
                num_threads=num_threads(),
            )
            checkpoint.finish()
            built = plan_files.write(work, prepared, maps)
            job.check_needed()
            shutil.rmtree(folder, ignore_errors=True)  # only a damaged plan can be there
            work.rename(folder)
            if job.forgotten.is_set():  # after ``forget`` has looked for the folder
                shutil.rmtree(folder, ignore_errors=True)
                raise _Cancelled
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        # another process may have deleted the run, and the plan with it: what was built is still mapped
        return plan_files.read(folder, maps) or built


def _reporter(job: _Job) -> Callable[[float], None]:
    """Records the share that is done, and logs it if the build takes long. Raises ``_Cancelled`` if the plan was
    forgotten."""
    logged_s = time.monotonic()

    def report(share: float) -> None:
        nonlocal logged_s
        job.check_needed()
        job.progress = share
        now_s = time.monotonic()
        if now_s - logged_s >= TELL_EVERY_S:
            logged_s = now_s
            event_kinds.log("planning", fingerprint=job.fingerprint, progress=round(share, 3))

    return report


@contextmanager
def _disk(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"the plan folder {root} cannot be used: {error}") from error
