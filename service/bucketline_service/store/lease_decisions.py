"""The port's decisions as pure functions: from what is stored and requested to the answer and what to write.

The SQLite store calls them inside its transaction. The Redis store cannot: ``redis/lua/*.lua`` states them again, and
``tests/store`` holds both to the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bucketline_service.errors import NotFound
from bucketline_service.store.port import (
    LEASE_STRIDE,
    MAX_LEASE,
    Begun,
    Commit,
    CommitRequest,
    Cursor,
    Generation,
    GenerationId,
    Outcome,
    RankRecord,
)

SEEN_EVERY_S = 10.0
"""A ``last_seen_s`` younger than this is not updated unless the cursor moves."""

UNKNOWN_HOLDER = ""
"""The holder of an adopted lease: the store has lost its name."""


def no_run(run: str) -> NotFound:
    return NotFound(f"no run {run!r}; GET /v1/runs (bucketline run list) lists those that exist")


@dataclass(frozen=True)
class Held:
    """A rank's stored record, and the number of the generation that wrote it.

    A record of an older generation counts as absent, except for its token: tokens grow across generations.
    """

    generation: int
    record: RankRecord


def _present(held: Held | None, generation: Generation) -> RankRecord | None:
    return held.record if held is not None and held.generation == generation.number else None


def _seen(record: RankRecord, now_s: float) -> RankRecord | None:
    """The record with a new ``last_seen_s``, or None if the old one is young enough."""
    return replace(record, last_seen_s=now_s) if now_s - record.last_seen_s >= SEEN_EVERY_S else None


def decide_commit(
    request: CommitRequest, generation: Generation, held: Held | None
) -> tuple[Commit, RankRecord | None]:
    """The answer, and the record to write, None if nothing changes."""
    record = _present(held, generation)
    stands_at = record.cursor if record is not None else generation.origin

    def unchanged(outcome: Outcome) -> tuple[Commit, None]:
        return Commit(outcome, stands_at, generation), None

    is_ahead = request.not_before is not None and stands_at < request.not_before
    if request.generation != generation.id:
        return unchanged(Outcome.STALE)
    if request.lease % LEASE_STRIDE != request.rank:
        return unchanged(Outcome.FENCED)
    if record is None or request.lease != record.lease:
        # an older generation's token is still a lower bound: that lease was given, then fenced
        is_newer = held is None or request.lease > held.record.lease
        if not (is_newer and request.trusted):
            return unchanged(Outcome.FENCED)
        if is_ahead:
            return unchanged(Outcome.AHEAD)
        cursor = max(stands_at, request.cursor or stands_at)
        adopted = RankRecord(
            rank=request.rank,
            cursor=cursor,
            lease=request.lease,
            # not the record's holder: it lost the lease to this one, and must not get it back
            holder=UNKNOWN_HOLDER,
            leased_at_s=request.now_s,
            lease_cursor=cursor,
            last_seen_s=request.now_s,
        )
        return Commit(Outcome.ADOPTED, cursor, generation), adopted
    if is_ahead:
        return unchanged(Outcome.AHEAD)
    if request.cursor is None or request.cursor <= stands_at:
        return Commit(Outcome.OK, stands_at, generation), _seen(record, request.now_s)
    moved = replace(record, cursor=request.cursor, last_seen_s=request.now_s)
    return Commit(Outcome.OK, moved.cursor, generation), moved


def decide_lease(
    rank: int, holder: str, proposed: int, now_s: float, generation: Generation, held: Held | None
) -> tuple[RankRecord, bool]:
    """The rank's record, and whether it has to be written. The caller has compared the generation."""
    record = _present(held, generation)
    if record is not None and record.holder == holder:
        seen = _seen(record, now_s)
        return (seen, True) if seen is not None else (record, False)
    cursor = record.cursor if record is not None else generation.origin
    lease = proposed
    if held is not None and (larger := held.record.lease + LEASE_STRIDE) <= MAX_LEASE:
        lease = max(proposed, larger)
    return RankRecord(rank, cursor, lease, holder, now_s, cursor, now_s), True


def decide_begin(
    new: Generation,
    follows: GenerationId,
    generation: Generation,
    session_is_used: bool,
    slowest: Cursor | None,
    stands_at: Cursor,
) -> Begun:
    """Whether ``new`` may follow ``generation``. ``stands_at``: the slowest rank's cursor, if ``slowest`` is given."""
    begun = follows == generation.id and not session_is_used and (slowest is None or slowest == stands_at)
    return Begun(begun, new if begun else generation)
