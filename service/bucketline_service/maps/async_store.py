"""The map store for the event loop. What may have to ask a root far away gets threads of its own: that it is slow or
gone must not keep those waiting who need nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from bucketline_service import events
from bucketline_service.errors import Planning, StoreUnavailable
from bucketline_service.maps import MapStore, ResolutionMap

RETRY_AFTER_S = 1
PROBE_WAIT_S = 0.5
"""A root that takes longer than this counts as gone, for those who ask whether it is there."""

_NUM_THREADS = 8
_NUM_READERS = 4
"""Maps that are read at a time, each by a process; further ones wait. What is quick does not wait for them."""

_T = TypeVar("_T")


class AsyncMapStore:
    """Opens maps, and fetches those that are not here, each once. ``tell`` takes an event and its fields."""

    def __init__(self, maps: MapStore, tell: Callable[..., None]) -> None:
        self.maps = maps
        self._tell = tell
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="bucketline-maps")
        self._readers = ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="bucketline-put")
        # one at a time: they would only wait for each other, and keep the other threads from what is quick
        self._fetcher = ThreadPoolExecutor(1, thread_name_prefix="bucketline-fetch")
        self._prober = ThreadPoolExecutor(1, thread_name_prefix="bucketline-probe")
        self._fetches: dict[str, asyncio.Future[ResolutionMap]] = {}
        self._probe: asyncio.Future[None] | None = None
        self._is_gone = False

    async def do(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """Work that may ask the root."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def put(self, *arguments: Any) -> tuple[ResolutionMap, bool]:
        """``MapStore.put``."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.maps.put, *arguments)

    async def open(self, digest: str, wait_s: float) -> ResolutionMap:
        """The map with that content. Raises ``Planning`` where it is still on its way after ``wait_s``."""
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
        """Whether what the maps are shared through answers."""
        probe = self._probe
        if probe is None or probe.done():
            probe = asyncio.get_running_loop().run_in_executor(self._prober, self.maps.probe)
            self._probe = probe
        # not self._probe after this: whoever was woken before may have begun another
        done, _ = await asyncio.wait([probe], timeout=PROBE_WAIT_S)
        problem: BaseException | None = StoreUnavailable("the map root does not answer")
        if done:
            problem = probe.exception()
        was_gone, self._is_gone = self._is_gone, problem is not None
        if problem is not None and not was_gone:
            events.emit("map_root_unavailable", detail=str(problem))
            self._tell("map_root_unavailable", detail=str(problem))
        if problem is None and was_gone:
            self._tell("map_root_back")
        return problem is None

    def close(self) -> None:
        self.maps.close()
        for threads in (self._threads, self._readers, self._fetcher, self._prober):
            threads.shutdown(wait=True, cancel_futures=True)

    def _fetched(self, digest: str, done: asyncio.Future[ResolutionMap]) -> None:
        self._fetches.pop(digest, None)
        if not done.cancelled():
            done.exception()  # one that nobody waits for is still no "exception was never retrieved"
