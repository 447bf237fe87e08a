"""The map store for the event loop: each kind of work has its own threads, so that a slow or unreachable root does not
delay requests that do not need it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from bucketline_service.errors import Planning, StoreUnavailable
from bucketline_service.maps import MapStore, ResolutionMap

RETRY_AFTER_S = 1
PROBE_WAIT_S = 0.5
"""A root that takes longer to respond than this is reported as unavailable."""

_NUM_THREADS = 8
_NUM_READERS = 4
"""Maps that are read at once, each by a process; others wait without delaying short requests."""

_T = TypeVar("_T")


class AsyncMapStore:
    """``maps`` in threads. A map is fetched from the root once at a time. ``tell`` records an event with its fields."""

    def __init__(self, maps: MapStore, tell: Callable[..., None]) -> None:
        self.maps = maps
        self._tell = tell
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="bucketline-maps")
        self._readers = ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="bucketline-put")
        # a single thread, since fetches wait for each other at a lock
        self._fetcher = ThreadPoolExecutor(1, thread_name_prefix="bucketline-fetch")
        self._prober = ThreadPoolExecutor(1, thread_name_prefix="bucketline-probe")
        self._fetches: dict[str, asyncio.Future[ResolutionMap]] = {}
        self._probe: asyncio.Future[None] | None = None
        self._is_unavailable = False

    async def do(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """Run work that may make requests to the root."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def put(self, *arguments: Any) -> tuple[ResolutionMap, bool]:
        """``MapStore.put``."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.maps.put, *arguments)

    async def open(self, digest: str, wait_s: float) -> ResolutionMap:
        """The map with that digest. ``Planning`` where it is still being fetched after ``wait_s``."""
        found = await asyncio.to_thread(self.maps.here, digest)
        if found is not None:
            return found
        fetch = self._fetches.get(digest)
        if fetch is None:
            loop = asyncio.get_running_loop()
            fetch = self._fetches[digest] = loop.run_in_executor(self._fetcher, self.maps.get_digest, digest)
            fetch.add_done_callback(lambda done: self._fetched(digest, done))
        done, _ = await asyncio.wait([fetch], timeout=wait_s)
        if not done:
            raise Planning("the map is being fetched", retry_after=RETRY_AFTER_S)
        return fetch.result()

    async def is_root_there(self) -> bool:
        """Whether the shared root responds. Records an event when that changes."""
        probe = self._probe
        if probe is None or probe.done():
            probe = asyncio.get_running_loop().run_in_executor(self._prober, self.maps.probe)
            self._probe = probe
            probe.add_done_callback(_retrieve)
        # below use probe, not self._probe, which another request may have replaced
        done, _ = await asyncio.wait([probe], timeout=PROBE_WAIT_S)
        problem: BaseException | None = StoreUnavailable("the map root does not respond")
        if done:
            problem = probe.exception()
        was_unavailable, self._is_unavailable = self._is_unavailable, problem is not None
        if problem is not None and not was_unavailable:
            self._tell("map_root_unavailable", detail=str(problem))
        if problem is None and was_unavailable:
            self._tell("map_root_back")
        return problem is None

    def close(self) -> None:
        self.maps.close()
        for threads in (self._threads, self._readers, self._fetcher, self._prober):
            threads.shutdown(wait=True, cancel_futures=True)

    def _fetched(self, digest: str, done: asyncio.Future[ResolutionMap]) -> None:
        self._fetches.pop(digest, None)
        _retrieve(done)


def _retrieve(done: asyncio.Future[Any]) -> None:
    """Prevents "exception was never retrieved" where no request waits for it any more."""
    if not done.cancelled():
        done.exception()
