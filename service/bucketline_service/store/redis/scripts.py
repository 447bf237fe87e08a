"""The Lua scripts, and which commands of the store must survive a failover."""

from __future__ import annotations

import hashlib
from importlib import resources


class Script:
    """The text of ``lua/<name>.lua``, and the hash under which Redis caches it."""

    def __init__(self, name: str) -> None:
        self.text = resources.files(__package__).joinpath(f"lua/{name}.lua").read_bytes()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


ANNOUNCE_RUN, CREATE_RUN, UNLIST_RUN, SESSION, BEGIN, LEASE, COMMIT, RANKS, REPORT, REPORTS, RECORD = map(
    Script,
    (
        *("announce_run", "create_run", "unlist_run"),
        *("session", "begin", "lease", "commit", "ranks", "report", "reports", "record"),
    ),
)

WRITES = frozenset({"SET", "SADD", "HSET", "HDEL", "UNLINK"})
WRITING_SCRIPTS = frozenset(
    name
    for script in (ANNOUNCE_RUN, CREATE_RUN, UNLIST_RUN, SESSION, BEGIN, LEASE, COMMIT, REPORT)
    for name in (script.sha, script.text)
)


def is_write(command: tuple[object, ...]) -> bool:
    """Whether the caller depends on what this command has written, or has found already written."""
    return command[0] in WRITES or (command[0] in ("EVAL", "EVALSHA") and command[1] in WRITING_SCRIPTS)
