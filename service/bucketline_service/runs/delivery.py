"""Delivery: leases, batches, acknowledgements. Reading never moves a cursor; a commit is one store call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from bucketline_service.errors import Fenced, Invalid, NotFound, StoreUnavailable
from bucketline_service.observability import traces
from bucketline_service.observability.metrics import Metrics
from bucketline_service.runs.batch_cache import BatchCache, num_ahead
from bucketline_service.runs.batch_documents import NOTHING, Includes, render
from bucketline_service.runs.registry import Run, Runs, lease_floor
from bucketline_service.runs.resume import check_size
from bucketline_service.runs.sharding import MAX_COUNT, Sharding, Span
from bucketline_service.store.port import (
    LEASE_STRIDE,
    Commit,
    CommitRequest,
    Cursor,
    Outcome,
    RankRecord,
)

MAX_IDS = 1 << 20
"""The most ids in one answer; one of large batches holds fewer of them than were asked for, but one at least."""

_IDS_AT_HAND = 1 << 15
"""More ids than these are planned in a thread, so that others need not wait for them."""

MAX_FROM_AHEAD = 2 * MAX_COUNT
"""Steps past the cursor at which batches may be asked for: a client has at most ``MAX_COUNT`` batches handed out and
not finished, and as many at hand."""

MAX_LEASE_AHEAD_S = 86_400.0
"""No lease is adopted that is further ahead of this clock: a forged one must leave room for larger ones. Tokens run
ahead of the clock where a replica's clock does, or where a rank changes hands more than ``TICKS_PER_S`` times a
second."""

_TRIES = 16


@dataclass(frozen=True)
class Lease:
    run: Run
    record: RankRecord


@dataclass(frozen=True)
class NextRequest:
    """What a rank's worker says with ``next``. ``generation`` and ``generation_id`` are those of its lease, None where
    it names none. ``ack``: the last step that it has finished; ``begin``: the first that it wants, None for the
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
    """``batches``: each as JSON."""

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
        """The rank's lease for a holder; an older holder is fenced by it."""
        run = await self._runs.open(name)
        for _ in range(_TRIES):
            if session is not None and session != run.generation.session:
                self._metrics.fences.labels(name).inc()
                self._event_log.emit("fenced", name, rank, session=session, generation=run.generation.number)
                raise Fenced(
                    f"session {session!r} is not the run's present one, generation {run.generation.number} "
                    f"(session {run.generation.session!r}). Start the session first, or a newer one has taken over",
                    generation=run.generation.number,
                )
            if rank >= run.generation.world_size:
                raise _no_rank(run, rank, run.generation.world_size)
            now_s = self._clock()
            proposed = max(lease_floor(now_s), _least_lease(run)) + rank
            record = await self._runs.store.lease(name, rank, holder, run.generation.id, proposed, now_s)
            if record is not None:
                self._metrics.leases.labels(name).inc()
                if record.lease >= proposed and record.leased_at_s == now_s:  # not the one that it has
                    number = run.generation.number
                    self._event_log.emit("lease_given", name, rank, holder=holder, generation=number)
                return Lease(run, record)
            run = await self._runs.open(name)
        raise StoreUnavailable("generations kept changing; ask again")

    async def next(self, name: str, ask: NextRequest) -> NextBatches:
        """Acknowledge step ``ask.ack``, then the ``ask.count`` batches from ``ask.begin`` or the cursor on. Naming the
        generation's id lets a store that has lost the lease be told of it."""
        run = await self._runs.recall(name)
        run, commit = await self._commit(run, ask)
        sharding = run.sharding
        cursor = sharding.normal(commit.cursor)
        start = sharding.normal(ask.begin) if ask.begin else cursor
        batches, after = await self._next_batches(run, ask.rank, start, ask.count, ask.include)
        self._metrics.batches.labels(name).inc(len(batches))
        num_steps = 0 if sharding.is_over(cursor) else sharding.num_steps(cursor.epoch)
        return NextBatches(run.generation.birth or None, batches, cursor, num_steps, sharding.is_over(after))

    async def _next_batches(
        self, run: Run, rank: int, start: Cursor, count: int, include: Includes
    ) -> tuple[list[bytes], Cursor]:
        """The batches of a rank from ``start`` on, and the cursor after them; from those at hand where they are."""
        batches = self._cache.take(run, rank, start, count, include)
        if batches is None:
            run = await self._runs.whole(run)
            batch_size = run.plan.spec.most_images
            left = 0 if run.sharding.is_over(start) else run.sharding.num_steps(start.epoch) - start.step
            num = max(count, min(left, num_ahead(batch_size)))  # no epoch is planned before it is asked for
            planned = await self._batches(run, run.sharding, rank, start, num, include)
            batches = planned[: min(count, most_in_answer(batch_size))]
            if len(batches) < min(left, len(planned)):
                self._cache.keep(run, rank, start, planned[:left], include)
        return batches, run.sharding.after(start, len(batches))

    async def _commit(self, run: Run, ask: NextRequest) -> tuple[Run, Commit]:
        trusted = is_stale = False
        for _ in range(_TRIES):
            run = await self._in_generation(run, ask)
            # the store decides first whether the lease is valid: a fenced worker may name any step
            wrong = _wrong(run.sharding, ask)
            cursor, not_before = (None, None) if wrong else _places(run.sharding, ask)
            request = CommitRequest(
                ask.rank, ask.lease, run.generation.id, cursor, not_before, trusted, self._clock()
            )
            commit = await self._runs.store.commit(run.name, request)
            if commit.outcome is Outcome.STALE:
                run, trusted, is_stale = await self._runs.open(run.name), False, True
                continue
            if ask.rank >= run.generation.world_size:
                if is_stale or ask.generation not in (None, run.generation.number):
                    raise self._fenced(run, ask)
                raise _no_rank(run, ask.rank, run.generation.world_size)
            if commit.outcome is Outcome.FENCED:
                if not (wrong or trusted) and _may_adopt(run, ask, request.now_s):
                    trusted = True
                    continue
                raise self._fenced(run, ask)
            if trusted and commit.outcome is Outcome.AHEAD:
                raise self._lost(run, ask, f"more than {MAX_COUNT} steps of the rank")
            self._judge(run, ask, wrong, commit)
            return run, commit
        raise StoreUnavailable("generations kept changing; ask again")

    async def _in_generation(self, run: Run, ask: NextRequest) -> Run:
        """The run, in the generation of the worker's lease where it names that by its id; else ``Fenced``."""
        if ask.generation_id in (None, run.generation.birth):
            return run
        run = await self._runs.open(run.name)  # what is remembered may be older than the lease
        if ask.generation_id != run.generation.birth:
            raise self._fenced(run, ask)
        return run

    def _judge(self, run: Run, ask: NextRequest, wrong: Invalid | None, commit: Commit) -> None:
        """Count what happened, and raise where it was refused."""
        if wrong is not None:
            raise wrong
        if commit.outcome is Outcome.AHEAD:
            raise _too_far_ahead(run.sharding, ask, commit.cursor)
        if commit.outcome is Outcome.ADOPTED:
            self._metrics.adoptions.labels(run.name).inc()
            epoch, step = commit.cursor
            self._event_log.emit("lease_adopted", run.name, ask.rank, epoch=epoch, step=step)
        if ask.ack is not None:
            self._metrics.acks.labels(run.name).inc()

    def _fenced(self, run: Run, ask: NextRequest) -> Fenced:
        if _is_of_lost_start(run, ask):
            return self._lost(run, ask, "that start of the job")
        self._metrics.fences.labels(run.name).inc()
        self._event_log.emit("fenced", run.name, ask.rank, generation=run.generation.number)
        return Fenced(_why_fenced(ask.rank, ask.lease), generation=run.generation.number)

    def _lost(self, run: Run, ask: NextRequest, what: str) -> Fenced:
        """The store has lost ``what``, and the lease with it, so that nobody can tell what was trained."""
        self._metrics.fences.labels(run.name).inc()
        self._event_log.emit("store_lost_state", run.name, ask.rank, generation=ask.generation)
        return Fenced(
            f"the store has lost lease {ask.lease} of rank {ask.rank}, given in generation {ask.generation}, and with "
            f"it {what}; it is at generation {run.generation.number} now. Nothing was changed. Start a new session "
            "from the checkpoint",
            generation=run.generation.number,
        )

    async def batches(
        self,
        name: str,
        rank: int,
        cursor: Cursor,
        count: int,
        world_size: int | None,
        include: Includes = NOTHING,
    ) -> list[bytes]:
        """The plan itself, leased or not; with ``world_size``, as a job of that size would be dealt it."""
        run = await self._runs.open(name)
        check_size(run, world_size or run.generation.world_size)
        sharding = run.sharding
        if world_size is not None:
            sharding = await asyncio.to_thread(lambda: run.sharded_to(world_size).sharding)
        if rank >= sharding.world_size:
            raise _no_rank(run, rank, sharding.world_size)
        sharding.check_dealt("", cursor)
        return await self._batches(run, sharding, rank, cursor, count, include)

    async def _batches(
        self, run: Run, sharding: Sharding, rank: int, start: Cursor, count: int, include: Includes
    ) -> list[bytes]:
        batch_size = run.plan.spec.most_images
        count = min(count, most_in_answer(batch_size))
        found: list[bytes] = []
        for span in sharding.spans(start, count):
            planner = sharding.planner_of(span.epoch)
            is_small = span.count * batch_size <= _IDS_AT_HAND
            question = (run, sharding, span, rank, include)
            if is_small and planner.is_at_hand(span.epoch, sharding.world_size):
                found += _planned(*question)
            else:
                found += await asyncio.to_thread(_planned, *question)
        return found


