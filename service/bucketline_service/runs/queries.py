"""What operators query of a run: status, cost summary, ranks, and where an image is. No query moves a cursor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from bucketline_service.errors import Damaged, NotFound
from bucketline_service.maps import MapStore
from bucketline_service.planning.plan_stats import epoch_stats
from bucketline_service.runs.image_placement import image_placement
from bucketline_service.runs.plan_warnings import PlanWarnings
from bucketline_service.runs.progress import epoch_progress, mean_rate
from bucketline_service.runs.registry import STATUS_WAIT_S, WAIT_FOR_PLAN_S, Runs
from bucketline_service.runs.run import Run
from bucketline_service.runs.run_document import RunDocument
from bucketline_service.runs.sessions import Sessions
from bucketline_service.runs.sharding import Sharding
from bucketline_service.spec.advice import PlanWarning, not_at_start
from bucketline_service.store.port import Cursor, Generation, RankRecord

_UNKNOWN = dict.fromkeys(
    [
        *("progress", "fingerprint", "spec", "map_digests", "created_at"),
        *(
            "generation",
            "session",
            "world_size",
            "num_steps",
            "state",
            "last_seen",
            "epoch_progress",
            "warnings",
        ),
    ]
)
"""The fields of a run about which nothing is known."""


class Queries:
    """The answers are JSON-able."""

    def __init__(self, runs: Runs, sessions: Sessions, maps: MapStore, clock: Callable[[], float]) -> None:
        self._runs = runs
        self._sessions = sessions
        self._maps = maps
        self._clock = clock
        self._warnings = PlanWarnings()

    async def close(self) -> None:
        await self._warnings.close()

    async def run(self, name: str) -> dict[str, Any]:
        """The run's spec, its status, the state dict at the slowest rank's cursor, and, as soon as they are known, the
        warnings about its plan."""
        about, run, _ = await self._standing(name)
        if run is None:
            return about
        return {**about, "warnings": _documents(await self._warnings.of(run, STATUS_WAIT_S))}

    async def put_run(self, name: str) -> dict[str, Any]:
        """The same of a run that was just put: if it had been put before and was trained on, that is a warning too."""
        about, run, records = await self._standing(name)
        if run is None:
            return about
        found = await self._warnings.of(run, WAIT_FOR_PLAN_S)
        furthest = max((record.cursor for record in records), default=run.generation.origin)
        if furthest != Cursor(0, 0):
            found = [*(found or []), not_at_start(*run.sharding.normal(furthest))]
        return {**about, "warnings": _documents(found)}

    async def _standing(self, name: str) -> tuple[dict[str, Any], Run | None, list[RankRecord]]:
        """What is known of the run without its warnings; and if its plan is ready, the run and its ranks."""
        document, record = await self._runs.read(name)
        status, detail = await self._runs.status(name, document)
        about = {"run": name, "status": status, "detail": detail, **_UNKNOWN}
        if status != "ready":
            progress = self._runs.progress(document) if status == "planning" else None
            about |= {"progress": progress, **_spec(document), **_start(record.generation)}
            return about, None, []
        run = await self._runs.open_record(name, document, record)
        run, records = await self._runs.with_ranks(run)
        state, last_seen_s = self._sessions.standing(run, records)
        is_over = run.sharding.is_over(Cursor(state["epoch"], state["step"]))
        about |= {
            **_spec(run.document),
            **_start(run.generation),
            "num_steps": 0 if is_over else run.sharding.num_steps(state["epoch"]),
            "state": state,
            "last_seen": last_seen_s,
            "epoch_progress": epoch_progress(run, records, self._clock()),
        }
        return about, run, records

    async def runs(self) -> list[dict[str, Any]]:
        """All runs, by name; only with warnings that are known already. A run whose record is damaged is ``failed``,
        with what can be read of it."""
        found = []
        for name in await self._runs.names():
            try:
                about, run, _ = await self._standing(name)
                known = None if run is None else self._warnings.known(run)
                found.append({**about, "warnings": _documents(known)})
            except NotFound:  # deleted since it was listed
                continue
            except Damaged as error:
                found.append(await self._damaged(name, error))
        return found

    async def _damaged(self, name: str, error: Damaged) -> dict[str, Any]:
        about = {"run": name, "status": "failed", "detail": error.detail, **_UNKNOWN}
        with suppress(Damaged, NotFound):
            record = await self._runs.store.read_run(name)
            about |= _start(record.generation)
            about |= _spec(RunDocument.decode(name, record.document))
        return about

    async def stats(self, name: str) -> dict[str, Any]:
        return await self.stats_of(*await self.present(name))

    async def present(self, name: str) -> tuple[Run, int]:
        """The run, and the slowest rank's epoch."""
        run, state = await self._sessions.state(await self._runs.open(name))
        return run, min(state["epoch"], run.sharding.end_epoch - 1)

    async def stats_of(self, run: Run, epoch: int) -> dict[str, Any]:
        """The cost summary of an epoch that the present generation's ranks train from its start."""
        return await asyncio.to_thread(_stats, run, epoch)

    async def ranks(self, name: str) -> list[dict[str, Any]]:
        """Every rank of the present generation, by rank. One that never took a lease stands at the origin."""
        run, records = await self._runs.with_ranks(await self._runs.open(name, STATUS_WAIT_S))
        # in a thread: there may be thousands of ranks, and epochs whose steps have to be counted
        return await asyncio.to_thread(_ranks, run, {record.rank: record for record in records})

    async def image(
        self, name: str, image_id: int | str, epoch: int | None, map_name: str | None = None
    ) -> dict[str, Any]:
        """Where an image is in an epoch, the present one if None is given. ``map_name``: required if the id is in
        several maps of the run."""
        if epoch is None:
            run, epoch = await self.present(name)
        else:
            run = await self._runs.open(name)
        row = run.plan.sources.find(image_id, map_name)
        run.sharding.check_exists("", Cursor(epoch, 0))
        return await asyncio.to_thread(image_placement, run, self._maps, row, epoch)


