"""A process that writes to a store, for tests that run several, or kill one.

``writer.py lease URL RUN N``: take rank 0's lease N times, each time as another holder; print the tokens. ``writer.py
commit URL RUN``: advance four ranks at once until the store is down; print each rank and step when, and only when, it
was acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys

from bucketline_service.errors import StoreUnavailable
from bucketline_service.store import LEASE_STRIDE, CommitRequest, Cursor, Store, open_store


async def take_leases(store: Store, run: str, num: int) -> None:
    of = (await store.read_run(run)).generation.id
    for i in range(num):
        leased = await store.lease(run, 0, f"{os.getpid()}-{i}", of, LEASE_STRIDE, 0.0)
        assert leased is not None
        print(leased.lease)


async def move(store: Store, run: str, rank: int) -> None:
    of = (await store.read_run(run)).generation.id
    leased = await store.lease(run, rank, "writer", of, LEASE_STRIDE + rank, 0.0)
    assert leased is not None
    for step in itertools.count(1):
        await store.commit(
            run, CommitRequest(rank, leased.lease, of, Cursor(0, step), None, False, float(step))
        )
        print(rank, step, flush=True)


async def main(verb: str, url: str, run: str, num: str = "0") -> None:
    store = open_store(url, timeout_s=60.0)
    try:
        if verb == "lease":
            await take_leases(store, run, int(num))
        else:
            await asyncio.gather(*(move(store, run, rank) for rank in range(4)))
    except StoreUnavailable as exc:
        print("gone", exc, file=sys.stderr)
    finally:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
