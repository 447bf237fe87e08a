"""The coordinator: the use cases behind the HTTP API, put together from maps, plans, runs and the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from bucketline_service.errors import Conflict, Damaged, TooLarge
from bucketline_service.maps import MapInfo, MapStore, ReadResult, RequestedColumns, ResolutionMap
from bucketline_service.maps.async_store import AsyncMapStore
from bucketline_service.names import few
from bucketline_service.observability.event_log import EventLog
from bucketline_service.observability.instrumented_store import instrumented
from bucketline_service.observability.metrics import Metrics
from bucketline_service.plans.plan_store import PlanStore
from bucketline_service.previews.side_by_side import Previews
from bucketline_service.runs import map_deletion_guard
from bucketline_service.runs.assignment_export import AssignmentExport
from bucketline_service.runs.delivery import Delivery
from bucketline_service.runs.image_reports import Reports
from bucketline_service.runs.ledger_export import LedgerExport
from bucketline_service.runs.queries import Queries
from bucketline_service.runs.registry import Runs
from bucketline_service.runs.run_gauges import RunGauges
from bucketline_service.runs.sessions import Sessions
from bucketline_service.runs.store_checkup import StoreCheckup
from bucketline_service.spec.run_spec import RunSpec
from bucketline_service.store.lease_decisions import SEEN_EVERY_S
from bucketline_service.store.port import RankRecord, Store

__all__ = ["Coordinator", "RunSpec"]

IN_USE_S = 60.0
"""How long a run counts as in use after one of its ranks was last seen."""

_FORCE = "delete the run anyway with ?force=true"


class Coordinator:
    """One coordinator process. Any replica can serve any request: state is in ``store``, and maps and plans are files
    that never change."""

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
        self._maps = AsyncMapStore(maps, self.event_log.emit)
        self.runs = Runs(store, self._maps, plans, clock, self.event_log)
        self.sessions = Sessions(self.runs, metrics)
        self.delivery = Delivery(self.runs, metrics, clock)
        self.reports = Reports(self.runs, metrics, clock)
        self.queries = Queries(self.runs, self.sessions, maps, clock)
        self.ledger_export = LedgerExport(self.runs, self.sessions, maps)
        self.assignment_export = AssignmentExport(self.runs, maps)
        self.previews = Previews(self._maps)
        self._checkup = StoreCheckup(store, self.event_log)
        self._run_gauges = RunGauges(self.runs, metrics)

    async def put_map(
        self, name: str, source: Path, file_format: str, columns: RequestedColumns
    ) -> tuple[ResolutionMap, bool, int]:
        """Check and store a map. The answer has the map, whether it is new, and how many rows were skipped. Another
        process reads the file."""
        read: list[ReadResult] = []
        stored, created = await self._maps.put(name, source, file_format, columns, read.append)
        if created:
            self.event_log.emit("map_put", map=name, num_images=stored.num_images, digest=stored.digest)
        return stored, created, read[0].num_skipped

    async def list_maps(self) -> list[MapInfo]:
        return await self._maps.do(self.maps.list)

    async def get_map(self, name: str) -> ResolutionMap:
        return await self._maps.do(self.maps.get, name)

    async def delete_map(self, name: str) -> None:
        await self._maps.do(self.maps.find, name)
        async with map_deletion_guard.closed(self.store, name, self._clock) as begin:
            if users := await self.runs.uses(name):
                raise Conflict(f"map {name!r} is in use by {few(users)}. Delete these runs first", runs=users)
            begin()
            await self._maps.do(self.maps.delete, name)
        self.event_log.emit("map_deleted", map=name)

    async def put_run(self, name: str, spec: RunSpec) -> bool:
        """``Runs.put`` within the limit of runs: each costs memory, and time at every scrape."""
        names = await self.runs.names()
        if len(names) >= self._max_runs and name not in names:
            raise TooLarge(
                f"the number of runs must be at most {self._max_runs:,}, and {len(names):,} exist. Delete some, or "
                "raise max_runs",
                limit=self._max_runs,
            )
        return await self.runs.put(name, spec)

    async def delete_run(self, name: str, *, force: bool = False) -> None:
        """Raises ``Conflict`` while one of its ranks is active, or may be because a record is damaged, unless
        ``force``."""
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
                f"run {run!r} may be in use: a record of it in the store is damaged, so it is unknown when its ranks "
                f"were last seen. Stop the job first, or {_FORCE}"
            ) from error

    async def refresh_gauges(self) -> None:
        """Read what ``/metrics`` reports of the store, the map root and the runs."""
        await self.is_root_there()
        await self._run_gauges.refresh()

    async def is_ready(self) -> None:
        """Raise ``StoreUnavailable`` unless the store and the maps can be used. The map root is not checked: all
        replicas would lose it at once, and without it they can still serve what they have."""
        await self.store.ping()
        await asyncio.to_thread(self.maps.check)

    @property
    def store_risks(self) -> list[str]:
        """Why the store may lose what it has acknowledged, as of the last check."""
        return self._checkup.risks

    async def is_root_there(self) -> bool:
        """Whether the map root answers; True if no root is configured."""
        is_available = await self._maps.is_root_there()
        self.metrics.set_map_root(is_available)
        return is_available

    def started(self, version: str) -> None:
        """Call once the process serves. ``close`` then reports that it has stopped."""
        self._is_started = True
        self._checkup.start()
        self.event_log.emit("coordinator_started", version=version)

    async def close(self) -> None:
        if self._is_started:
            self.event_log.emit("coordinator_stopped")
        await self._checkup.close()
        await self.queries.close()
        await self.event_log.close()
        await asyncio.to_thread(self._maps.close)
        await asyncio.to_thread(self._plans.close)
        await self.store.close()


def _check_idle(run: str, ranks: list[RankRecord], now_s: float) -> None:
    # the stored time may be older than the rank's last request
    active = [rank for rank in ranks if now_s - rank.last_seen_s < IN_USE_S + SEEN_EVERY_S]
    if not active:
        return
    last = max(active, key=lambda rank: rank.last_seen_s)
    raise Conflict(
        f"run {run!r} is in use: {len(active)} of its ranks were seen in the last minute, most recently rank "
        f"{last.rank} (holder {last.holder!r}). Stop the job first, or {_FORCE}",
        num_ranks=len(active),
        last_seen=last.last_seen_s,
    )
