"""Lease tokens: integers that grow with time, over holders, generations and runs of one name.

A token is ``tick * LEASE_STRIDE + rank``; ticks are hundredths of a second since 2020, so tokens stay below 2**53.
"""

from __future__ import annotations

from bucketline_service.runs.run import Run
from bucketline_service.store.port import LEASE_STRIDE

TICKS_PER_S = 100
EPOCH_2020_S = 1_577_836_800

MAX_LEASE_AHEAD_S = 86_400.0
"""A lease further ahead of this clock is never adopted: a forged token must leave room for larger ones. Tokens run
ahead of the clock if a replica's clock does, or if a rank changes hands more than ``TICKS_PER_S`` times a second."""


def lease_floor(now_s: float) -> int:
    """The smallest token of a moment in Unix seconds: that of rank 0."""
    return int((now_s - EPOCH_2020_S) * TICKS_PER_S) * LEASE_STRIDE


def least_lease(run: Run) -> int:
    """No token of the run is smaller, and all tokens of earlier runs of its name are: see ``Runs.delete``.

    It follows the clock of the replica that created the run, which may be ahead of the replica that gives a lease.
    """
    return lease_floor(run.document.created_at_s) + LEASE_STRIDE


def used_up_in_s(newest: int, now_s: float) -> float:
    """Seconds until every new token is larger than ``newest``; negative if that is so already."""
    return (newest // LEASE_STRIDE + 1) / TICKS_PER_S + EPOCH_2020_S - now_s
