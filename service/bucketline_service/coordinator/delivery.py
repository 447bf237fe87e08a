"""Delivery: sessions, leases, batches, acknowledgements. Reading never moves a cursor; a commit is one store call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

from bucketline_service.coordinator.deal import MAX_COUNT, Deal, Span
from bucketline_service.coordinator.runs import Run, Runs, lease_floor
from bucketline_service.errors import Conflict, Fenced, Invalid, NotFound, PlanMismatch, StoreUnavailable
from bucketline_service.metrics import Metrics
from bucketline_service.planning.plan import BatchBlock
from bucketline_service.state.port import LEASE_STRIDE, Commit, Cursor, Generation, Outcome, RankRecord

_TRIES = 16


class StateDict(TypedDict):
    """What a checkpoint keeps. ``offset``: batches of the epoch's stream that the whole job has consumed."""

    run: str
    fingerprint: str
    epoch: int
    step: int
    offset: int
    world_size: int


class Batch(TypedDict, total=False):
    """``repeats`` is there only where an id of the batch comes a further time in its epoch: one bool an id."""

    epoch: int
    step: int
    rank: int
    bucket: int
    width: int
    height: int
    ids: list[int] | list[str]
    repeats: list[bool]


@dataclass(frozen=True)
class Session:
    run: Run
    cursor: Cursor
    left_out_batches: int
    mixed_steps: int


@dataclass(frozen=True)
class Lease:
    run: Run
    record: RankRecord


@dataclass(frozen=True)
class Next:
    batches: list[Batch]
    cursor: Cursor
    num_steps: int
    done: bool