def _documents(warnings: list[PlanWarning] | None) -> list[dict[str, str]] | None:
    return None if warnings is None else [each._asdict() for each in warnings]


def _spec(document: RunDocument) -> dict[str, Any]:
    return {
        "fingerprint": document.fingerprint,
        "spec": document.spec.to_json(),
        "map_digests": document.map_digests,
        "created_at": document.created_at_s,
    }


def _start(generation: Generation) -> dict[str, Any]:
    return {
        "generation": generation.number,
        "session": generation.session,
        "world_size": generation.world_size,
    }


def _stats(run: Run, epoch: int) -> dict[str, Any]:
    plan, laid, world_size = run.plan, run.laid(epoch), run.generation.world_size
    stats = epoch_stats(laid.spec, plan.prepared, plan.sources.images, laid.planner, epoch, world_size)
    for name, share in zip(plan.sources.names, stats["maps"], strict=True):
        share["map"] = name
    return {
        "run": run.name,
        "fingerprint": run.document.fingerprint,
        "planner": plan.spec.planner,
        "epoch": epoch,
        "world_size": world_size,
        "lockstep": run.lockstep(epoch),
        **stats,
    }


def _ranks(run: Run, records: dict[int, RankRecord]) -> list[dict[str, Any]]:
    """``records``: by rank."""
    sharding = run.sharding
    cursors = [record.cursor for record in records.values()] or [run.generation.origin]
    leader = max(map(sharding.normal, cursors))
    return [_rank(sharding, rank, records.get(rank), leader) for rank in range(run.generation.world_size)]


def _rank(sharding: Sharding, rank: int, record: RankRecord | None, leader: Cursor) -> dict[str, Any]:
    cursor = sharding.normal(record.cursor if record else sharding.origin)
    return {
        "rank": rank,
        "epoch": cursor.epoch,
        "step": cursor.step,
        "holder": (record.holder or None) if record else None,
        "last_seen": record.last_seen_s if record else None,
        "steps_behind": sharding.distance(cursor, leader),
        "batches_per_s": mean_rate(sharding, record) if record else None,
    }
