"""Sessions: the starts of the whole job, each a generation. Idempotent by the name that the caller gives."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Literal

from bucketline_service.errors import Conflict, Fenced, StoreUnavailable
from bucketline_service.observability.metrics import Metrics
from bucketline_service.runs.plan_mismatch import explained
from bucketline_service.runs.registry import Run, Runs, new_birth
from bucketline_service.runs.resume import StateDict, next_start, rolled_over, state_dict
from bucketline_service.store.port import Cursor, RankRecord

_TRIES = 16


@dataclass(frozen=True)
class Session:
    """``left_out_batches``: what this start leaves undealt of the epoch in which it begins, and what was left of the
    epoch before where that was less than a step of all ranks. ``rolled_over_batches``: what the state left of the epoch
    before, None where this is not the epoch after the state's. Of a start at the cursor the first answer alone tells
    what was left."""

    run: Run
    cursor: Cursor
    left_out_batches: int
    mixed_steps: int
    rolled_over_batches: int | None


class Sessions:
    """Every verb is safe to repeat."""

    def __init__(self, runs: Runs, metrics: Metrics) -> None:
        self._runs = runs
        self._metrics = metrics

    async def start(
        self, name: str, session: str, world_size: int | None, resume: Literal["cursor", "start"] | StateDict
    ) -> Session:
        """Begin a generation, unless this session has begun it already."""
        store = self._runs.store
        given = resume if isinstance(resume, dict) else None
        for _ in range(_TRIES):
            run = await self._runs.open(name)
            present, began = await store.session(name, session)
            if began is not None:
                if present != run.generation.id:
                    continue  # another process has begun it, or put the run anew, since the run was read
                self._check_same(run, session, began, world_size)
            if given is not None and given["fingerprint"] != run.document.fingerprint:
                raise await explained(self._runs, name, run.document, given["fingerprint"])
            if began is not None:
                return await asyncio.to_thread(_session, run, rolled_over(run, given) if given else None)
            state, slowest = given, None
            if resume == "cursor":
                current, slowest = await self.slowest(run)
                if current.generation != run.generation:
                    continue
            if slowest is not None:
                state = state_dict(run, run.sharding.normal(slowest))
            size = world_size or (state["world_size"] if state else run.generation.world_size)
            start = await asyncio.to_thread(next_start, run, session, size, state, birth=new_birth())
            # before it begins: what can not be planned must not fence those who are at work
            new = await asyncio.to_thread(
                _session, replace(run, generation=start.generation), start.rolled_over
            )
            answer = await store.begin(name, start.generation, run.generation.id, slowest)
            if answer.begun:
                self._metrics.sessions.labels(name).inc()
                generation = start.generation
                self._runs.event_log.emit(
                    "session_begun",
                    name,
                    session=session,
                    generation=generation.number,
                    world_size=generation.world_size,
                    epoch=new.cursor.epoch,
                    step=new.cursor.step,
                )
                return new
        raise StoreUnavailable("other sessions or ranks kept changing the run; ask again")

    def _check_same(self, run: Run, session: str, began: int, world_size: int | None) -> None:
        generation = run.generation
        if began != generation.number:
            self._metrics.fences.labels(run.name).inc()
            self._runs.event_log.emit("fenced", run.name, session=session, generation=generation.number)
            raise Fenced(
                f"session {session!r} began generation {began}, and generation {generation.number} has taken over. "
                "Start with a new session name",
                generation=generation.number,
            )
        if world_size not in (None, generation.world_size):
            raise Conflict(
                f"session {session!r} has begun with world_size {generation.world_size}, not {world_size}. "
                "A new start needs a new session name"
            )

    async def slowest(self, run: Run) -> tuple[Run, Cursor]:
        """The slowest rank's cursor, and the run under the generation that it belongs to."""
        run, records = await self._runs.with_ranks(run)
        return run, _slowest(run, records)

    async def state(self, run: Run) -> tuple[Run, StateDict]:
        """The state dict at the slowest rank's cursor, and the run under the generation that it belongs to."""
        run, slowest = await self.slowest(run)
        return run, state_dict(run, run.sharding.normal(slowest))

    def standing(self, run: Run, records: list[RankRecord]) -> tuple[StateDict, float | None]:
        """The state dict at the slowest rank's cursor, and when any rank was last heard of."""
        last_seen_s = max((record.last_seen_s for record in records), default=None)
        return state_dict(run, run.sharding.normal(_slowest(run, records))), last_seen_s


def _slowest(run: Run, records: list[RankRecord]) -> Cursor:
    if len(records) < run.generation.world_size:
        return run.generation.origin
    return min(record.cursor for record in records)


def _session(run: Run, rolled_over: int | None) -> Session:
    sharding, generation = run.sharding, run.generation
    epoch, world_size = generation.origin.epoch, generation.world_size
    before = rolled_over if rolled_over is not None and rolled_over < world_size else 0
    if sharding.is_over(generation.origin):
        return Session(run, generation.origin, before, 0, rolled_over)
    mixed = sharding.planner_of(epoch).mixed_steps(epoch, generation.offset, world_size)
    cursor = sharding.normal(generation.origin)
    return Session(run, cursor, before + sharding.num_left_out(epoch), mixed, rolled_over)
