"""Floor 2, the use cases: what the API, the CLI and the dashboard call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from bucketline_service.errors import Conflict, Damaged, TooLarge
from bucketline_service.maps import (
    MapInfo,
    MapStore,
    ReadResult,
    RequestedColumns,
    ResolutionMap,
)
from bucketline_service.maps.async_store import AsyncMapStore
from bucketline_service.names import few
from bucketline_service.observability.event_log import EventLog
from bucketline_service.observability.instrumented_store import instrumented
from bucketline_service.observability.metrics import Metrics
from bucketline_service.plans.plan_store import PlanStore
from bucketline_service.previews.side_by_side import Previews
from bucketline_service.runs import map_deletion_guard
from bucketline_service.runs.delivery import Delivery
from bucketline_service.runs.ledger_export import LedgerExport
from bucketline_service.runs.queries import Queries
from bucketline_service.runs.registry import Runs
from bucketline_service.runs.run_gauges import RunGauges
from bucketline_service.runs.sessions import Sessions
from bucketline_service.runs.store_checkup import StoreCheckup
from bucketline_service.spec.run_spec import RunSpec
from bucketline_service.store.port import RankRecord, Store
from bucketline_service.store.rules import SEEN_EVERY_S

__all__ = ["Coordinator", "RunSpec"]

IN_USE_S = 60.0
"""For how long after a rank was heard of its run counts as in use."""

_ALL_THE_SAME = "delete the run all the same with ?force=true"


class Coordinator:
    """One coordinator process. It owns nothing that another replica could not do as well: state is in ``store``, maps
    and plans are files that are never changed."""

    def __init__(
        self,
        store: Store,
        maps: MapStore,
        plans: PlanStore,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        *,
        max_runs: int = 1000,
    ) -> None:
        self.store = store = instrumented(store, metrics.store_seconds)
        self.maps = maps
        self.metrics = metrics
        self._clock = clock
        self._plans = plans
        self._max_runs = max_runs
        self._is_started = False
        self.event_log = EventLog(store, clock)
        self._library = AsyncMapStore(maps, self.event_log.emit)
        self.runs = Runs(store, self._library, plans, clock, self.event_log)
        self.sessions = Sessions(self.runs, metrics)
        self.delivery = Delivery(self.runs, metrics, clock)
        self.queries = Queries(self.runs, self.sessions, maps, clock)
        self.ledger_export = LedgerExport(self.runs, self.sessions, maps)
        self.previews = Previews(self._library)
        self._checkup = StoreCheckup(store, self.event_log)
        self._run_gauges = RunGauges(self.runs, metrics)

    async def put_map(
        self, name: str, source: Path, file_format: str, columns: RequestedColumns
    ) -> tuple[ResolutionMap, bool, int]:
        """Check and store a map; True where it is new; how many rows were skipped. It is read by another process."""
        read: list[ReadResult] = []
        stored, created = await self._library.put(name, source, file_format, columns, read.append)
        if created:
            self.event_log.emit("map_put", map=name, num_images=stored.num_images, digest=stored.digest)
        return stored, created, read[0].num_skipped

    async def list_maps(self) -> list[MapInfo]:
        return await self._library.do(self.maps.list)

    async def get_map(self, name: str) -> ResolutionMap:
        return await self._library.do(self.maps.get, name)

    async def delete_map(self, name: str) -> None:
        await self._library.do(self.maps.find, name)
        async with map_deletion_guard.closed(self.store, name, self._clock) as begin:
            if users := await self.runs.uses(name):
                raise Conflict(f"map {name!r} is in use by {few(users)}. Delete these runs first", runs=users)
            begin()
            await self._library.do(self.maps.delete, name)
        self.event_log.emit("map_deleted", map=name)

    async def put_run(self, name: str, spec: RunSpec) -> bool:
        """``Runs.put``, but for a run that would be one too many: each costs memory, and time at every scrape."""
        names = await self.runs.names()
        if len(names) >= self._max_runs and name not in names:
            raise TooLarge(
                f"there are {len(names):,} runs, and this coordinator takes {self._max_runs:,}: delete some, or raise "
                "max_runs",
                limit=self._max_runs,
            )
        return await self.runs.put(name, spec)

    async def delete_run(self, name: str, *, force: bool = False) -> None:
        """``Conflict`` while any of its ranks is at work, or may be as a record is damaged, unless ``force``."""
        if not force:
            _check_idle(name, await self._ranks(name), self._clock())
        await self.runs.delete(name)
        self.event_log.emit("run_deleted", name)
        self.metrics.forget_run(name)

    async def _ranks(self, run: str) -> list[RankRecord]:
        try:
            return (await self.store.ranks(run))[1]
        except Damaged as error:
            raise Conflict(
                f"run {run!r} may be in use: a record of it in the store is damaged, so that nobody can tell when its "
                f"ranks were heard of. Stop the job first, or {_ALL_THE_SAME}"
            ) from error

    async def refresh_gauges(self) -> None:
        """Read what ``/metrics`` tells of the store, the map root and the runs."""
        await self.is_root_there()
        await self._run_gauges.refresh()

    async def is_ready(self) -> None:
        """Raise ``StoreUnavailable`` unless store and maps can be used. A map root is not asked: all replicas would
        lose it at once, and can serve without it what they have."""
        await self.store.ping()
        await asyncio.to_thread(self.maps.check)

    @property
    def store_risks(self) -> list[str]:
        """Why the store may lose what it has acknowledged, as far as it was seen when it was looked at last."""
        return self._checkup.risks

    async def is_root_there(self) -> bool:
        """Whether the map root answers; True where there is none."""
        there = await self._library.is_root_there()
        self.metrics.tell_map_root(there)
        return there

    def started(self, version: str) -> None:
        """Told once it serves; that it has stopped is told then as well."""
        self._is_started = True
        self._checkup.start()
        self.event_log.emit("coordinator_started", version=version)

    async def close(self) -> None:
        if self._is_started:
            self.event_log.emit("coordinator_stopped")
        await self._checkup.close()
        await self.event_log.close()
        await asyncio.to_thread(self._library.close)
        await asyncio.to_thread(self._plans.close)
        await self.store.close()


def _check_idle(run: str, ranks: list[RankRecord], now_s: float) -> None:
    # what is stored may be older than when the rank was last heard of
    at_work = [rank for rank in ranks if now_s - rank.last_seen_s < IN_USE_S + SEEN_EVERY_S]
    if not at_work:
        return
    last = max(at_work, key=lambda rank: rank.last_seen_s)
    raise Conflict(
        f"run {run!r} is in use: the coordinator heard of {len(at_work)} of its ranks in the last minute, last of rank "
        f"{last.rank} (holder {last.holder!r}). Stop the job first, or {_ALL_THE_SAME}",
        num_ranks=len(at_work),
        last_seen=last.last_seen_s,
    )
