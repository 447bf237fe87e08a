"""Runs: put, opened, listed, deleted. A run is its document in the store, and a plan that any replica can build."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import (
    BucketlineError,
    Conflict,
    Damaged,
    Invalid,
    NotFound,
    Planning,
    StoreUnavailable,
)
from bucketline_service.maps.async_store import AsyncMapStore
from bucketline_service.names import check_name
from bucketline_service.observability.event_log import EventLog
from bucketline_service.planning.build_plan import check_world_size
from bucketline_service.planning.lockstep import LockstepPlan
from bucketline_service.plans.fingerprint import check_release, fingerprint, ids_digest
from bucketline_service.plans.plan_store import Plan, PlanStore
from bucketline_service.plans.run_images import Sources, Valid
from bucketline_service.runs import map_deletion_guard
from bucketline_service.runs.run_document import RunDocument
from bucketline_service.runs.sharding import Sharding
from bucketline_service.spec.run_spec import RunSpec
from bucketline_service.store.damage import damaged
from bucketline_service.store.port import (
    LEASE_STRIDE,
    Cursor,
    Generation,
    RankRecord,
    RunRecord,
    Store,
    Withdrawn,
)

WAIT_FOR_PLAN_S = 2.0
"""How long a request waits for a plan that is being built before it answers that it is."""

STATUS_WAIT_S = 0.05
"""How long one that only asks for the status waits: a plan that is on disk is opened well within."""

TICKS_PER_S = 100
"""Lease tokens count hundredths of a second since 2020, so that they grow with time and stay below 2**53."""
EPOCH_2020_S = 1_577_836_800

MAX_WAIT_FOR_LEASES_S = 5.0

_TRIES = 16


def new_birth() -> str:
    """Of a generation: no other has it."""
    return secrets.token_hex(8)


def lease_floor(now_s: float) -> int:
    """The least lease token of this moment (of rank 0)."""
    return int((now_s - EPOCH_2020_S) * TICKS_PER_S) * LEASE_STRIDE


@dataclass(frozen=True)
class Run:
    """A run whose plan is ready, under one generation. The name may have been put anew since: what is worked out with
    this one is good for the store's verbs that compare the generation's id, and for nothing else."""

    name: str
    document: RunDocument
    encoded: bytes
    plan: Plan
    generation: Generation

    @property
    def spec(self) -> RunSpec:
        return self.document.spec

    @cached_property
    def sharding(self) -> Sharding:
        epoch = self.generation.origin.epoch
        others = self.laid(epoch + 1).planner
        return Sharding.of(others, self.generation, self.spec.epochs, self.laid(epoch).planner)

    def lockstep_for(self, world_size: int) -> int:
        """Of an epoch that so many ranks deal from its start."""
        return self.plan.locksteps.lockstep_for(world_size, self.spec.world_size)

    def laid(self, epoch: int) -> LockstepPlan:
        """How this generation has the epoch's stream laid out."""
        lockstep = self.generation.lockstep
        if lockstep is not None and epoch != self.generation.origin.epoch:
            lockstep = self.lockstep_for(self.generation.world_size)
        return self.plan.locksteps.of(lockstep)

    def lockstep(self, epoch: int) -> int | None:
        """Of the epoch's stream; None for a planner that has none."""
        return self.laid(epoch).spec.lockstep if self.spec.planner_kind.has_units else None

    def sharded_to(self, world_size: int | None) -> Run:
        """The run as this generation deals it, or as a job of another size would each epoch from its start."""
        if world_size is None:
            return self
        lockstep = self.lockstep_for(world_size)
        start = replace(self.generation, world_size=world_size, origin=Cursor(0, 0), offset=0)
        return replace(self, generation=replace(start, lockstep=lockstep))


