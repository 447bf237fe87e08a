"""Many threads against one store, each with its own event loop and store object."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bucketline_service.store import Store, open_store

T = TypeVar("T")

NUM_THREADS = 8
TIMEOUT_S = 60.0


def in_store(url: str, scenario: Callable[[Store], Awaitable[T]]) -> T:
    """Run the scenario on a new event loop, with a store opened for it alone."""

    async def main() -> T:
        store = open_store(url, timeout_s=TIMEOUT_S)
        try:
            return await scenario(store)
        finally:
            await store.close()

    return asyncio.run(main())


def race(url: str, scenario: Callable[[Store, int], Awaitable[T]], num: int = NUM_THREADS) -> list[T]:
    """Run the scenario in ``num`` threads that start together; their results, by thread number."""
    start = threading.Barrier(num)

    def run(number: int) -> T:
        async def connected(store: Store) -> T:
            await store.ping()
            await asyncio.to_thread(start.wait)
            return await scenario(store, number)

        try:
            return in_store(url, connected)
        except BaseException:
            start.abort()  # else the others would wait for this one for ever
            raise

    with ThreadPoolExecutor(num) as threads:
        return list(threads.map(run, range(num)))
