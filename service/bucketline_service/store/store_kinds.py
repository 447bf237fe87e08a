"""The kinds of cursor stores, each registered once: its URL schemes, and what its URL looks like.

To add a store: an entry here and its opener in ``store/__init__.py``, the port's verbs, and a fixture in
``tests/store/conftest.py``. The command line's help, the settings and error messages derive from this table; tests name
what is missing in the docs.
"""

from __future__ import annotations

from typing import NamedTuple


class StoreKind(NamedTuple):
    """``examples``: URLs of this kind, complete enough to copy. ``short``: how help texts name it."""

    name: str
    schemes: tuple[str, ...]
    examples: tuple[str, ...]
    short: str


KINDS = (
    StoreKind(
        "sqlite", ("sqlite",), ("sqlite:///relative/path", "sqlite:////absolute/path"), "sqlite:///PATH"
    ),
    StoreKind("redis", ("redis", "rediss"), ("redis://user:password@host:6379/0",), "redis://HOST:PORT/DB"),
    StoreKind("unix", ("unix",), ("unix:///path/to/redis.sock",), "unix:///PATH"),
    StoreKind(
        "sentinel",
        ("redis+sentinel", "rediss+sentinel"),
        ("redis+sentinel://user:password@host1:26379,host2:26379/service/0",),
        "redis+sentinel://…",
    ),
    StoreKind(
        "cluster",
        ("redis+cluster", "rediss+cluster"),
        ("redis+cluster://user:password@host1:6379,host2:6379",),
        "redis+cluster://…",
    ),
)

BY_SCHEME = {scheme: kind for kind in KINDS for scheme in kind.schemes}

URL_HINT = (
    "Use " + ", ".join(url for kind in KINDS for url in kind.examples) + "; rediss instead of redis for TLS"
)

URL_HELP = ", ".join(kind.short for kind in KINDS[:-1]) + f" or {KINDS[-1].short}"
"""For help texts."""