def _planned(run: Run, sharding: Sharding, span: Span, rank: int, include: Includes) -> list[bytes]:
    with traces.span("plan batches", run=run.name, rank=rank, epoch=span.epoch, num_batches=span.count):
        block = sharding.planner_of(span.epoch).batches(
            span.epoch, sharding.positions(span, rank), sharding.world_size
        )
        return render(run, span, rank, block, include)


def most_in_answer(batch_size: int) -> int:
    """Batches."""
    return max(1, MAX_IDS // batch_size)


def _may_adopt(run: Run, ask: NextRequest, now_s: float) -> bool:
    """Whether a lease that is newer than the store's was given in the present generation: then the store has lost it.
    Only the generation's id tells, which was drawn at random when it began: its number is used again where the run was
    deleted and put anew, and where the store has lost a start of the job."""
    is_named = bool(ask.generation_id) and (ask.generation_id, ask.generation) == run.generation.id
    return is_named and ask.lease < lease_floor(now_s + MAX_LEASE_AHEAD_S)


def _is_of_lost_start(run: Run, ask: NextRequest) -> bool:
    """Whether the lease was given in a start of the job that the store has lost: one that is numbered higher than the
    present one, or has its number and another id."""
    if ask.generation is None or ask.lease % LEASE_STRIDE != ask.rank or ask.lease < _least_lease(run):
        return False
    if ask.generation == run.generation.number:
        return ask.generation_id not in (None, run.generation.birth)
    return ask.generation > run.generation.number


def _least_lease(run: Run) -> int:
    """No lease of the run is less, and all of earlier runs of its name are: see ``Runs.delete``. It is by the clock of
    who put the run, which may be ahead of the one of who gives a lease."""
    return lease_floor(run.document.created_at_s) + LEASE_STRIDE


def _no_rank(run: Run, rank: int, world_size: int) -> NotFound:
    return NotFound(f"run {run.name!r} has no rank {rank}: they are 0 to {world_size - 1}")


def _wrong(sharding: Sharding, ask: NextRequest) -> Invalid | None:
    """What is wrong with the steps that a request names. ``from`` is a cursor, and may stand at an epoch's end."""
    try:
        if ask.ack is not None:
            sharding.check_exists("ack", ask.ack)
        if ask.begin is not None and not sharding.is_end(ask.begin):
            sharding.check_dealt("from", ask.begin)
    except Invalid as error:
        return error
    return None


def _places(sharding: Sharding, ask: NextRequest) -> tuple[Cursor | None, Cursor | None]:
    """The cursor after what is acknowledged, and the least cursor from which that and the first step wanted may be
    asked for; None for what is not asked."""
    cursor = sharding.normal(Cursor(ask.ack.epoch, ask.ack.step + 1)) if ask.ack else None
    bounds = [sharding.back(ask.ack, MAX_COUNT - 1)] if ask.ack else []
    begin = sharding.normal(ask.begin) if ask.begin else None
    if begin and (cursor is None or sharding.distance(cursor, begin) > MAX_FROM_AHEAD):
        bounds.append(sharding.back(begin, MAX_FROM_AHEAD))
    return cursor, max(bounds, default=None)


def _too_far_ahead(sharding: Sharding, ask: NextRequest, cursor: Cursor) -> Invalid:
    """Names the field that is too far past the cursor, and by how much it may be."""
    ack = ask.ack
    if ack and cursor < sharding.back(ack, MAX_COUNT - 1):
        field, place, most = "ack", ack, MAX_COUNT
        remedy = "Acknowledge in between: everything before an acknowledged step counts as done"
    else:
        assert ask.begin is not None
        field, place, most = "from", ask.begin, MAX_FROM_AHEAD
        remedy = "Acknowledge more often, or read less ahead: fewer loader workers, a smaller prefetch_factor or window"
    return Invalid(
        field,
        f"step {place.step} of epoch {place.epoch} is more than {most} steps ahead of the cursor, "
        f"step {cursor.step} of epoch {cursor.epoch}",
        remedy,
    )


def _why_fenced(rank: int, lease: int) -> str:
    if lease % LEASE_STRIDE != rank:
        return f"lease {lease} is not of rank {rank} but of rank {lease % LEASE_STRIDE}; nothing was changed"
    return (
        f"lease {lease} of rank {rank} is no longer valid: another holder or a newer generation has taken over, or it "
        "was never given. Nothing was changed. Stop this worker, or take the lease anew if it is the right one; the "
        "run's ranks tell who holds the rank now (bucketline run ranks)"
    )
