"""The registry of runs: created, opened, listed, deleted. A run is its document in the store: any replica can build its
plan from that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import (
    BucketlineError,
    Conflict,
    Damaged,
    Invalid,
    NotFound,
    PlanMismatch,
    Planning,
    StoreUnavailable,
)
from bucketline_service.maps.async_store import AsyncMapStore
from bucketline_service.names import check_name
from bucketline_service.observability.event_log import EventLog
from bucketline_service.planning.build_plan import check_world_size
from bucketline_service.plans.fingerprint import check_release
from bucketline_service.plans.plan_store import Plan, PlanStore
from bucketline_service.plans.run_images import Sources
from bucketline_service.runs import lease_tokens, map_deletion_guard
from bucketline_service.runs.new_run import new_document, valid_ids
from bucketline_service.runs.run import Run, new_birth
from bucketline_service.runs.run_document import RunDocument
from bucketline_service.spec.run_spec import RunSpec
from bucketline_service.store.damage import damaged
from bucketline_service.store.port import Cursor, Generation, RankRecord, RunRecord, Store, Withdrawn

WAIT_FOR_PLAN_S = 2.0
"""How long a request waits for a plan that is being built before it answers that it is."""

STATUS_WAIT_S = 0.05
"""How long a request for the status waits: a plan that is on disk is opened well within this time."""

MAX_WAIT_FOR_LEASES_S = 5.0

_TRIES = 16


class Runs:
    """All runs. Opened runs are remembered; the store's answers tell when one has changed."""

    def __init__(
        self,
        store: Store,
        maps: AsyncMapStore,
        plans: PlanStore,
        clock: Callable[[], float],
        event_log: EventLog,
    ) -> None:
        self.store = store
        self.event_log = event_log
        self._maps = maps
        self._plans = plans
        self._clock = clock
        self._open: dict[str, Run] = {}
        self._followed: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def put(self, name: str, spec: RunSpec) -> bool:
        """Create the run. False if it exists with the same spec. Its plan may still be being built: see ``status``.

        Raises ``Conflict`` if the name has another spec, ``PlanMismatch`` if another release planned the run, and
        ``Invalid`` if the spec cannot be planned; nothing is kept then.
        """
        check_name("run", name)
        given, spec = spec, spec.resolved()
        with suppress(NotFound, Withdrawn):  # Withdrawn: it was deleted in between
            return await self._put_again(name, given)
        document = await self._maps.do(self._new_document, spec)
        plan: Plan | None = None
        with suppress(Planning):
            plan = await self._first_built(name, spec, document)
        try:
            created = await self._create_announced(name, document, plan)
        except (NotFound, Conflict):
            await self._forget(document.fingerprint)
            raise
        if created:
            maps = ", ".join(each.map for each in spec.sources)
            self.event_log.emit("run_put", name, maps=maps, world_size=spec.world_size, planner=spec.planner)
            self._follow(name, document)
        return created

    def _new_document(self, spec: RunSpec) -> RunDocument:
        return new_document(spec, self._maps.maps, self._clock())

    async def _put_again(self, name: str, spec: RunSpec) -> bool:
        """Put a run that exists. The process that created it may have died before all was written, or before replicas
        had it: creating it again completes it. Raises ``NotFound`` or ``Withdrawn`` if it does not exist."""
        document, _ = await self.read(name)
        document.check_same_spec(name, spec)
        check_release(document.fingerprint)
        return (await self._create(name, document, new_birth()))[1]

    async def _first_built(self, name: str, spec: RunSpec, document: RunDocument) -> Plan:
        """The plan of a run that does not exist yet; dropped again if it has too few batches for the run's ranks."""
        try:
            plan = await self._built(name, document, WAIT_FOR_PLAN_S)
        except StoreUnavailable:
            # if a map was deleted meanwhile, with its files, it is missing rather than damaged
            await self._maps.do(self._new_document, spec)
            raise
        try:
            check_world_size(plan.planner, spec.world_size)
        except Invalid:
            await self._forget(document.fingerprint)
            raise
        return plan

    def _follow(self, name: str, document: RunDocument, *, is_built_here: bool = False) -> None:
        """Report as an event that the plan is ready or has failed; with ``is_built_here``, ready only if this process
        has built it."""
        key = (name, document.fingerprint)

        async def follow() -> None:
            settled = await self._plans.settled(document.fingerprint)
            try:
                if isinstance(settled, Plan):
                    check_world_size(settled.planner, document.spec.world_size)
                elif settled is not None:
                    raise settled.with_traceback(None)
            except Invalid as error:
                self.event_log.emit("run_failed", name, detail=error.detail)
                return
            took_s = self._plans.took_s(document.fingerprint)
            if settled is not None and (took_s is not None or not is_built_here):
                self.event_log.emit("run_planned", name, took_s=took_s and round(took_s, 3))

        if key not in self._followed:
            # an empty context: the task is not part of the request
            task = Context().run(asyncio.get_running_loop().create_task, follow())
            self._followed[key] = task
            task.add_done_callback(lambda _: self._followed.pop(key, None))

    async def _create_announced(self, name: str, document: RunDocument, plan: Plan | None) -> bool:
        """Whether this call created the run. It is announced before its maps are looked at, so that none of them is
        deleted meanwhile: see ``map_deletion_guard``."""
        for _ in range(_TRIES):
            birth = new_birth()
            await map_deletion_guard.announce(
                self.store, self._maps, name, birth, document.digests, self._clock
            )
            # a map was about to be deleted, perhaps one that this run does not need
            with suppress(Withdrawn):
                record, created = await self._create(name, document, birth)
                if created and plan is not None:
                    self._open[name] = Run(name, document, record.document, plan, record.generation)
                return created
        raise StoreUnavailable("maps are being deleted one after the other; try again")

    async def _create(self, name: str, document: RunDocument, birth: str) -> tuple[RunRecord, bool]:
        first = Generation(1, None, document.spec.world_size, Cursor(0, 0), 0, birth=birth)
        encoded = document.encode()
        record, created = await self.store.create_run(name, encoded, first, announced=True)
        if record.document != encoded:
            RunDocument.decode(name, record.document).check_same_spec(name, document.spec)
        return record, created

    async def read(self, name: str) -> tuple[RunDocument, RunRecord]:
        """The run as the store has it, whether its plan is ready or not."""
        try:
            record = await self.store.read_run(name)
        except NotFound:
            self._open.pop(name, None)
            raise
        known = self._open.get(name)
        if known is not None and known.encoded == record.document:
            return known.document, record
        return RunDocument.decode(name, record.document), record

    async def names(self) -> list[str]:
        return await self.store.list_runs()

    async def documents(self) -> AsyncIterator[tuple[str, RunDocument | None]]:
        """All runs by name; None in place of a document that cannot be read."""
        for name in await self.names():
            try:
                yield name, (await self.read(name))[0]
            except Damaged:
                yield name, None
            except NotFound:  # deleted since it was listed
                continue

    async def delete(self, name: str) -> None:
        """Delete the run, and its plan unless another run needs it. Replicas that have the plan open keep it.

        A worker of an older client names its lease but not the generation's id, so only the size of its token
        distinguishes it from the leases of a later run of this name. This call therefore waits, for up to
        ``MAX_WAIT_FOR_LEASES_S``, until every new token is larger than those given: a hundredth of a second, or longer
        if a rank changed hands faster than that. Past that limit tokens may at most be equal, and no lease is adopted
        without an equal generation id.
        """
        document: RunDocument | None = None
        ranks: list[RankRecord] = []
        with suppress(Damaged):  # deleting the run is the remedy
            _, ranks = await self.store.ranks(name)
            document, _ = await self.read(name)
        await self.store.delete_run(name)
        self._open.pop(name, None)
        wait_s = lease_tokens.used_up_in_s(max((rank.lease for rank in ranks), default=0), self._clock())
        await asyncio.sleep(min(max(wait_s, 0.0), MAX_WAIT_FOR_LEASES_S))
        if document is not None:
            await self._forget(document.fingerprint)

    async def open(self, name: str, wait_s: float = WAIT_FOR_PLAN_S) -> Run:
        """The run as the store has it now, ready to be served. Raises ``NotFound``, ``Planning`` after ``wait_s``
        seconds, any error of its planning, or ``PlanMismatch`` if another release planned it."""
        return await self.open_record(name, *await self.read(name), wait_s)

    async def open_record(
        self, name: str, document: RunDocument, record: RunRecord, wait_s: float = WAIT_FOR_PLAN_S
    ) -> Run:
        """The same for what ``read`` has returned."""
        run = known = self._open.get(name)
        if run is None or run.encoded != record.document or not run.plan.is_whole:
            try:
                plan = await self._plan(name, document, wait_s)
            except Planning:
                # the process that created the run may have been stopped meanwhile
                self._follow(name, document, is_built_here=True)
                raise
            run = Run(name, document, record.document, plan, record.generation)
        run = replace(run, generation=record.generation)
        if known is None or known.generation != run.generation:
            _check_generation(run)
        self._open[name] = run
        if run.generation.lockstep and (known is None or known.generation != run.generation):
            await asyncio.to_thread(getattr, run, "sharding")  # the first use may take a while
        return run

    async def recall(self, name: str, wait_s: float = WAIT_FOR_PLAN_S) -> Run:
        """The run as it was last read, without a call to the store. For a commit, whose outcome is STALE if the run has
        changed. The files of its plan may have been touched since: see ``whole``."""
        return self._open.get(name) or await self.open(name, wait_s)

    async def whole(self, run: Run) -> Run:
        """The run, with its plan opened again if a file of it was touched. Raises ``StoreUnavailable`` if the run was
        deleted and created again."""
        if run.plan.is_whole:
            return run
        opened = await self.open(run.name)
        if opened.encoded != run.encoded:
            raise StoreUnavailable(f"run {run.name!r} was deleted and created again; try again")
        return replace(run, plan=opened.plan)

    async def with_ranks(self, run: Run) -> tuple[Run, list[RankRecord]]:
        """The run under its present generation, and the records of that generation's ranks. The present generation may
        be newer than the one it was opened with, or the name may belong to a new run by now."""
        while True:
            generation, records = await self.store.ranks(run.name)
            if generation == run.generation:
                return run, records
            run = await self.open(run.name)

    async def mismatch(self, name: str, document: RunDocument, given: str) -> PlanMismatch:
        """The error for a state dict with the fingerprint ``given``, which names a run of that plan if there is one."""
        async for other, found in self.documents():
            if found is not None and found.fingerprint == given:
                return document.mismatch(name, given, (other, found))
        return document.mismatch(name, given, None)

    async def status(self, name: str, document: RunDocument) -> tuple[str, str | None]:
        """``ready``, ``planning`` or ``failed``, and why. A run whose plan the disk does not accept is ``planning``:
        each request tries again."""
        try:
            await self._plan(name, document, wait_s=STATUS_WAIT_S)
        except Planning:
            return "planning", None
        except StoreUnavailable as error:
            return "planning", error.detail
        except BucketlineError as error:
            return "failed", error.detail
        return "ready", None

    def progress(self, document: RunDocument) -> float:
        """The share of its plan that is built, 0 to 1, if its status is ``planning``."""
        return self._plans.progress(document.fingerprint)

    async def uses(self, map_name: str) -> list[str]:
        """Names of the runs that need a map, and of those whose document cannot be read: they may need it."""
        return [
            name async for name, document in self.documents() if not document or map_name in document.digests
        ]

    async def _forget(self, fingerprint: str) -> None:
        """Drop a plan, unless a run in the store needs it."""
        async for _, document in self.documents():
            if document is not None and document.fingerprint == fingerprint:
                return
        await asyncio.to_thread(self._plans.forget, fingerprint)

    async def _plan(self, name: str, document: RunDocument, wait_s: float) -> Plan:
        """As ``_built``; ``Invalid`` too if an epoch has fewer batches than the run has ranks."""
        plan = await self._built(name, document, wait_s)
        check_world_size(plan.planner, document.spec.world_size)
        return plan

    async def _built(self, name: str, document: RunDocument, wait_s: float) -> Plan:
        """Raises ``Planning`` after ``wait_s`` seconds, ``PlanMismatch``, ``Damaged``, or an error of planning."""
        spec, plan_spec = document.spec, document.plan_spec(name)
        maps = [await self._maps.open(digest, wait_s) for digest in document.map_digests]
        sources = Sources([each.map for each in spec.sources], maps)

        def valid_rows() -> NDArray[np.int64] | None:
            ids = valid_ids(spec, document.valid_digests, self._maps.maps)
            return sources.rows_of(ids, spec.maps is not None)

        return await self._plans.get(document.fingerprint, plan_spec, sources, valid_rows, wait_s)


def _check_generation(run: Run) -> None:
    """Raise ``Damaged`` if the generation has more ranks than an epoch has batches: it would have no step, so it never
    began like this."""
    try:
        check_world_size(run.plan.planner, run.generation.world_size)
    except Invalid as error:
        raise damaged(run.name, "the generation", error.detail) from None
