"""Delivery: leases, batches and acknowledgements. Reading never moves a cursor; a commit is one call to the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bucketline_service.errors import Fenced, Invalid, NotFound, StoreUnavailable
from bucketline_service.observability import traces
from bucketline_service.observability.metrics import Metrics
from bucketline_service.runs.batch_cache import BatchCache, num_ahead
from bucketline_service.runs.batch_documents import NOTHING, Includes, render
from bucketline_service.runs.lease_tokens import MAX_LEASE_AHEAD_S, lease_floor, least_lease
from bucketline_service.runs.registry import Runs
from bucketline_service.runs.resume import check_size
from bucketline_service.runs.run import Run
from bucketline_service.runs.sharding import MAX_COUNT, Sharding, Span
from bucketline_service.store.port import LEASE_STRIDE, Commit, CommitRequest, Cursor, Outcome, RankRecord

MAX_IDS = 1 << 20
"""The most ids in one answer. An answer with large batches holds fewer of them than requested, but at least one."""

_MAX_IDS_ON_LOOP = 1 << 15
"""Batches with more ids than this are planned in a thread, so that other requests do not wait for them."""

MAX_FROM_AHEAD = 2 * MAX_COUNT
"""How many steps past the cursor batches may be requested: a client holds at most ``MAX_COUNT`` batches that are handed
to the training loop and unfinished, and as many that are ready."""

_TRIES = 16
_KEEP_CHANGING = "generations keep changing; try again"


@dataclass(frozen=True)
class Lease:
    run: Run
    record: RankRecord


@dataclass(slots=True)
class NextRequest:
    """What a rank's worker sends with ``next``. ``generation`` and ``generation_id``: those of its lease, None if it
    sends none. ``ack``: the last step that it has finished. ``begin``: the first step that it requests, None for the
    cursor."""

    rank: int
    lease: int
    generation: int | None = None
    generation_id: str | None = None
    ack: Cursor | None = None
    begin: Cursor | None = None
    count: int = 1
    include: Includes = NOTHING


@dataclass(frozen=True)
class NextBatches:
    """The answer to ``next``. ``batches``: each as JSON. ``done``: no batch of the run follows them."""

    generation_id: str | None
    batches: list[bytes]
    cursor: Cursor
    num_steps: int
    done: bool


class Delivery:
    """Every verb is safe to repeat. ``clock`` gives Unix seconds."""

    def __init__(self, runs: Runs, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._runs = runs
        self._event_log = runs.event_log
        self._metrics = metrics
        self._clock = clock
        self._cache = BatchCache()

    async def lease(self, name: str, rank: int, holder: str, session: str | None) -> Lease:
        """The rank's lease for a holder, which fences an older holder. Raises ``Fenced`` if ``session`` is not the
        present one."""
        run = await self._runs.open(name)
        for _ in range(_TRIES):
            generation = run.generation
            if session is not None and session != generation.session:
                raise self._fence(
                    run,
                    rank,
                    f"session {session!r} is not the run's current session {generation.session!r} (generation "
                    f"{generation.number}). It has not been started, or a newer one has replaced it",
                    session=session,
                )
            if rank >= generation.world_size:
                raise _no_rank(run, rank, generation.world_size)
            now_s = self._clock()
            proposed = max(lease_floor(now_s), least_lease(run)) + rank
            record = await self._runs.store.lease(name, rank, holder, generation.id, proposed, now_s)
            if record is not None:
                self._metrics.of_run(name).leases.inc()
                is_new = record.lease >= proposed and record.leased_at_s == now_s
                if is_new:
                    self._event_log.emit(
                        "lease_given", name, rank, holder=holder, generation=generation.number
                    )
                return Lease(run, record)
            run = await self._runs.open(name)
        raise StoreUnavailable(_KEEP_CHANGING)

    async def next(self, name: str, request: NextRequest) -> NextBatches:
        """Acknowledge step ``request.ack``, then return ``request.count`` batches from ``request.begin`` or the cursor.

        A store that has lost the lease can adopt it again if the request has the generation's id.
        """
        run, commit = await self._commit(await self._runs.recall(name), request)
        sharding = run.sharding
        cursor = sharding.normal(commit.cursor)
        start = sharding.normal(request.begin) if request.begin else cursor
        batches, after = await self._next_batches(run, request.rank, start, request.count, request.include)
        self._metrics.of_run(name).batches.inc(len(batches))
        num_steps = 0 if sharding.is_over(cursor) else sharding.num_steps(cursor.epoch)
        return NextBatches(run.generation.birth or None, batches, cursor, num_steps, sharding.is_over(after))

    async def _next_batches(
        self, run: Run, rank: int, start: Cursor, count: int, include: Includes
    ) -> tuple[list[bytes], Cursor]:
        """A rank's batches from ``start``, from the cache where it has them, and the cursor after them."""
        batches = self._cache.take(run, rank, start, count, include)
        if batches is None:
            run = await self._runs.whole(run)
            batch_size = run.plan.spec.most_images
            sharding = run.sharding
            left = 0 if sharding.is_over(start) else sharding.num_steps(start.epoch) - start.step
            # an epoch is not planned before it is requested
            num = max(count, min(left, num_ahead(batch_size)))
            planned = await self._batches(run, sharding, rank, start, num, include)
            batches = planned[: min(count, most_in_answer(batch_size))]
            if len(batches) < min(left, len(planned)):
                self._cache.keep(run, rank, start, planned[:left], include)
        return batches, run.sharding.after(start, len(batches))

    async def _commit(self, run: Run, request: NextRequest) -> tuple[Run, Commit]:
        """Prove the lease and move the cursor behind the acknowledged step. Returns only where the store did both."""
        is_trusted = was_stale = False
        for _ in range(_TRIES):
            run = await self._in_generation(run, request)
            # a wrong step is refused after the lease has been judged: a fenced worker may name any step
            wrong = _wrong(run.sharding, request)
            cursor, not_before = (None, None) if wrong else _places(run.sharding, request)
            now_s = self._clock()
            commit = await self._runs.store.commit(
                run.name,
                CommitRequest(
                    request.rank, request.lease, run.generation.id, cursor, not_before, is_trusted, now_s
                ),
            )
            match commit.outcome:
                case Outcome.STALE:
                    run, is_trusted, was_stale = await self._runs.open(run.name), False, True
                case _ if request.rank >= run.generation.world_size:
                    if was_stale or request.generation not in (None, run.generation.number):
                        raise self._fenced(run, request)
                    raise _no_rank(run, request.rank, run.generation.world_size)
                case Outcome.FENCED if not (wrong or is_trusted) and _may_adopt(run, request, now_s):
                    is_trusted = True
                case Outcome.FENCED:
                    raise self._fenced(run, request)
                case Outcome.AHEAD if is_trusted:
                    raise self._lost(run, request, f"more than {MAX_COUNT} steps of the rank")
                case _ if wrong is not None:
                    raise wrong
                case Outcome.AHEAD:
                    raise _too_far_ahead(run.sharding, request, commit.cursor)
                case Outcome.OK | Outcome.ADOPTED:
                    self._count(run, request, commit)
                    return run, commit
        raise StoreUnavailable(_KEEP_CHANGING)

    async def _in_generation(self, run: Run, request: NextRequest) -> Run:
        """The run, in the generation that the request names by its id, if any; else ``Fenced``."""
        if request.generation_id in (None, run.generation.birth):
            return run
        run = await self._runs.open(run.name)  # the remembered run may be older than the lease
        if request.generation_id != run.generation.birth:
            raise self._fenced(run, request)
        return run

    def _count(self, run: Run, request: NextRequest, commit: Commit) -> None:
        if commit.outcome is Outcome.ADOPTED:
            self._metrics.of_run(run.name).adoptions.inc()
            epoch, step = commit.cursor
            self._event_log.emit("lease_adopted", run.name, request.rank, epoch=epoch, step=step)
        if request.ack is not None:
            self._metrics.of_run(run.name).acks.inc()

    def _fenced(self, run: Run, request: NextRequest) -> Fenced:
        if _is_of_lost_start(run, request):
            return self._lost(run, request, "that start of the job")
        return self._fence(run, request.rank, _why_fenced(request.rank, request.lease))

    def _fence(self, run: Run, rank: int, detail: str, **fields: Any) -> Fenced:
        number = run.generation.number
        self._metrics.of_run(run.name).fences.inc()
        self._event_log.emit("fenced", run.name, rank, **fields, generation=number)
        return Fenced(detail, generation=number)

    def _lost(self, run: Run, request: NextRequest, what: str) -> Fenced:
        """The store has lost ``what`` with the lease, so it is unknown what was trained."""
        number = run.generation.number
        self._metrics.of_run(run.name).fences.inc()
        self._event_log.emit("store_lost_state", run.name, request.rank, generation=request.generation)
        return Fenced(
            f"the store has lost lease {request.lease} of rank {request.rank} (generation {request.generation}), and "
            f"with it {what}; its current generation is {number}. Nothing was changed. Start a new session from the "
            "checkpoint",
            generation=number,
        )

    async def batches(
        self,
        name: str,
        rank: int,
        cursor: Cursor,
        count: int,
        world_size: int | None,
        include: Includes = NOTHING,
    ) -> tuple[list[bytes], int]:
        """The planned batches, without a lease, and the number of steps of the first one's epoch; with ``world_size``,
        as a job of that size would be handed them."""
        run = await self._runs.open(name)
        check_size(run, world_size or run.generation.world_size)
        sharding = run.sharding
        if world_size is not None:
            sharding = await asyncio.to_thread(lambda: run.sharded_to(world_size).sharding)
        if rank >= sharding.world_size:
            raise _no_rank(run, rank, sharding.world_size)
        sharding.check_dealt("", cursor)
        found = await self._batches(run, sharding, rank, cursor, count, include)
        return found, 0 if sharding.is_over(cursor) else sharding.num_steps(cursor.epoch)

    async def _batches(
        self, run: Run, sharding: Sharding, rank: int, start: Cursor, count: int, include: Includes
    ) -> list[bytes]:
        batch_size = run.plan.spec.most_images
        count = min(count, most_in_answer(batch_size))
        found: list[bytes] = []
        for span in sharding.spans(start, count):
            planner = sharding.planner_of(span.epoch)
            is_small = span.count * batch_size <= _MAX_IDS_ON_LOOP
            if is_small and planner.is_at_hand(span.epoch, sharding.world_size):
                found += _planned(run, sharding, span, rank, include)
            else:
                found += await asyncio.to_thread(_planned, run, sharding, span, rank, include)
        return found


