"""The gauges of runs, read from the store at each scrape: where each run stands, in one call per open run."""

from __future__ import annotations

import asyncio

from bucketline_service.errors import BucketlineError, Damaged, NotFound, Planning, StoreUnavailable
from bucketline_service.observability.metrics import Metrics, RunGaugeValues
from bucketline_service.runs.registry import STATUS_WAIT_S, Runs
from bucketline_service.runs.run import Run
from bucketline_service.store.port import RankRecord


class RunGauges:
    """Scrapes at the same time share one read of the store."""

    def __init__(self, runs: Runs, metrics: Metrics) -> None:
        self._runs = runs
        self._metrics = metrics
        self._refreshing: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Read all runs into the metrics. Raises ``StoreUnavailable``; the gauges then have no runs."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._read_all())
            # retrieve the exception even if no scrape waits any longer
            self._refreshing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._refreshing)

    async def _read_all(self) -> None:
        found: dict[str, RunGaugeValues] = {}
        try:
            for name in await self._runs.names():
                reading = await self._read(name)
                if reading is not None:
                    found[name] = reading
        except StoreUnavailable:
            self._metrics.set_store_down()
            raise
        await asyncio.to_thread(self._metrics.set_runs, found)  # thousands of series, with a thousand runs

    async def _read(self, name: str) -> RunGaugeValues | None:
        """None if the run was deleted since it was listed."""
        try:
            run, records = await self._runs.with_ranks(await self._runs.recall(name, STATUS_WAIT_S))
        except Planning:
            return RunGaugeValues("planning")
        except StoreUnavailable:
            # if it is the store, the next call raises it again; a disk or a map affects this run alone
            return RunGaugeValues("planning") if await self._exists(name) else None
        except BucketlineError:
            return RunGaugeValues("failed") if await self._exists(name) else None
        # in a thread: there may be thousands of ranks, and epochs whose steps have to be counted
        return await asyncio.to_thread(_values, run, records)

    async def _exists(self, name: str) -> bool:
        try:
            await self._runs.read(name)
        except NotFound:
            return False
        except Damaged:
            return True
        return True


def _values(run: Run, records: list[RankRecord]) -> RunGaugeValues:
    generation, sharding = run.generation, run.sharding
    num_ranks, num_leased = generation.world_size, len(records)
    values: dict[str, float] = {}
    values |= {"generation": generation.number, "ranks": num_ranks, "leased_ranks": num_leased}
    leader = max((record.cursor for record in records), default=generation.origin)
    if num_leased < num_ranks:  # a rank that never took a lease is at the origin
        held = {record.rank for record in records}
        slowest, cursor = next(rank for rank in range(num_ranks) if rank not in held), generation.origin
    else:
        last = min(records, key=lambda record: (record.cursor, record.last_seen_s))
        slowest, cursor = last.rank, last.cursor
        values["slowest_rank_seen_timestamp_seconds"] = last.last_seen_s
    if records:
        values["last_seen_timestamp_seconds"] = max(record.last_seen_s for record in records)
    cursor, is_done = sharding.normal(cursor), sharding.is_over(sharding.normal(cursor))
    values |= {
        "rank_lag_steps": sharding.distance(cursor, sharding.normal(leader)),
        "slowest_rank": slowest,
        "slowest_epoch": cursor.epoch,
        "slowest_step": cursor.step,
        "epoch_steps": 0 if is_done else sharding.num_steps(cursor.epoch),
        "done": is_done,
    }
    return RunGaugeValues("ready", values)
