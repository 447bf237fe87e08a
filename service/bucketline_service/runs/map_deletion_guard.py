"""What keeps a run from being put on a map that is deleted at the same time, through whatever replicas.

Maps are files, or objects at a root; runs are in the store. No one operation does both, so each side first says what it
is about to do and then looks. A run is *announced* in the store; then its maps are looked at; then it is created, which
the store refuses if a map was closed since it was announced. A map is *closed* in the store, which refuses
announcements of runs that need it and withdraws those that were made before; then the runs are looked at; then it is
deleted, and opened again. So no order of the steps leaves a run whose map is gone. Whoever dies on the way leaves an
announcement that nobody uses, or a map that is closed for ``CLOSED_S``.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from bucketline_service.errors import Conflict, NotFound, StoreUnavailable
from bucketline_service.maps.async_store import AsyncMapStore
from bucketline_service.store.port import Store

CLOSED_S = 300.0
"""How long a map stays closed whose deletion was broken off."""

DELETE_WITHIN_S = 60.0
"""A deletion that took longer over the runs is given up: by the clock of another host its map may soon be open."""

WAIT_S = 2.0
"""How long a run that is put waits for the end of a deletion."""

_PAUSE_S = 0.05


async def announce(
    store: Store,
    library: AsyncMapStore,
    run: str,
    birth: str,
    digests: Mapping[str, str],
    clock: Callable[[], float],
) -> None:
    """``digests``: of the maps that the run needs, by their names. Raises ``NotFound`` or ``Conflict`` where one is not
    there any more, or is another, or is being deleted."""
    give_up_s = time.monotonic() + WAIT_S
    while closed := await store.announce_run(run, birth, list(digests), clock()):
        if time.monotonic() > give_up_s:
            raise Conflict(
                f"map {closed[0]!r} is being deleted. Should its deletion have been broken off, it can be used again "
                f"within {CLOSED_S / 60:.0f} minutes",
                maps=closed,
            )
        await asyncio.sleep(_PAUSE_S)
    for name, digest in digests.items():
        if await library.do(library.maps.find, name) != digest:
            raise Conflict(
                f"map {name!r} was deleted and put anew meanwhile: put run {run!r} again", maps=[name]
            )


@asynccontextmanager
async def closed(store: Store, map: str, clock: Callable[[], float]) -> AsyncIterator[Callable[[], None]]:
    """While it lasts, ``store.list_runs`` has all runs that need the map. It yields what must be called right before
    the map is deleted, and raises ``StoreUnavailable`` where it is too late to do so. The map stays closed where that
    was called and the deletion then failed: nobody knows whether it takes effect later."""
    mark, begun_s, is_deleting = secrets.token_hex(8), time.monotonic(), False

    def begin() -> None:
        nonlocal is_deleting
        if time.monotonic() - begun_s > DELETE_WITHIN_S:
            raise StoreUnavailable(f"looking whether a run needs map {map!r} took too long; ask again")
        is_deleting = True

    await store.close_map(map, mark, clock() + CLOSED_S)
    is_known = False
    try:
        yield begin
        is_known = True
    except NotFound:
        is_known = True
        raise
    finally:
        if is_known or not is_deleting:
            with suppress(StoreUnavailable):
                await store.open_map(mark)
