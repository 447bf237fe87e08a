"""The cursor store's port: what the coordinator needs kept, and how atomically.

Every verb is one atomic operation and writes absolute values behind a compare, so that a retry after a lost
answer changes nothing more. Times are Unix seconds, given by the caller: a store reads no clock. A store that
answers late or not at all raises ``StoreUnavailable``; an unknown run raises ``NotFound``.

Life times: a run's keys live until ``delete_run``, an event until there are ``MAX_EVENTS`` newer ones; nothing expires.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from bucketline_service.errors import StoreUnavailable

LEASE_STRIDE = 1 << 14
"""A lease token is ``tick * LEASE_STRIDE + rank``, so a token tells its rank."""

MAX_LEASE = 2**53 - 1
"""The largest token: JSON and Lua hold no larger integer exactly."""

MAX_WORLD_SIZE = LEASE_STRIDE
"""Ranks of one run: a token has no room for more."""


MAX_EVENTS = 1000
"""The newest that are kept."""


class Cursor(NamedTuple):
    """The first step that is not finished. Tuples compare in the order of training."""

    epoch: int
    step: int


class GenerationId(NamedTuple):
    """What a write is compared with. Two generations may have one number: where a run is deleted and its name put anew,
    or where the store has lost the first of them. No two have one birth."""

    birth: str
    number: int


@dataclass(frozen=True)
class Generation:
    """One start of the whole job. In epoch ``origin.epoch`` step ``origin.step`` of rank r stands at stream
    position ``offset + r``; every other epoch starts at step 0 and position 0. ``birth``: letters and digits, drawn at
    random for each generation; what older releases began has the birth of the generation before it, or an empty one.
    ``lockstep``: with which the stream of epoch ``origin.epoch`` was begun; None where every epoch has the plan's own,
    as all had in generations that were begun before there was another."""

    number: int
    session: str | None
    world_size: int
    origin: Cursor
    offset: int
    birth: str
    lockstep: int | None = None

    @property
    def id(self) -> GenerationId:
        return GenerationId(self.birth, self.number)


@dataclass(frozen=True)
class RunRecord:
    """``document`` is opaque to the store: what the coordinator keeps of the run's spec."""

    document: bytes
    generation: Generation


@dataclass(frozen=True)
class RankRecord:
    """A rank that has held a lease in the present generation. ``lease_cursor``: where it stood when it took
    it (or was adopted)."""

    rank: int
    cursor: Cursor
    lease: int
    holder: str
    leased_at_s: float
    lease_cursor: Cursor
    last_seen_s: float


class Outcome(Enum):
    """What became of a commit. Only OK and ADOPTED have changed anything."""

    OK = "ok"
    ADOPTED = "adopted"  # the store had lost this lease: the holder's token and cursor were taken over
    FENCED = "fenced"  # a newer lease, a newer generation, or none was ever given
    AHEAD = "ahead"  # the cursor is more than a window behind what the caller says it has finished
    STALE = "stale"  # the caller computed with another generation or birth: read ``generation`` and ask again


class CommitRequest(NamedTuple):
    """``cursor``: where the rank is to stand, None where only the lease is to be proven. ``not_before``: the least
    stored cursor from which it may be asked. ``trusted``: the caller vouches that the lease was given in
    ``generation``."""

    rank: int
    lease: int
    generation: GenerationId
    cursor: Cursor | None
    not_before: Cursor | None
    trusted: bool
    now_s: float


class Commit(NamedTuple):
    """``cursor`` is the rank's cursor after the operation, ``generation`` the store's own."""

    outcome: Outcome
    cursor: Cursor
    generation: Generation


@dataclass(frozen=True)
class Begun:
    """``begun`` is False where another start won, or a rank moved: ``generation`` is then the present one."""

    begun: bool
    generation: Generation


@dataclass(frozen=True)
class NewEvent:
    """What operators are to hear of. ``mark``: no other event has it, so that a repeat is known. ``run``: of which it
    is told, if of one. ``document`` is opaque to the store. Neither mark nor run has a space."""

    mark: str
    run: str | None
    document: bytes


@dataclass(frozen=True)
class KeptEvent:
    """``id``: 1 or more, and larger than those of all that were recorded before."""

    id: int
    run: str | None
    document: bytes


class Withdrawn(Exception):  # noqa: N818 - nothing is wrong: announce the run again
    """The run's announcement does not count any more: a map was closed after it."""


