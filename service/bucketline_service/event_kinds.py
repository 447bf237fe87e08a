"""The events that are reported to operators, each registered once, and the log line that an event writes.

``log`` only writes the line. It serves the rooms that have no event log (maps, the store) and events that are not
kept. Everything else calls ``EventLog.emit`` (``observability/event_log.py``), which writes the line and also keeps the
event for ``GET /v1/events``.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

_log = logging.getLogger("bucketline")


class EventKind(NamedTuple):
    """How an event is reported. ``level``: of its log line, None if it has no line. ``log_name``: its name in the log,
    if that is another. ``is_kept``: whether ``GET /v1/events`` lists it. ``is_repeated``: whether it may recur without
    anybody asking for it, so that occurrences are counted in one event."""

    level: int | None = None
    is_kept: bool = True
    is_repeated: bool = False
    log_name: str | None = None


EVENTS: dict[str, EventKind] = {
    "coordinator_started": EventKind(),
    "coordinator_stopped": EventKind(),
    "map_put": EventKind(),
    "map_deleted": EventKind(),
    "run_put": EventKind(),
    "run_planned": EventKind(),
    "run_failed": EventKind(),
    "run_deleted": EventKind(),
    "session_begun": EventKind(),
    "lease_given": EventKind(is_repeated=True),
    "fenced": EventKind(is_repeated=True),
    # repeated: of a corrupt shard each rank reports some every second
    "images_reported": EventKind(is_repeated=True),
    # both tell that the store lost state, and alerts on the log look for one name
    "lease_adopted": EventKind(logging.WARNING, is_repeated=True, log_name="store_lost_state"),
    "store_lost_state": EventKind(logging.WARNING, is_repeated=True),
    "store_unavailable": EventKind(logging.WARNING, is_repeated=True),
    "store_back": EventKind(is_repeated=True),
    "store_at_risk": EventKind(logging.WARNING, is_repeated=True),
    "map_root_unavailable": EventKind(logging.WARNING, is_repeated=True),
    "map_root_back": EventKind(is_repeated=True),
    "store_log_removed": EventKind(logging.WARNING, is_kept=False),
    "gauges_not_refreshed": EventKind(logging.WARNING, is_kept=False),
    "map_fetched": EventKind(logging.INFO, is_kept=False),
    "planning": EventKind(logging.INFO, is_kept=False),
    "renewed": EventKind(logging.INFO, is_kept=False),
    "not_renewed": EventKind(logging.ERROR, is_kept=False),
}
"""By name. To add an event: an entry here, and a line in ``docs/reference/http.md`` (kept) or
``docs/how-to/monitoring.md`` (log line alone)."""

KEPT_EVENTS = [name for name, kind in EVENTS.items() if kind.is_kept]


def log(event: str, **fields: Any) -> None:
    """Write the log line of a registered event; ``fields`` are next to ``event`` in its JSON object.

    Fields are numbers and names: no token, header or request body. They must not have the name of an attribute that
    every ``logging.LogRecord`` has.
    """
    level, name = EVENTS[event].level, EVENTS[event].log_name or event
    if level is not None:
        _log.log(level, name, extra={"event": name, **fields})
