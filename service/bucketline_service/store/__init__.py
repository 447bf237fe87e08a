"""The cursor store: one port, and the back ends behind it.

``open_store`` turns a URL into a store. Opening does nothing yet: the first verb connects, so that a store
may be opened before it is up, and before a server forks its workers.
"""

from __future__ import annotations

from bucketline_service import errors
from bucketline_service.store.port import (
    LEASE_STRIDE,
    Begun,
    Commit,
    CommitRequest,
    Cursor,
    Generation,
    GenerationId,
    KeptEvent,
    NewEvent,
    Outcome,
    RankRecord,
    RunRecord,
    Store,
    Withdrawn,
)

__all__ = [
    "LEASE_STRIDE",
    "Begun",
    "Commit",
    "CommitRequest",
    "Cursor",
    "Generation",
    "GenerationId",
    "KeptEvent",
    "NewEvent",
    "Outcome",
    "RankRecord",
    "RunRecord",
    "Store",
    "Withdrawn",
    "open_store",
]

REDIS_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
HINT = (
    "Use sqlite:///relative/path, sqlite:////absolute/path, redis://host:port/db, unix:///path/to/redis.sock, "
    "redis+sentinel://host1:port1,host2:port2/service/db or redis+cluster://host1:port1,host2:port2; "
    "rediss in place of redis for TLS"
)


def open_store(url: str, *, timeout_s: float = 2.0) -> Store:
    """The store behind ``url``. A verb answers within ``timeout_s`` seconds or raises ``StoreUnavailable``.

    Open one for each event loop: a Redis store belongs to the loop that first uses it. Stores on the same URL
    are safe against each other. Raises ``Invalid`` where the URL is of no kind known here, or malformed.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite":
        return _open_sqlite(rest, timeout_s)
    if separator and scheme in REDIS_SCHEMES:
        return _open_redis(url, timeout_s)
    raise errors.Invalid("store", f"no store for {scheme + separator!r}", HINT)


def _open_sqlite(rest: str, timeout_s: float) -> Store:
    from bucketline_service.store.sqlite.store import SqliteStore

    path = rest[1:]
    if not rest.startswith("/") or path in ("", "/", ":memory:"):
        raise errors.Invalid("store", f"sqlite://{rest} names no file", HINT)
    return SqliteStore(path, timeout_s=timeout_s)


def _open_redis(url: str, timeout_s: float) -> Store:
    # redis is slow to import, and a server on SQLite never needs it
    from bucketline_service.store.redis.store import open_redis

    return open_redis(url, timeout_s=timeout_s)