class Runs:
    """The catalogue. Opened runs are remembered; the store's answers say when what is remembered is old."""

    def __init__(
        self,
        store: Store,
        library: AsyncMapStore,
        plans: PlanStore,
        clock: Callable[[], float],
        event_log: EventLog,
    ) -> None:
        self.store = store
        self.event_log = event_log
        self._library = library
        self._maps = library.maps
        self._plans = plans
        self._clock = clock
        self._open: dict[str, Run] = {}
        self._followed: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def put(self, name: str, spec: RunSpec) -> bool:
        """Create the run; whether this call made it. Its plan may still be on the way: see ``status``.

        Raises ``Conflict`` for another spec under the name, ``PlanMismatch`` for a run of another release, ``Invalid``
        where the spec can not be met; then nothing is kept.
        """
        check_name("run", name)
        spec = spec.resolved()
        with suppress(NotFound, Withdrawn):  # Withdrawn: deleted in between
            standing, _ = await self.read(name)
            _same_spec(name, standing, spec)
            check_release(standing.fingerprint)
            # who made it may have died before all was written, or before replicas had it: creating it again mends that
            return await self._create(name, standing, new_birth())
        document = await self._library.do(self._document, spec)
        with suppress(Planning):
            plan = await self._first_built(name, spec, document)
            try:
                check_world_size(plan.planner, spec.world_size)
            except Invalid:
                await self._forget(document.fingerprint)
                raise
        try:
            created = await self._create_announced(name, document)
        except (NotFound, Conflict):
            await self._forget(document.fingerprint)
            raise
        if created:
            maps = ", ".join(each.map for each in spec.sources)
            self.event_log.emit("run_put", name, maps=maps, world_size=spec.world_size, planner=spec.planner)
            self._follow(name, document)
        return created

    async def _first_built(self, name: str, spec: RunSpec, document: RunDocument) -> Plan:
        try:
            return await self._built(name, document, WAIT_FOR_PLAN_S)
        except StoreUnavailable:
            # a map that is deleted meanwhile takes its files along: then it is not found, and nothing is damaged
            await self._library.do(self._document, spec)
            raise

    def _follow(self, name: str, document: RunDocument, *, is_here: bool = False) -> None:
        """Tell when the plan is ready or has failed; with ``is_here``, if it was built in this process."""
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
            if settled is not None and (took_s is not None or not is_here):
                self.event_log.emit("run_planned", name, took_s=took_s and round(took_s, 3))

        if key not in self._followed:
            # in a context of its own: it is no part of the request
            task = Context().run(asyncio.get_running_loop().create_task, follow())
            self._followed[key] = task
            task.add_done_callback(lambda _: self._followed.pop(key, None))

    async def _create_announced(self, name: str, document: RunDocument) -> bool:
        """Whether this call made it. Announced first and looked at then, so that no map of it is deleted meanwhile: see
        ``map_deletion_guard``."""
        for _ in range(_TRIES):
            birth = new_birth()
            await map_deletion_guard.announce(
                self.store, self._library, name, birth, document.digests, self._clock
            )
            with suppress(Withdrawn):  # a map was about to be deleted, perhaps another
                return await self._create(name, document, birth)
        raise StoreUnavailable("maps kept being deleted; ask again")

    async def _create(self, name: str, document: RunDocument, birth: str) -> bool:
        first = Generation(1, None, document.spec.world_size, Cursor(0, 0), 0, birth=birth)
        record, created = await self.store.create_run(name, document.encode(), first, announced=True)
        _same_spec(name, RunDocument.decode(name, record.document), document.spec)
        return created

    async def read(self, name: str) -> tuple[RunDocument, RunRecord]:
        record = await self.store.read_run(name)
        return RunDocument.decode(name, record.document), record

    async def names(self) -> list[str]:
        return await self.store.list_runs()

    async def documents(self) -> AsyncIterator[tuple[str, RunDocument | None]]:
        """Of all runs, by name; None where it cannot be read."""
        for name in await self.names():
            try:
                yield name, (await self.read(name))[0]
            except Damaged:
                yield name, None
            except NotFound:  # deleted since it was listed
                continue

    async def delete(self, name: str) -> None:
        """Forget the run, and its plan where no other needs it. A replica that has the plan open keeps it, one that has
        not builds it again.

        A worker of an older client names its lease and not the generation's id: only its size tells it from the leases
        of a later run of this name. So this waits, up to ``MAX_WAIT_FOR_LEASES_S``, until all leases to come are larger
        than those that were given: a hundredth of a second, or one for each time that a rank changed hands faster than
        that. No more than equal leases can meet after it: none is adopted without an equal id."""
        document: RunDocument | None = None
        ranks: list[RankRecord] = []
        with suppress(Damaged):  # deleting it is what mends it
            _, ranks = await self.store.ranks(name)
            document, _ = await self.read(name)
        await self.store.delete_run(name)
        self._open.pop(name, None)
        newest = max((rank.lease for rank in ranks), default=0) // LEASE_STRIDE
        ahead_s = (newest + 1) / TICKS_PER_S + EPOCH_2020_S - self._clock()
        await asyncio.sleep(min(max(ahead_s, 0.0), MAX_WAIT_FOR_LEASES_S))
        if document is not None:
            await self._forget(document.fingerprint)

    async def open(self, name: str, wait_s: float = WAIT_FOR_PLAN_S) -> Run:
        """The run as the store has it now, ready. Raises ``NotFound``, ``Planning``, what planning it raises, or
        ``PlanMismatch`` where another release has planned it."""
        try:
            record = await self.store.read_run(name)
        except NotFound:
            self._open.pop(name, None)
            raise
        run = known = self._open.get(name)
        if run is None or run.encoded != record.document or not run.plan.is_whole:
            document = RunDocument.decode(name, record.document)
            try:
                plan = await self._plan(name, document, wait_s)
            except Planning:
                # who put the run may have been stopped meanwhile
                self._follow(name, document, is_here=True)
                raise
            run = Run(name, document, record.document, plan, record.generation)
        run = replace(run, generation=record.generation)
        if known is None or known.generation != run.generation:
            _check_size(run)
        self._open[name] = run
        if run.generation.lockstep and (known is None or known.generation != run.generation):
            # a planner of thousands of groups takes a while to make
            await asyncio.to_thread(getattr, run, "sharding")
        return run

    async def recall(self, name: str, wait_s: float = WAIT_FOR_PLAN_S) -> Run:
        """The run as it was read last, which costs no store call: for a commit, which is stale where it is another. Its
        plan may be damaged since: see ``whole``."""
        return self._open.get(name) or await self.open(name, wait_s)

    async def whole(self, run: Run) -> Run:
        """The run, with its plan opened anew where the files of that were touched since. Raises ``StoreUnavailable``
        where the name was put anew."""
        if run.plan.is_whole:
            return run
        opened = await self.open(run.name)
        if opened.encoded != run.encoded:
            raise StoreUnavailable(f"run {run.name!r} was put anew; ask again")
        return replace(run, plan=opened.plan)

    async def with_ranks(self, run: Run) -> tuple[Run, list[RankRecord]]:
        """The run under its present generation, and the ranks of that. Another start of the job may have begun since it
        was opened, or the name may have been put anew: then it is the new run."""
        while True:
            generation, records = await self.store.ranks(run.name)
            if generation == run.generation:
                return run, records
            run = await self.open(run.name)

    async def status(self, name: str, document: RunDocument) -> tuple[str, str | None]:
        """``ready``, ``planning`` or ``failed``, and why. A disk that does not take the plan is asked again each time:
        such a run is ``planning``."""
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
        """The share of its plan's building that is done, 0 to 1, where its status is ``planning``."""
        return self._plans.progress(document.fingerprint)

    async def uses(self, map_name: str) -> list[str]:
        """Names of the runs that need a map, or may: of one that cannot be read nobody can tell."""
        return [
            name async for name, document in self.documents() if not document or map_name in document.digests
        ]

    def _document(self, spec: RunSpec) -> RunDocument:
        sources = Sources(
            [each.map for each in spec.sources], [self._maps.get(each.map) for each in spec.sources]
        )
        valid_digests = [self._valid_digest(each.valid_ids) for each in spec.sources]
        rows = None
        if spec.is_fitted or any(isinstance(each.valid_ids, list) for each in spec.sources):
            rows = sources.rows_of(self._valid(spec, valid_digests), spec.maps is not None)
        fitted_sizes = None
        if spec.is_fitted:
            parts = sources.distinct(rows, with_frames=spec.frame_buckets is not None)
            fitted_sizes = spec.fit(parts, spec.maps or ())
        plan = spec.plan_spec(fitted_sizes, spec.maps or ())
        digests = [image_map.digest for image_map in sources.maps]
        return RunDocument(
            spec=spec,
            fingerprint=fingerprint(plan, digests, valid_digests),
            map_digests=digests,
            valid_digests=valid_digests,
            created_at_s=self._clock(),
            fitted_sizes=fitted_sizes,
        )

    def _valid_digest(self, valid_ids: list[int] | list[str] | str | None) -> str | None:
        if isinstance(valid_ids, str):
            return self._maps.get(valid_ids).digest
        return None if valid_ids is None else ids_digest(valid_ids)

    def _valid(self, spec: RunSpec, digests: list[str | None]) -> list[Valid]:
        """For ``Sources.rows_of``: of each map."""

        def ids_of(digest: str) -> list[int] | list[str]:
            valid = self._maps.get_digest(digest)
            valid.verify()  # what a plan is made of is believed from then on
            return valid.ids(np.arange(valid.num_images))

        return [
            partial(ids_of, digest or "") if isinstance(each.valid_ids, str) else each.valid_ids
            for each, digest in zip(spec.sources, digests, strict=True)
        ]

    async def _forget(self, fingerprint: str) -> None:
        """Drop a plan, unless a run in the store needs it."""
        async for _, document in self.documents():
            if document is not None and document.fingerprint == fingerprint:
                return
        await asyncio.to_thread(self._plans.forget, fingerprint)

    async def _plan(self, name: str, document: RunDocument, wait_s: float) -> Plan:
        """Raises ``Planning``, ``PlanMismatch``, ``Damaged``, and what planning raises, ``Invalid`` for too many ranks
        among it."""
        plan = await self._built(name, document, wait_s)
        check_world_size(plan.planner, document.spec.world_size)
        return plan

    async def _built(self, name: str, document: RunDocument, wait_s: float) -> Plan:
        spec, plan_spec = document.spec, document.plan_spec(name)
        maps = [await self._library.open(digest, wait_s) for digest in document.map_digests]
        sources = Sources([each.map for each in spec.sources], maps)

        def valid_rows() -> NDArray[np.int64] | None:
            return sources.rows_of(self._valid(spec, document.valid_digests), spec.maps is not None)

        return await self._plans.get(document.fingerprint, plan_spec, sources, valid_rows, wait_s)


def _check_size(run: Run) -> None:
    """``Damaged`` for a generation of more ranks than an epoch has batches: none was begun so, and it has no step."""
    try:
        check_world_size(run.plan.planner, run.generation.world_size)
    except Invalid as error:
        raise damaged(run.name, "the generation", error.detail) from None


def _same_spec(name: str, standing: RunDocument, spec: RunSpec) -> None:
    """A name stands for one spec for ever; say where the two differ."""
    if standing.spec == spec:
        return
    old, new = standing.spec.to_json(), spec.to_json()
    fields = sorted(field for field in new if old[field] != new[field])
    raise Conflict(
        f"run {name!r} exists with another {', '.join(fields)}. Take another name, or delete the run first",
        fields=fields,
    )
