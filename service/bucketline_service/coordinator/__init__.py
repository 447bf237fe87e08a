"""Floor 2, the use cases: what the API, the CLI and the dashboard call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from bucketline_service.coordinator.answers import Answers
from bucketline_service.coordinator.delivery import Delivery
from bucketline_service.coordinator.ledger import Ledgers
from bucketline_service.coordinator.library import Library
from bucketline_service.coordinator.plans import PlanShelf
from bucketline_service.coordinator.previews import Previews
from bucketline_service.coordinator.runs import Runs
from bucketline_service.coordinator.sessions import Sessions
from bucketline_service.coordinator.spec import RunSpec
from bucketline_service.errors import BucketlineError, Conflict, StoreUnavailable, TooLarge
from bucketline_service.maps import Columns, MapInfo, MapStore, ResolutionMap
from bucketline_service.metrics import Metrics
from bucketline_service.state.port import Store

__all__ = ["Coordinator", "RunSpec"]


class Coordinator:
    """One coordinator process. It owns nothing that another replica could not do as well: state is in ``store``, maps
    and plans are files that are never changed."""

    def __init__(
        self,
        store: Store,
        maps: MapStore,
        plans: PlanShelf,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        *,
        max_runs: int = 1000,
    ) -> None:
        self.store = store
        self.maps = maps
        self.metrics = metrics
        self._plans = plans
        self._max_runs = max_runs
        self._library = Library(maps)
        self.runs = Runs(store, self._library, plans, clock)
        self.sessions = Sessions(self.runs, metrics)
        self.delivery = Delivery(self.runs, metrics, clock)
        self.answers = Answers(self.runs, self.sessions, maps)
        self.ledgers = Ledgers(self.runs, self.sessions, maps)
        self.previews = Previews(self._library)

    async def put_map(
        self, name: str, source: Path, file_format: str, columns: Columns
    ) -> tuple[ResolutionMap, bool]:
        """Check and store a map; True where it is new. Reading happens off the event loop."""
        return await self._library.do(self.maps.put, name, source, file_format, columns)

    async def list_maps(self) -> list[MapInfo]:
        return await self._library.do(self.maps.list)

    async def get_map(self, name: str) -> ResolutionMap:
        return await self._library.do(self.maps.get, name)

    async def delete_map(self, name: str) -> None:
        await self._library.do(self.maps.find, name)
        if users := await self.runs.uses(name):
            raise Conflict(
                f"map {name!r} is in use by {', '.join(users[:5])}. Delete these runs first", runs=users
            )
        await self._library.do(self.maps.delete, name)

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

    async def delete_run(self, name: str) -> None:
        await self.runs.delete(name)
        self.metrics.forget_run(name)

    async def refresh_gauges(self) -> None:
        """Set what is read rather than counted: each run's slowest rank and its lag. A run that is not ready has none,
        nor has one that was deleted through another replica."""
        await self.is_root_there()
        names = await self.runs.names()
        for name in names:
            try:
                ranks = await self.answers.ranks(name)
            except StoreUnavailable:
                raise
            except BucketlineError:
                self.metrics.forget_gauges(name)
                continue
            slowest = max(ranks, key=lambda rank: int(rank["steps_behind"]))
            self.metrics.rank_lag.labels(name).set(slowest["steps_behind"])
            self.metrics.slowest_epoch.labels(name).set(slowest["epoch"])
            self.metrics.slowest_step.labels(name).set(slowest["step"])
        for name in self.metrics.runs() - set(names):
            self.metrics.forget_run(name)

    async def is_ready(self) -> None:
        """Raise ``StoreUnavailable`` unless store and maps can be used. A map root is not asked: all replicas would
        lose it at once, and can serve without it what they have."""
        await self.store.ping()
        await asyncio.to_thread(self.maps.check)

    async def is_root_there(self) -> bool:
        """Whether the map root answers; True where there is none."""
        there = await self._library.is_root_there()
        self.metrics.map_root_up.set(there)
        return there

    async def close(self) -> None:
        await asyncio.to_thread(self._library.close)
        await asyncio.to_thread(self._plans.close)
        await self.store.close()
