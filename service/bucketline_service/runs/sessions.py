"""Sessions: the starts of the whole job, each of which begins a generation. Idempotent by the caller's session name."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Literal

from bucketline_service.errors import Conflict, Fenced, StoreUnavailable
from bucketline_service.observability.metrics import Metrics
from bucketline_service.runs.registry import Runs
from bucketline_service.runs.resume import StateDict, next_start, rolled_over, state_dict
from bucketline_service.runs.run import Run, new_birth
from bucketline_service.store.port import Cursor, RankRecord

_TRIES = 16

Resume = Literal["cursor", "start"] | StateDict
"""Where a start begins: at the slowest rank's cursor, at epoch 0, or where a checkpoint was saved."""


@dataclass(frozen=True)
class Session:
    """A start of the job, and the batches that it leaves out.

    ``left_out_batches``: of the epoch in which it begins, plus what was left of the epoch before if that was less than
    one step of all ranks. ``rolled_over_batches``: what the state dict left of its epoch, None unless the start begins
    with the epoch after it. After a start at the cursor, only the first answer knows what was left.
    """

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

    async def start(self, name: str, session: str, world_size: int | None, resume: Resume) -> Session:
        """Begin a generation, unless this session has already begun it."""
        given = resume if isinstance(resume, dict) else None
        for _ in range(_TRIES):
            run = await self._runs.open(name)
            present, number = await self._runs.store.session(name, session)
            if number is not None:
                if present != run.generation.id:
                    continue  # another process began it, or created the run again, after the run was read
                self._check_same(run, session, number, world_size)
            if given is not None and given["fingerprint"] != run.document.fingerprint:
                raise await self._runs.mismatch(name, run.document, given["fingerprint"])
            if number is not None:
                return await asyncio.to_thread(_session, run, rolled_over(run, given) if given else None)
            begun = await self._begin(run, session, world_size, resume)
            if begun is not None:
                return begun
        raise StoreUnavailable("other sessions or ranks keep changing the run; try again")

    async def _begin(self, run: Run, session: str, world_size: int | None, resume: Resume) -> Session | None:
        """Begin the generation after the run's. None, with nothing changed, if another generation has begun or a rank
        has moved meanwhile."""
        state: StateDict | None
        slowest: Cursor | None = None
        match resume:
            case "start":
                state = None
            case "cursor":
                current, slowest = await self.slowest(run)
                if current.generation != run.generation:
                    return None
                state = state_dict(run, run.sharding.normal(slowest))
            case _:
                state = resume
        size = world_size or (state["world_size"] if state else run.generation.world_size)
        start = await asyncio.to_thread(next_start, run, session, size, state, birth=new_birth())
        # before the generation begins: a start that cannot be planned must not fence the ranks at work
        begun = replace(run, generation=start.generation)
        answer = await asyncio.to_thread(_session, begun, start.rolled_over)
        if not (await self._runs.store.begin(run.name, start.generation, run.generation.id, slowest)).begun:
            return None
        self._metrics.of_run(run.name).sessions.inc()
        self._runs.event_log.emit(
            "session_begun",
            run.name,
            session=session,
            generation=start.generation.number,
            world_size=size,
            epoch=answer.cursor.epoch,
            step=answer.cursor.step,
        )
        return answer

    def _check_same(self, run: Run, session: str, number: int, world_size: int | None) -> None:
        """Raise unless generation ``number``, which the session began, is the present one with this world size."""
        generation = run.generation
        if number != generation.number:
            self._metrics.of_run(run.name).fences.inc()
            self._runs.event_log.emit("fenced", run.name, session=session, generation=generation.number)
            raise Fenced(
                f"session {session!r} began generation {number}, and generation {generation.number} has replaced it. "
                "Start with a new session name",
                generation=generation.number,
            )
        if world_size not in (None, generation.world_size):
            raise Conflict(
                f"session {session!r} began with world_size {generation.world_size}, not {world_size}. "
                "Use a new session name for a new start"
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
        """The state dict at the slowest rank's cursor, and the time at which any rank was last seen."""
        last_seen_s = max((record.last_seen_s for record in records), default=None)
        return state_dict(run, run.sharding.normal(_slowest(run, records))), last_seen_s


def _slowest(run: Run, records: list[RankRecord]) -> Cursor:
    if len(records) < run.generation.world_size:
        return run.generation.origin
    return min(record.cursor for record in records)


def _session(run: Run, rolled_over: int | None) -> Session:
    sharding, origin, world_size = run.sharding, run.generation.origin, run.generation.world_size
    before = rolled_over if rolled_over is not None and rolled_over < world_size else 0
    if sharding.is_over(origin):
        return Session(run, origin, before, 0, rolled_over)
    planner = sharding.planner_of(origin.epoch)
    mixed = planner.mixed_steps(origin.epoch, run.generation.offset, world_size)
    left_out = before + sharding.num_left_out(origin.epoch)
    return Session(run, sharding.normal(origin), left_out, mixed, rolled_over)