class Delivery:
    """Every verb is safe to repeat. ``clock`` gives Unix seconds."""

    def __init__(self, runs: Runs, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._runs = runs
        self._metrics = metrics
        self._clock = clock

    async def start_session(
        self, name: str, session: str, world_size: int | None, resume: Literal["cursor", "start"] | StateDict
    ) -> Session:
        """Begin a generation, unless this session has begun it already."""
        store = self._runs.store
        for _ in range(_TRIES):
            run = await self._runs.open(name, fresh=True)
            began = await store.session(name, session)
            if began is not None:
                self._check_same_session(run, session, began, world_size)
                return await self._session(run)
            size = world_size or (
                resume["world_size"] if isinstance(resume, dict) else run.generation.world_size
            )
            slowest = (await self._slowest(run)) if resume == "cursor" else None
            new = _generation(run, session, size, resume, slowest)
            answer = await store.begin(name, new, slowest)
            if answer.begun:
                run = self._runs.learn(run, answer.generation)
                self._metrics.sessions.labels(name).inc()
                return await self._session(run)
        raise StoreUnavailable("other sessions or ranks kept changing the run; ask again")

    def _check_same_session(self, run: Run, session: str, began: int, world_size: int | None) -> None:
        generation = run.generation
        if began != generation.number:
            self._metrics.fences.labels(run.name).inc()
            raise Fenced(
                f"session {session!r} began generation {began}, and generation {generation.number} has taken over. "
                "Start with a new session name"
            )
        if world_size not in (None, generation.world_size):
            raise Conflict(
                f"session {session!r} has begun with world_size {generation.world_size}, not {world_size}. "
                "A new start needs a new session name"
            )

    async def _session(self, run: Run) -> Session:
        return await asyncio.to_thread(
            lambda: Session(run, run.deal.normal(run.generation.origin), *_costs(run))
        )

    async def _slowest(self, run: Run) -> Cursor:
        generation, records = await self._runs.store.ranks(run.name)
        if len(records) < generation.world_size:
            return generation.origin
        return min(record.cursor for record in records)

    async def state(self, run: Run) -> StateDict:
        """The state dict at the slowest rank's cursor."""
        return state_dict(run, run.deal.normal(await self._slowest(run)))

    async def lease(self, name: str, rank: int, holder: str, session: str | None) -> Lease:
        """The rank's lease for a holder; an older holder is fenced by it."""
        for _ in range(_TRIES):
            run = await self._runs.open(name, fresh=True)
            self._check_rank(run, rank)
            if session is not None and session != run.generation.session:
                self._metrics.fences.labels(name).inc()
                raise Fenced(
                    f"session {session!r} is not the run's present one, generation {run.generation.number} "
                    f"(session {run.generation.session!r}). Start the session first, or a newer one has taken over"
                )
            now_s = self._clock()
            leased = await self._runs.store.lease(
                name, rank, holder, run.generation.number, lease_floor(now_s) + rank, now_s
            )
            if leased is not None:
                self._metrics.leases.labels(name).inc()
                return Lease(self._runs.learn(run, leased[1]), leased[0])
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
    ) -> Next:
        """Acknowledge step ``ack`` (the last that the rank has finished), then the ``count`` batches from ``begin`` or
        the cursor on. Naming the lease's ``generation`` lets a store that has lost the lease be told of it."""
        run = await self._runs.open(name, lease=lease)
        run, commit = await self._commit(run, rank, lease, generation, ack, begin)
        deal = run.deal
        cursor = deal.normal(commit.cursor)
        start = begin or cursor
        batches = await self._batches(run, deal, rank, start, count)
        last = batches[-1] if batches else None
        after = deal.normal(Cursor(last["epoch"], last["step"] + 1)) if last else deal.normal(start)
        self._metrics.batches.labels(name).inc(len(batches))
        return Next(
            batches, cursor, 0 if deal.is_over(cursor) else deal.num_steps(cursor.epoch), deal.is_over(after)
        )

    async def _commit(
        self,
        run: Run,
        rank: int,
        lease: int,
        generation: int | None,
        ack: Cursor | None,
        begin: Cursor | None,
    ) -> tuple[Run, Commit]:
        for _ in range(_TRIES):
            if rank >= run.generation.world_size or (generation or 0) > run.generation.number:
                run = await self._runs.open(run.name, fresh=True)
            self._check_rank(run, rank)
            deal = run.deal
            cursor = not_before = None
            if begin is not None:
                deal.check_dealt("from", begin)
            if ack is not None:
                # the store decides first whether the lease still counts: a fenced worker's ack may name any step
                cursor, not_before = _acknowledge(deal, ack) if _exists(deal, ack) else (None, None)
            # a lease older than the run is of an earlier run of this name, and proves nothing
            trusted = generation == run.generation.number and lease >= lease_floor(run.document.created_at_s)
            commit = await self._runs.store.commit(
                run.name, rank, lease, run.generation.number, cursor, not_before, trusted, self._clock()
            )
            if commit.outcome is not Outcome.STALE:
                break
            run = self._runs.learn(run, commit.generation)
        self._judge(run, rank, lease, ack, commit)
        return run, commit

    def _judge(self, run: Run, rank: int, lease: int, ack: Cursor | None, commit: Commit) -> None:
        """Count what happened, and raise where it was refused."""
        if commit.outcome is Outcome.STALE:
            raise StoreUnavailable("generations kept changing; ask again")
        if commit.outcome is Outcome.FENCED:
            self._metrics.fences.labels(run.name).inc()
            raise Fenced(_why_fenced(rank, lease), generation=run.generation.number)
        if ack is None:
            return
        run.deal.check_exists("ack", ack)
        if commit.outcome is Outcome.AHEAD:
            raise Invalid(
                "ack",
                f"step {ack.step} of epoch {ack.epoch} is more than {MAX_COUNT} steps ahead of the cursor, "
                f"step {commit.cursor.step} of epoch {commit.cursor.epoch}",
                "Acknowledge in between: everything before an acknowledged step counts as done",
            )
        self._metrics.acks.labels(run.name).inc()
        if commit.outcome is Outcome.ADOPTED:
            self._metrics.adoptions.labels(run.name).inc()
            self._metrics.log_event("store_lost_state", run=run.name, rank=rank, cursor=list(commit.cursor))

    async def batches(
        self, name: str, rank: int, cursor: Cursor, count: int, world_size: int | None
    ) -> list[Batch]:
        """The plan itself, leased or not; with ``world_size``, as a job of that size would be dealt it."""
        run = await self._runs.open(name, fresh=True)
        deal = run.deal_to(world_size)
        if rank >= deal.world_size:
            raise NotFound(f"run {name!r} has no rank {rank}: they are 0 to {deal.world_size - 1}")
        _check_size(run, deal.world_size)
        deal.check_dealt("cursor", cursor)
        return await self._batches(run, deal, rank, cursor, count)

    async def _batches(self, run: Run, deal: Deal, rank: int, start: Cursor, count: int) -> list[Batch]:
        found: list[Batch] = []
        for span in deal.spans(start, count):
            positions = deal.positions(span, rank)
            question = (span.epoch, positions, deal.world_size)
            if deal.planner.is_at_hand(span.epoch, deal.world_size):
                block = deal.planner.batches(*question)
            else:
                block = await asyncio.to_thread(deal.planner.batches, *question)
            found += _render(run, span, rank, block)
        return found

    def _check_rank(self, run: Run, rank: int) -> None:
        size = run.generation.world_size
        if rank >= size:
            raise NotFound(f"run {run.name!r} has no rank {rank}: they are 0 to {size - 1}")


