"""Delivery: leases, batches, acknowledgements. Reading never moves a cursor; a commit is one store call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from bucketline_service import events, telemetry
from bucketline_service.coordinator.ahead import Ahead, num_ahead
from bucketline_service.coordinator.batches import NOTHING, Includes, render
from bucketline_service.coordinator.deal import MAX_COUNT, Deal, Span
from bucketline_service.coordinator.resume import check_size
from bucketline_service.coordinator.runs import Run, Runs, lease_floor
from bucketline_service.errors import Fenced, Invalid, NotFound, StoreUnavailable
from bucketline_service.metrics import Metrics
from bucketline_service.state.port import LEASE_STRIDE, Commit, CommitRequest, Cursor, Outcome, RankRecord

MAX_IDS = 1 << 20
"""The most ids in one answer; one of large batches holds fewer of them than were asked for, but one at least."""

_IDS_AT_HAND = 1 << 15
"""More ids than these are planned in a thread, so that others need not wait for them."""

_TRIES = 16


@dataclass(frozen=True)
class Lease:
    run: Run
    record: RankRecord


@dataclass(frozen=True)
class Next:
    """``batches``: each as JSON."""

    batches: list[bytes]
    cursor: Cursor
    num_steps: int
    done: bool


class Delivery:
    """Every verb is safe to repeat. ``clock`` gives Unix seconds."""

    def __init__(self, runs: Runs, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._runs = runs
        self._journal = runs.journal
        self._metrics = metrics
        self._clock = clock
        self._ahead = Ahead()

    async def lease(self, name: str, rank: int, holder: str, session: str | None) -> Lease:
        """The rank's lease for a holder; an older holder is fenced by it."""
        run = await self._runs.open(name)
        for _ in range(_TRIES):
            if session is not None and session != run.generation.session:
                self._metrics.fences.labels(name).inc()
                self._journal.tell("fenced", name, rank, session=session, generation=run.generation.number)
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
                    self._journal.tell("lease_given", name, rank, holder=holder, generation=number)
                return Lease(run, record)
            run = await self._runs.open(name)
        raise StoreUnavailable("generations kept changing; ask again")

    async def next(
        self,
        name: str,
        rank: int,
        lease: int,
        *,
        generation: int | None = None,
        ack: Cursor | None = None,
        begin: Cursor | None = None,
        count: int = 1,
        include: Includes = NOTHING,
    ) -> Next:
        """Acknowledge step ``ack`` (the last that the rank has finished), then the ``count`` batches from ``begin`` or
        the cursor on, which tell besides what they ``include``. Naming the lease's ``generation`` lets a store that has
        lost the lease be told of it."""
        run = await self._runs.recall(name)
        run, commit = await self._commit(run, rank, lease, generation, ack, begin)
        deal = run.deal
        cursor = deal.normal(commit.cursor)
        start = deal.normal(begin) if begin else cursor
        batches, after = await self._next_batches(run, rank, start, count, include)
        self._metrics.batches.labels(name).inc(len(batches))
        return Next(
            batches, cursor, 0 if deal.is_over(cursor) else deal.num_steps(cursor.epoch), deal.is_over(after)
        )

    async def _next_batches(
        self, run: Run, rank: int, start: Cursor, count: int, include: Includes
    ) -> tuple[list[bytes], Cursor]:
        """The batches of a rank from ``start`` on, and the cursor after them; from those at hand where they are."""
        batches = self._ahead.take(run, rank, start, count, include)
        if batches is None:
            run = await self._runs.whole(run)
            batch_size = run.plan.spec.most_images
            left = 0 if run.deal.is_over(start) else run.deal.num_steps(start.epoch) - start.step
            num = max(count, min(left, num_ahead(batch_size)))  # no epoch is planned before it is asked for
            planned = await self._batches(run, run.deal, rank, start, num, include)
            batches = planned[: min(count, most_in_answer(batch_size))]
            if len(batches) < min(left, len(planned)):
                self._ahead.keep(run, rank, start, planned[:left], include)
        return batches, run.deal.after(start, len(batches))

    async def _commit(
        self,
        run: Run,
        rank: int,
        lease: int,
        generation: int | None,
        ack: Cursor | None,
        begin: Cursor | None,
    ) -> tuple[Run, Commit]:
        trusted = is_stale = False
        for _ in range(_TRIES):
            # the store decides first whether the lease still counts: a fenced worker may name any step
            wrong = _wrong(run.deal, ack, begin)
            cursor, not_before = _acknowledge(run.deal, ack) if ack and not wrong else (None, None)
            request = CommitRequest(
                rank, lease, run.generation.id, cursor, not_before, trusted, self._clock()
            )
            commit = await self._runs.store.commit(run.name, request)
            if commit.outcome is Outcome.STALE:
                run, trusted, is_stale = await self._runs.open(run.name), False, True
                continue
            if rank >= run.generation.world_size:
                if is_stale or generation not in (None, run.generation.number):
                    raise self._fenced(run, rank, lease, generation)
                raise _no_rank(run, rank, run.generation.world_size)
            if commit.outcome is Outcome.FENCED:
                if not (wrong or trusted) and await self._may_adopt(run, rank, lease, generation):
                    trusted = True
                    continue
                raise self._fenced(run, rank, lease, generation)
            self._judge(run, rank, ack, wrong, commit)
            return run, commit
        raise StoreUnavailable("generations kept changing; ask again")

    async def _may_adopt(self, run: Run, rank: int, lease: int, generation: int | None) -> bool:
        """Whether the lease, if it is newer than the store's, was given in the present generation: then the store has
        lost it. The worker names a generation's number, which an earlier run of this name may have had as well, and so
        may a start of the job that the store has lost: only its size tells whose the lease is. Those of a lost start
        are less than any that was given since, so one of the present start must be there to compare with."""
        if generation != run.generation.number or not _is_of(run, rank, lease):
            return False
        if generation == 1:
            return True  # nobody has begun it: there is no other of this number
        _, records = await self._runs.store.ranks(run.name)
        if any(record.rank == rank for record in records):
            return True
        raise self._lost(run, rank, lease, generation)

    def _judge(self, run: Run, rank: int, ack: Cursor | None, wrong: Invalid | None, commit: Commit) -> None:
        """Count what happened, and raise where it was refused."""
        if wrong is not None:
            raise wrong
        if commit.outcome is Outcome.ADOPTED:
            self._metrics.adoptions.labels(run.name).inc()
            epoch, step = commit.cursor
            self._journal.tell("lease_adopted", run.name, rank, epoch=epoch, step=step)
            events.emit("store_lost_state", run=run.name, rank=rank, cursor=list(commit.cursor))
        if ack is None:
            return
        if commit.outcome is Outcome.AHEAD:
            raise Invalid(
                "ack",
                f"step {ack.step} of epoch {ack.epoch} is more than {MAX_COUNT} steps ahead of the cursor, "
                f"step {commit.cursor.step} of epoch {commit.cursor.epoch}",
                "Acknowledge in between: everything before an acknowledged step counts as done",
            )
        self._metrics.acks.labels(run.name).inc()

    def _fenced(self, run: Run, rank: int, lease: int, generation: int | None) -> Fenced:
        if generation is not None and generation > run.generation.number and _is_of(run, rank, lease):
            return self._lost(run, rank, lease, generation)
        self._metrics.fences.labels(run.name).inc()
        self._journal.tell("fenced", run.name, rank, generation=run.generation.number)
        return Fenced(_why_fenced(rank, lease), generation=run.generation.number)

    def _lost(self, run: Run, rank: int, lease: int, generation: int) -> Fenced:
        """The store has lost the start of the job in which the lease was given, or all that it knew of the rank then:
        nobody can tell how the epoch was dealt."""
        self._metrics.fences.labels(run.name).inc()
        events.emit("store_lost_state", run=run.name, rank=rank, generation=generation)
        self._journal.tell("store_lost_state", run.name, rank, generation=generation)
        return Fenced(
            f"the store has lost lease {lease} of rank {rank}, given in generation {generation}, and with it that "
            f"start of the job; it is at generation {run.generation.number} now. Nothing was changed. Start a new "
            "session from the checkpoint",
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
        deal = run.deal
        if world_size is not None:
            deal = await asyncio.to_thread(lambda: run.dealt_to(world_size).deal)
        if rank >= deal.world_size:
            raise _no_rank(run, rank, deal.world_size)
        deal.check_dealt("", cursor)
        return await self._batches(run, deal, rank, cursor, count, include)

    async def _batches(
        self, run: Run, deal: Deal, rank: int, start: Cursor, count: int, include: Includes
    ) -> list[bytes]:
        batch_size = run.plan.spec.most_images
        count = min(count, most_in_answer(batch_size))
        found: list[bytes] = []
        for span in deal.spans(start, count):
            planner = deal.planner_of(span.epoch)
            is_small = span.count * batch_size <= _IDS_AT_HAND
            question = (run, deal, span, rank, include)
            if is_small and planner.is_at_hand(span.epoch, deal.world_size):
                found += _planned(*question)
            else:
                found += await asyncio.to_thread(_planned, *question)
        return found


def _planned(run: Run, deal: Deal, span: Span, rank: int, include: Includes) -> list[bytes]:
    with telemetry.span("plan batches", run=run.name, rank=rank, epoch=span.epoch, num_batches=span.count):
        block = deal.planner_of(span.epoch).batches(span.epoch, deal.positions(span, rank), deal.world_size)
        return render(run, span, rank, block, include)


def most_in_answer(batch_size: int) -> int:
    """Batches."""
    return max(1, MAX_IDS // batch_size)


def _is_of(run: Run, rank: int, lease: int) -> bool:
    """Whether the lease can have been given by this run, and not by an earlier one of its name."""
    return lease % LEASE_STRIDE == rank and lease >= _least_lease(run)


def _least_lease(run: Run) -> int:
    """No lease of the run is less, and all of earlier runs of its name are: see ``Runs.delete``. It is by the clock of
    who put the run, which may be ahead of the one of who gives a lease."""
    return lease_floor(run.document.created_at_s) + LEASE_STRIDE


def _no_rank(run: Run, rank: int, world_size: int) -> NotFound:
    return NotFound(f"run {run.name!r} has no rank {rank}: they are 0 to {world_size - 1}")


def _wrong(deal: Deal, ack: Cursor | None, begin: Cursor | None) -> Invalid | None:
    """What is wrong with the steps that a request names. ``from`` is a cursor, and may stand at an epoch's end."""
    try:
        if ack is not None:
            deal.check_exists("ack", ack)
        if begin is not None and not deal.is_end(begin):
            deal.check_dealt("from", begin)
    except Invalid as error:
        return error
    return None


def _acknowledge(deal: Deal, ack: Cursor) -> tuple[Cursor, Cursor]:
    """The cursor after an acknowledged step, and the least cursor from which it may be acknowledged."""
    return deal.normal(Cursor(ack.epoch, ack.step + 1)), deal.back(ack, MAX_COUNT - 1)


def _why_fenced(rank: int, lease: int) -> str:
    if lease % LEASE_STRIDE != rank:
        return f"lease {lease} is not of rank {rank} but of rank {lease % LEASE_STRIDE}; nothing was changed"
    return (
        f"lease {lease} of rank {rank} does not count: another holder or a newer generation has taken over, or it was "
        "never given. Nothing was changed. Stop this worker, or take the lease anew if it is the right one; who holds "
        "the rank now stands in the run's ranks (bucketline run ranks)"
    )