def _planned(run: Run, sharding: Sharding, span: Span, rank: int, include: Includes) -> list[bytes]:
    with traces.span("plan batches", run=run.name, rank=rank, epoch=span.epoch, num_batches=span.count):
        planner, positions = sharding.planner_of(span.epoch), sharding.positions(span, rank)
        return render(run, span, rank, planner.batches(span.epoch, positions, sharding.world_size), include)


def most_in_answer(batch_size: int) -> int:
    """The most batches in one answer."""
    return max(1, MAX_IDS // batch_size)


def _may_adopt(run: Run, request: NextRequest, now_s: float) -> bool:
    """Whether a lease newer than the stored one was given in the present generation: then the store has lost it.

    Only the generation's random id proves that. Its number occurs again if the run was deleted and created again, or
    if the store has lost a start of the job.
    """
    is_named = (
        bool(request.generation_id) and (request.generation_id, request.generation) == run.generation.id
    )
    return is_named and request.lease < lease_floor(now_s + MAX_LEASE_AHEAD_S)


def _is_of_lost_start(run: Run, request: NextRequest) -> bool:
    """Whether the lease was given in a start of the job that the store has lost: its generation has a higher number
    than the present one, or the same number and another id."""
    if request.generation is None or request.lease % LEASE_STRIDE != request.rank:
        return False
    if request.lease < least_lease(run):
        return False
    if request.generation == run.generation.number:
        return request.generation_id not in (None, run.generation.birth)
    return request.generation > run.generation.number


def _no_rank(run: Run, rank: int, world_size: int) -> NotFound:
    return NotFound(f"run {run.name!r} has no rank {rank}: its ranks are 0 to {world_size - 1}")


def _wrong(sharding: Sharding, request: NextRequest) -> Invalid | None:
    """The error in the steps that a request names. ``from`` is a cursor, and may stand at an epoch's end."""
    try:
        if request.ack is not None:
            sharding.check_exists("ack", request.ack)
        if request.begin is not None and not sharding.is_end(request.begin):
            sharding.check_dealt("from", request.begin)
    except Invalid as error:
        return error
    return None


def _places(sharding: Sharding, request: NextRequest) -> tuple[Cursor | None, Cursor | None]:
    """The cursor after the acknowledged step, and the smallest stored cursor that allows that step and the first one
    requested. Each is None if the request has no such step."""
    ack = request.ack
    cursor = sharding.normal(Cursor(ack.epoch, ack.step + 1)) if ack else None
    bounds = [sharding.back(ack, MAX_COUNT - 1)] if ack else []
    begin = sharding.normal(request.begin) if request.begin else None
    if begin and (cursor is None or sharding.distance(cursor, begin) > MAX_FROM_AHEAD):
        bounds.append(sharding.back(begin, MAX_FROM_AHEAD))
    return cursor, max(bounds, default=None)


def _too_far_ahead(sharding: Sharding, request: NextRequest, cursor: Cursor) -> Invalid:
    """Names the field that is too far past the cursor, and the limit."""
    ack = request.ack
    if ack and cursor < sharding.back(ack, MAX_COUNT - 1):
        field, place, most = "ack", ack, MAX_COUNT
        remedy = "Acknowledge in between: an acknowledgement covers every earlier step"
    else:
        assert request.begin is not None
        field, place, most = "from", request.begin, MAX_FROM_AHEAD
        remedy = "Acknowledge more often, or read less ahead: fewer loader workers, a smaller prefetch_factor or window"
    return Invalid(
        field,
        f"must be at most {most} steps ahead of the cursor (epoch {cursor.epoch}, step {cursor.step}), "
        f"got epoch {place.epoch}, step {place.step}",
        remedy,
    )


def _why_fenced(rank: int, lease: int) -> str:
    if lease % LEASE_STRIDE != rank:
        return (
            f"lease {lease} belongs to rank {lease % LEASE_STRIDE}, not to rank {rank}. Nothing was changed"
        )
    return (
        f"lease {lease} of rank {rank} is no longer valid: another holder or a newer generation has replaced it, or it "
        "was never given. Nothing was changed. Stop this worker, or take the lease again if this is the right worker; "
        "the list of ranks shows the current holder (bucketline run ranks)"
    )