def state_dict(run: Run, cursor: Cursor) -> StateDict:
    return StateDict(
        run=run.name,
        fingerprint=run.document.fingerprint,
        epoch=cursor.epoch,
        step=cursor.step,
        offset=run.deal.consumed(cursor),
        world_size=run.generation.world_size,
    )


def _generation(
    run: Run, session: str, world_size: int, resume: str | StateDict, slowest: Cursor | None
) -> Generation:
    """The generation after the present one, beginning where ``resume`` says."""
    _check_size(run, world_size)
    if resume == "start":
        origin, offset, before = Cursor(0, 0), 0, world_size
    else:
        state = (
            resume if isinstance(resume, dict) else state_dict(run, run.deal.normal(slowest or Cursor(0, 0)))
        )
        _check_state(run, state)
        origin, offset, before = Cursor(state["epoch"], state["step"]), state["offset"], state["world_size"]
    new = Generation(run.generation.number + 1, session, world_size, origin, offset)
    if run.spec.planner == "novelai" and offset and (world_size != before or offset != origin.step * before):
        raise Invalid(
            "world_size",
            f"planner novelai deals an epoch to the ranks that it begins with, {before}, not {world_size}",
            f"Finish epoch {origin.epoch} with {before} ranks, or resume at its start (step 0, offset 0); "
            "planner line changes at any step",
        )
    origin = Deal.of(run.plan.planner, new, run.spec.epochs).normal(origin)
    if origin.epoch != new.origin.epoch:
        new = Generation(new.number, session, world_size, origin, 0)
    return new


def _check_size(run: Run, world_size: int) -> None:
    num = run.plan.planner.num_batches(0, world_size)
    if not 0 < world_size <= min(num, LEASE_STRIDE):
        raise Invalid(
            "world_size",
            f"{world_size} ranks, and an epoch has {num} batches",
            f"It may be 1 to {min(num, LEASE_STRIDE)}",
        )


def _check_state(run: Run, state: StateDict) -> None:
    if state["fingerprint"] != run.document.fingerprint:
        raise PlanMismatch(
            f"the state is of another plan than run {run.name!r}: its map, spec or planner version differs. "
            "Resume the run that it was saved from, or start this one with resume: start",
            expected=run.document.fingerprint,
            given=state["fingerprint"],
        )
    num = run.plan.planner.num_batches(state["epoch"], state["world_size"])
    step, offset = state["step"], state["offset"]
    if offset > num or offset < step or (step == 0) != (offset == 0):
        raise Invalid(
            "resume.offset",
            f"offset {offset} does not go with step {step} in an epoch of {num} batches",
            "Each step consumes world_size batches of the stream. Give the state dict as it was saved",
        )


def _costs(run: Run) -> tuple[int, int]:
    """Batches that the epoch of the origin leaves undealt, and steps of it that may be of mixed shape."""
    generation, planner = run.generation, run.plan.planner
    epoch = generation.origin.epoch
    mixed = planner.mixed_steps(epoch, generation.offset, generation.world_size)
    return run.deal.num_left_out(epoch), mixed


def _exists(deal: Deal, ack: Cursor) -> bool:
    try:
        deal.check_exists("ack", ack)
    except Invalid:
        return False
    return True


def _acknowledge(deal: Deal, ack: Cursor) -> tuple[Cursor, Cursor]:
    """The cursor after an acknowledged step, and the least cursor from which it may be acknowledged."""
    return deal.normal(Cursor(ack.epoch, ack.step + 1)), deal.back(ack, MAX_COUNT - 1)


def _why_fenced(rank: int, lease: int) -> str:
    if lease % LEASE_STRIDE != rank:
        return f"lease {lease} is not of rank {rank} but of rank {lease % LEASE_STRIDE}; nothing was changed"
    return (
        f"lease {lease} of rank {rank} does not count: another holder or a newer generation has taken over, or it was "
        "never given. Nothing was changed. Stop this worker, or take the lease anew if it is the right one"
    )


def _render(run: Run, span: Span, rank: int, block: BatchBlock) -> list[Batch]:
    ids = run.ids(block.rows)
    bounds = block.bounds.tolist()
    targets = run.plan.spec.targets
    batches = []
    for i, bucket in enumerate(block.buckets.tolist()):
        begin, end = bounds[i], bounds[i + 1]
        width, height = targets[bucket]
        batch = Batch(
            epoch=span.epoch,
            step=span.step + i,
            rank=rank,
            bucket=bucket,
            width=width,
            height=height,
            ids=ids[begin:end],
        )
        batches.append(batch)
    if block.repeats.any():
        for i in np.flatnonzero(np.add.reduceat(block.repeats, block.bounds[:-1])).tolist():
            batches[i]["repeats"] = block.repeats[bounds[i] : bounds[i + 1]].tolist()
    return batches
