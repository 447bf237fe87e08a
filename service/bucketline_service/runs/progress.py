"""How far a run's epoch is and how fast it moves, from the times that the store has: the one definition behind the API,
the dashboard and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bucketline_service.runs.run import Run
from bucketline_service.runs.sharding import Sharding
from bucketline_service.store.port import Cursor, RankRecord

QUIET_S = 60.0
"""A rank that was not seen for longer is not moving, unless a few of its steps take longer than that."""
FEW_STEPS = 5
_UNKNOWN = dict.fromkeys(("activity", "share", "steps_per_s", "left_s", "stuck_rank"))


def epoch_progress(run: Run, records: Sequence[RankRecord], now_s: float) -> dict[str, Any]:
    """Progress of the epoch of the slowest rank. ``records`` are those of the run's present generation; ``now_s`` is
    Unix seconds.

    The rate is the mean since that rank's lease until it was last seen; 0 where it has stopped, and None before its
    first step.
    """
    sharding, world_size = run.sharding, run.generation.world_size
    # with fewer records than ranks the slowest have never taken a lease
    slowest = min(records, key=_place) if len(records) == world_size else None
    cursor = sharding.normal(slowest.cursor if slowest else run.generation.origin)
    if sharding.is_over(cursor):
        return {**_UNKNOWN, "activity": "finished", "share": 1.0}
    steps_per_s = _rate(run, slowest, now_s) if slowest else None
    last_seen_s = max((record.last_seen_s for record in records), default=None)
    is_active = last_seen_s is not None and now_s - last_seen_s < QUIET_S
    stuck_rank = _stuck_rank(run, records, slowest, cursor, now_s)
    if steps_per_s or (is_active and steps_per_s is None and stuck_rank is None):
        activity = "running"
    else:
        activity = "waiting" if is_active else "idle"
    num_left = sharding.num_steps(cursor.epoch) - cursor.step
    # of batches, not of steps: an epoch that began on another number of ranks has steps of more than one size
    num_done = sharding.consumed(cursor)
    return {
        "activity": activity,
        "share": num_done / (num_done + num_left * world_size) if num_done else 0.0,
        "steps_per_s": steps_per_s,
        "left_s": num_left / steps_per_s if steps_per_s else None,
        "stuck_rank": stuck_rank if is_active else None,
    }


def mean_rate(sharding: Sharding, record: RankRecord) -> float | None:
    """Steps a second of a rank from its lease until it was last seen; None before its first step."""
    held_s = record.last_seen_s - record.leased_at_s
    done = sharding.distance(sharding.normal(record.lease_cursor), sharding.normal(record.cursor))
    return done / held_s if held_s > 0 and done > 0 else None


def _rate(run: Run, record: RankRecord, now_s: float) -> float | None:
    rate = mean_rate(run.sharding, record)
    is_moving = rate is None or now_s - record.last_seen_s <= max(QUIET_S, FEW_STEPS / rate)
    return rate if is_moving else 0.0


def _stuck_rank(
    run: Run, records: Sequence[RankRecord], slowest: RankRecord | None, cursor: Cursor, now_s: float
) -> int | None:
    """The slowest rank, where others are ahead of it and it has no worker or was not seen for a while."""
    leader = max((run.sharding.normal(record.cursor) for record in records), default=cursor)
    if leader <= cursor:
        return None
    if slowest is None:
        held = {record.rank for record in records}
        return next(rank for rank in range(run.generation.world_size) if rank not in held)
    is_silent = not slowest.holder or now_s - slowest.last_seen_s > QUIET_S
    return slowest.rank if is_silent else None


def _place(record: RankRecord) -> tuple[Cursor, float]:
    return record.cursor, record.last_seen_s
