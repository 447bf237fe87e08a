"""Guards against creating a run on a map that is being deleted at the same time, on any replica.

Maps are files, or objects at a map root; runs are in the store. No single operation covers both, so each side first
declares in the store what it is about to do, and then checks the other. A run is *announced*; then its maps are
checked; then it is created, which the store refuses if a map was closed since. A map is *closed*, which refuses new
announcements of runs that need it and withdraws earlier ones; then the runs are checked; then the map is deleted, and
opened again. So no order of the steps leaves a run without its map. A process that dies in between leaves an unused
announcement, or a map that stays closed for ``CLOSED_S``.
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
"""How long a map stays closed after its deletion was interrupted."""

DELETE_WITHIN_S = 60.0
"""A deletion that took longer to check the runs is abandoned: by another host's clock the map may soon be open."""

WAIT_S = 2.0
"""How long the creation of a run waits for a deletion to end."""

_PAUSE_S = 0.05


async def announce(
    store: Store,
    maps: AsyncMapStore,
    run: str,
    birth: str,
    digests: Mapping[str, str],
    clock: Callable[[], float],
) -> None:
    """Announce a run. ``digests``: those of the maps that it needs, by map name. Raises ``NotFound`` or ``Conflict`` if
    a map no longer exists, has other content, or is being deleted."""
    give_up_s = time.monotonic() + WAIT_S
    while closed := await store.announce_run(run, birth, list(digests), clock()):
        if time.monotonic() > give_up_s:
            raise Conflict(
                f"map {closed[0]!r} is being deleted. If its deletion was interrupted, it can be used again within "
                f"{CLOSED_S / 60:.0f} minutes",
                maps=closed,
            )
        await asyncio.sleep(_PAUSE_S)
    for name, digest in digests.items():
        if await maps.do(maps.maps.find, name) != digest:
            raise Conflict(
                f"map {name!r} was deleted and put again meanwhile. Put run {run!r} again", maps=[name]
            )


@asynccontextmanager
async def closed(store: Store, map: str, clock: Callable[[], float]) -> AsyncIterator[Callable[[], None]]:
    """Within this context, ``store.list_runs`` has all runs that need the map.

    It yields a function to call directly before the map is deleted, which raises ``StoreUnavailable`` if that is too
    late. If it was called and the deletion then failed, the map stays closed: the deletion may still take effect."""
    mark, begun_s, is_deleting = secrets.token_hex(8), time.monotonic(), False

    def begin() -> None:
        nonlocal is_deleting
        if time.monotonic() - begun_s > DELETE_WITHIN_S:
            raise StoreUnavailable(f"checking whether a run needs map {map!r} took too long; try again")
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
