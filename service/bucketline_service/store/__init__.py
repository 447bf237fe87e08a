"""The cursor store: one port (``port.py``), and its implementations in SQLite and Redis.

``open_store`` turns a URL into a store. Opening does not connect: the first verb does, so a store can be opened before
its server is up, and before a process forks its workers.
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
    ImageReport,
    ImageReports,
    KeptEvent,
    NewEvent,
    NewReport,
    Outcome,
    Place,
    RankRecord,
    Reported,
    ReportOutcome,
    RunRecord,
    Store,
    Withdrawn,
)
from bucketline_service.store.store_kinds import BY_SCHEME, URL_HINT, StoreKind

__all__ = [
    "LEASE_STRIDE",
    "Begun",
    "Commit",
    "CommitRequest",
    "Cursor",
    "Generation",
    "GenerationId",
    "ImageReport",
    "ImageReports",
    "KeptEvent",
    "NewEvent",
    "NewReport",
    "Outcome",
    "Place",
    "RankRecord",
    "ReportOutcome",
    "Reported",
    "RunRecord",
    "Store",
    "Withdrawn",
    "open_store",
]


def open_store(url: str, *, timeout_s: float = 2.0) -> Store:
    """The store that ``url`` names. Each of its verbs answers within ``timeout_s`` seconds or raises
    ``StoreUnavailable``.

    Open one per event loop: a Redis store belongs to the loop that first uses it. Stores opened on the same URL are
    safe against each other. Raises ``Invalid`` if the URL has an unknown scheme or is malformed.
    """
    scheme, separator, rest = url.partition("://")
    kind = BY_SCHEME.get(scheme) if separator else None
    if kind is None:
        raise errors.Invalid("store", f"must be the URL of a store, got {scheme + separator!r}", URL_HINT)
    return _open_sqlite(rest, timeout_s) if kind.name == "sqlite" else _open_redis(url, kind, timeout_s)


def _open_sqlite(rest: str, timeout_s: float) -> Store:
    from bucketline_service.store.sqlite.store import SqliteStore

    path = rest[1:]
    if not rest.startswith("/") or path in ("", "/", ":memory:"):
        raise errors.Invalid("store", f"must name a file, got sqlite://{rest}", URL_HINT)
    return SqliteStore(path, timeout_s=timeout_s)


def _open_redis(url: str, kind: StoreKind, timeout_s: float) -> Store:
    # imported only here: redis-py takes long to import, and a server on SQLite never needs it
    from bucketline_service.store.redis.store import open_redis

    return open_redis(url, kind, timeout_s=timeout_s)
