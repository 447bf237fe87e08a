"""The warnings of runs: computed once for each run and number of ranks, and remembered."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
from cachetools import LRUCache

from bucketline_service.planning.images import Images
from bucketline_service.planning.plan_stats import epoch_stats
from bucketline_service.planning.unreached_sizes import occupied, unreached_sizes
from bucketline_service.runs.run import Run
from bucketline_service.spec.advice import PlanWarning, plan_warnings

NUM_KEPT = 256
"""Runs and numbers of ranks whose warnings are remembered."""

Found = list[PlanWarning]
_log = logging.getLogger("bucketline")


class PlanWarnings:
    """One at a time, in a thread: each takes a pass over the sizes of the run's images."""

    def __init__(self) -> None:
        self._tasks: LRUCache[tuple[bytes, int], asyncio.Task[Found]] = LRUCache(NUM_KEPT)
        self._turn = asyncio.Lock()

    def known(self, run: Run) -> Found | None:
        """What ``of`` has found before; None if nobody has asked, and while it is being computed."""
        task = self._tasks.get(_key(run))
        return None if task is None or not task.done() or _has_failed(task) else task.result()

    async def of(self, run: Run, wait_s: float) -> Found | None:
        """What of the run's plan would surprise, as its present number of ranks trains epoch 0 from its start. None if
        that is not known within ``wait_s`` seconds; it is computed all the same, for a later call."""
        key = _key(run)
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(self._find(run))
            task.add_done_callback(_log_failure)
        done, _ = await asyncio.wait([task], timeout=wait_s)
        # advice that cannot be had is no reason to refuse what was asked for
        return task.result() if done and not _has_failed(task) else None

    async def close(self) -> None:
        """End what is being computed."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _find(self, run: Run) -> Found:
        async with self._turn:
            return await asyncio.to_thread(_find, run)


def _log_failure(task: asyncio.Task[Found]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("the warnings of a plan could not be found", exc_info=task.exception())


def _has_failed(task: asyncio.Task[Found]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _key(run: Run) -> tuple[bytes, int]:
    return run.encoded, run.generation.world_size


def _find(run: Run) -> Found:
    plan, world_size = run.plan, run.generation.world_size
    sharded = run.sharded_to(world_size)
    laid = sharded.laid(0)
    stats = epoch_stats(laid.spec, plan.prepared, plan.sources.images, laid.planner, 0, world_size)
    lists_sizes = run.spec.ladder.lists_sizes
    unreached = unreached_sizes(laid.spec, _images(run), occupied(stats), with_unsought=lists_sizes)
    return plan_warnings(run.spec, laid.spec, stats, unreached, world_size)


def _images(run: Run) -> Images:
    """All images of the maps; with ``valid_ids`` those that were planned."""
    plan = run.plan
    if all(each.valid_ids is None for each in run.spec.sources):
        return plan.sources.images
    rows = plan.prepared.order.astype(np.int64)
    return Images(plan.sources.distinct(rows, with_frames=run.spec.frame_buckets is not None))