class Store(Protocol):
    """What both back ends do; ``tests/contract`` runs one suite over them. All verbs are safe under
    concurrency, between threads, processes and machines."""

    system: str
    """The database: ``sqlite`` or ``redis``, as OpenTelemetry names it."""

    async def ping(self) -> None:
        """Return when the store can read and write; raise ``StoreUnavailable`` where not."""

    async def examine(self) -> list[str]:
        """Look at what no verb notices, which may take seconds: whether what is kept is whole, and stays. The answer is
        what operators should hear of. Where the store must not be relied on, this raises ``StoreUnavailable``, which
        says what would do, and so do all verbs, until a later look finds it mended."""

    async def announce_run(self, run: str, birth: str, maps: Sequence[str], now_s: float) -> list[str]:
        """Say that a run of this birth, which needs ``maps``, is about to be created. The answer is those of the maps
        that are closed: where there is one, nothing was announced."""

    async def create_run(
        self, run: str, document: bytes, first: Generation, *, announced: bool = False
    ) -> tuple[RunRecord, bool]:
        """Create the run unless the name is taken; the record that stands, and whether this call made it. Where it is
        ``announced``, a run that would be new raises ``Withdrawn`` unless ``first.birth`` was announced for it and no
        map was closed since."""

    async def close_map(self, map: str, mark: str, until_s: float) -> None:
        """Refuse announcements of runs that need the map, until ``open_map`` with the same mark or until the time is
        past, and withdraw all that were made before. When this returns, ``list_runs`` has every run that needs the map
        or will need it before then. Each ``mark`` closes by itself. It has neither a space nor a line's end."""

    async def open_map(self, mark: str) -> None:
        """Take back what was closed with the mark; nothing where nothing was."""

    async def read_run(self, run: str) -> RunRecord: ...

    async def list_runs(self) -> list[str]:
        """Names, sorted."""

    async def delete_run(self, run: str) -> bool:
        """Forget the run and all that belongs to it; False where there was none."""

    async def session(self, run: str, session: str) -> tuple[GenerationId, int | None]:
        """The present generation, and the number of the one that this session name began (also an old one), or
        None."""

    async def begin(self, run: str, new: Generation, follows: GenerationId, slowest: Cursor | None) -> Begun:
        """Start generation ``new``, numbered one higher, if the present one is ``follows``, ``new.session`` was never
        used, and, where ``slowest`` is given, the slowest rank still stands there. All leases of older generations are
        fenced by it. The slowest rank is the least cursor over all ``world_size`` ranks; one without a record stands
        at the origin."""

    async def lease(
        self, run: str, rank: int, holder: str, generation: GenerationId, proposed: int, now_s: float
    ) -> RankRecord | None:
        """The rank's lease for ``holder``: the one it has, else a new one with token ``max(proposed, old
        token + LEASE_STRIDE)``, which fences the old. The cursor stays (or begins at the origin). None, with
        nothing changed, where the present generation is not ``generation``. Tokens grow over generations as
        well; after one that leaves no room below ``MAX_LEASE`` they begin again at ``proposed``. ``last_seen_s`` is
        written as by ``commit``."""

    async def commit(self, run: str, request: CommitRequest) -> Commit:
        """Prove the lease and, where ``cursor`` is given, move the rank's cursor forward to it (an older or
        equal one is a no-op, still OK).

        In this order: another present generation than ``generation`` is STALE. A lease smaller than the
        stored token, or one where none is stored, or one that is not ``rank``'s (``lease % LEASE_STRIDE``) is
        FENCED. A larger one proves that the store has lost state: with ``trusted`` it is ADOPTED (token stored,
        cursor moved forward where one is given, holder ``""``: it is not known), without it is FENCED; ``trusted``
        with no record stored at all is ADOPTED likewise. A stored cursor before ``not_before`` is AHEAD, of a lease
        that would be adopted as well. Of an older generation's record nothing counts but its token: a lease up to it
        was fenced by ``begin``, and is FENCED here.

        ``last_seen_s`` is written when the cursor moves, else only where it is 10 s old or more, so that
        reading costs no durable write."""

    async def ranks(self, run: str) -> tuple[Generation, list[RankRecord]]:
        """One consistent reading: the present generation and its ranks that have a record, by rank."""

    async def record(self, events: Sequence[NewEvent], least_id: int) -> None:
        """Append the events in their order, but for those whose mark is kept already, and drop what is older than the
        newest ``MAX_EVENTS``. The id of each is one more than that of the newest, and ``least_id`` or more: a store
        that has lost its events gives no id again to who counts with time. An event outlives its run."""

    async def events(self, run: str | None, after: int, limit: int) -> list[KeptEvent]:
        """The newest ``limit`` events with an id larger than ``after``, of one run or of all, newest first."""

    def watch(self, on_unavailable: Callable[[StoreUnavailable], None]) -> None:
        """From now on tell each ``StoreUnavailable`` that a verb raises, but for a closed store's, in the loop in which
        it is raised."""

    async def close(self) -> None: ...
