"""The cursor store's port: what the coordinator keeps, and how atomically.

The words: a run is trained by ranks 0 to ``world_size - 1``, and each rank has a *cursor*, the first step that it has
not finished. To move it, a worker takes the rank's *lease*, a token that is larger than every earlier one: the worker
with the older token is *fenced*, so that two workers never train one rank. Each start of the whole job is a *session*,
named by the caller; it begins a new *generation* of the run, which says where all ranks begin, and which fences every
lease of the generation before it.

Every verb is one atomic operation and writes absolute values behind a compare, so that repeating it after a lost
answer changes nothing more. Times are Unix seconds passed by the caller: a store reads no clock. A verb raises
``StoreUnavailable`` if the answer is late or does not come, ``NotFound`` if the run does not exist, and ``Damaged`` if
the run's records cannot be read.

Lifetimes: a run's keys live until ``delete_run``, over all its generations; an event until there are ``MAX_EVENTS``
newer ones. Nothing expires.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from bucketline_service.errors import StoreUnavailable

LEASE_STRIDE = 1 << 14
"""A lease token is ``tick * LEASE_STRIDE + rank``, so a token contains its rank."""

MAX_LEASE = 2**53 - 1
"""The largest token: JSON and Lua represent no larger integer exactly."""

MAX_WORLD_SIZE = LEASE_STRIDE
"""The most ranks of a run: a token has no room for more."""

MAX_EVENTS = 1000
"""How many events are kept: the newest."""

REPORT_REASONS = ("unreadable", "missing", "wrong_size", "rejected", "other")
"""Why an image could not be used: it cannot be opened or decoded; there is none; its size is not the map's; the loader
refuses it, by a filter, say."""


class Cursor(NamedTuple):
    """The first step that a rank has not finished. Cursors compare in the order of training."""

    epoch: int
    step: int


class GenerationId(NamedTuple):
    """What a write is compared with. Two generations may have the same number: if a run was deleted and created again,
    or if the store has lost the first of them. No two have the same ``birth``, a random word."""

    birth: str
    number: int


@dataclass(frozen=True)
class Generation:
    """One start of the whole job.

    In epoch ``origin.epoch``, step ``origin.step`` of rank r is at stream position ``offset + r``; every other epoch
    starts at step 0 and position 0. ``birth``: letters and digits, random for each generation; a generation begun by an
    older release has that of the generation before it, or an empty one. ``lockstep``: that of the stream of epoch
    ``origin.epoch``; None if every epoch has the plan's own."""

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
    """A run as it is stored. ``document`` is opaque to the store: the coordinator's record of the run's spec."""

    document: bytes
    generation: Generation


@dataclass(frozen=True)
class RankRecord:
    """A rank that has had a lease in the present generation. ``lease_cursor``: its cursor when the lease was taken or
    adopted. ``last_seen_s`` may be up to 10 s older than the rank's last request."""

    rank: int
    cursor: Cursor
    lease: int
    holder: str
    leased_at_s: float
    lease_cursor: Cursor
    last_seen_s: float


class Outcome(Enum):
    """The outcome of a commit. Only OK and ADOPTED have changed anything."""

    OK = "ok"
    ADOPTED = "adopted"  # the store had lost this lease, and has now taken it over with its cursor
    FENCED = "fenced"  # there is a newer lease or generation, or this lease was never given
    AHEAD = "ahead"  # the stored cursor is before ``not_before``
    STALE = "stale"  # the caller computed with another generation: read ``generation`` and try again


class CommitRequest(NamedTuple):
    """``cursor``: the rank's new cursor, None to prove the lease alone. ``not_before``: the smallest stored cursor for
    which the request is valid, None for any. ``trusted``: the caller has proof that the lease was given in
    ``generation``."""

    rank: int
    lease: int
    generation: GenerationId
    cursor: Cursor | None
    not_before: Cursor | None
    trusted: bool
    now_s: float


class Commit(NamedTuple):
    """``cursor``: the rank's cursor after the operation. ``generation``: the run's present one."""

    outcome: Outcome
    cursor: Cursor
    generation: Generation


@dataclass(frozen=True)
class Begun:
    """``begun`` is False if another session began first, or if a rank moved. ``generation``: the present one."""

    begun: bool
    generation: Generation


@dataclass(frozen=True)
class NewEvent:
    """An event to be kept. ``mark``: unique to it, so that a repeated write is recognized. ``run``: the run that it is
    about, if any. ``document`` is opaque to the store. Neither mark nor run contains a space."""

    mark: str
    run: str | None
    document: bytes


@dataclass(frozen=True)
class KeptEvent:
    """``id``: >= 1, and larger than that of every event recorded before."""

    id: int
    run: str | None
    document: bytes


class Place(NamedTuple):
    """Whose batch it was. Places compare in the order of training, those of one step by rank."""

    epoch: int
    step: int
    rank: int


class NewReport(NamedTuple):
    """A worker's word that an image could not be used. ``image``: its name, opaque to the store and unique in the run.
    ``reason``: one of ``REPORT_REASONS``, or another word without spaces."""

    image: str
    reason: str
    detail: str | None = None


@dataclass(frozen=True)
class ImageReport:
    """What is kept of an image that was reported. ``number``: >= 1, in the order in which images were first reported.
    ``count``: in how many batches at least; reason and detail are those of the last one."""

    number: int
    image: str
    count: int
    reason: str
    detail: str | None
    first: Place
    first_at_s: float
    last: Place
    last_at_s: float


class ReportOutcome(Enum):
    """What became of one report. Of REPEATED nothing was written."""

    NEW = "new"  # the first one of its image
    COUNTED = "counted"  # its image was reported before
    REPEATED = (
        "repeated"  # its place is not after the last one that was counted: it may have been counted already
    )
    NOT_KEPT = "not_kept"  # there is no room for another image: only the number of such reports is kept


@dataclass(frozen=True)
class Reported:
    """``outcomes``: of each report, in order. ``num_images``: how many images of the run are kept now."""

    outcomes: list[ReportOutcome]
    num_images: int


@dataclass(frozen=True)
class ImageReports:
    """Some of a run's reports, by number. ``num_images``: how many images are kept. ``num_not_kept``: reports of other
    images, at least."""

    reports: list[ImageReport]
    num_images: int
    num_not_kept: int


class Withdrawn(Exception):  # noqa: N818 - not an error: announce the run again
    """The run's announcement is no longer valid: a map was closed after it."""


class Store(Protocol):
    """What every store does; ``tests/store`` runs one suite on all of them. All verbs are safe under concurrency,
    between threads, processes and machines."""

    system: str
    """The database: ``sqlite`` or ``redis``, as OpenTelemetry names it."""

    async def ping(self) -> None:
        """Return if the store can read and write; else raise ``StoreUnavailable``."""

    async def examine(self) -> list[str]:
        """Check what no verb notices, which may take seconds: that the stored data is whole, and that it persists. The
        answer lists the risks that operators should know about. If the store must not be relied on, this raises
        ``StoreUnavailable``, whose message has the remedy, and so do all verbs until a later check passes."""

    async def announce_run(self, run: str, birth: str, maps: Sequence[str], now_s: float) -> list[str]:
        """Announce that a run of this birth, which needs ``maps``, is about to be created. The answer is the maps of
        these that are closed; if there is one, nothing was announced."""

    async def create_run(
        self, run: str, document: bytes, first: Generation, *, announced: bool = False
    ) -> tuple[RunRecord, bool]:
        """Create the run unless it exists; the answer is the stored record, and whether this call created it. With
        ``announced``, creating it raises ``Withdrawn`` unless ``first.birth`` was announced for it and no map was
        closed since."""

    async def close_map(self, map: str, mark: str, until_s: float) -> None:
        """Refuse announcements of runs that need the map, until ``open_map`` with the same mark or until ``until_s``,
        and withdraw all earlier announcements. When this returns, ``list_runs`` has every run that needs the map or
        will need it before then. Several marks may close one map, each on its own. A mark contains neither a space nor
        a line break."""

    async def open_map(self, mark: str) -> None:
        """Undo ``close_map`` with this mark; does nothing if there was none."""

    async def read_run(self, run: str) -> RunRecord:
        """The run's document and its present generation."""

    async def list_runs(self) -> list[str]:
        """The names of all runs, sorted."""

    async def delete_run(self, run: str) -> bool:
        """Delete the run and all its records; False if it does not exist."""

    async def session(self, run: str, session: str) -> tuple[GenerationId, int | None]:
        """The present generation, and the number of the generation, possibly an old one, that this session name began,
        None if it began none."""

    async def begin(self, run: str, new: Generation, follows: GenerationId, slowest: Cursor | None) -> Begun:
        """Begin generation ``new``, whose number is one higher, if the present one is ``follows``, ``new.session`` was
        never used, and, unless ``slowest`` is None, the slowest rank's cursor is ``slowest``. This fences all leases of
        older generations. The slowest rank's cursor is the smallest of all ``world_size`` ranks; that of a rank without
        a record is the origin."""

    async def lease(
        self, run: str, rank: int, holder: str, generation: GenerationId, proposed: int, now_s: float
    ) -> RankRecord | None:
        """The rank's lease for ``holder``: its present one, else a new one with token ``max(proposed, old token +
        LEASE_STRIDE)``, which fences the old one. The cursor stays where it is, or begins at the origin. None, with
        nothing changed, if the present generation is not ``generation``. Tokens grow across generations too; after one
        that leaves no room below ``MAX_LEASE`` they begin again at ``proposed``. ``last_seen_s`` is written as by
        ``commit``."""

    async def commit(self, run: str, request: CommitRequest) -> Commit:
        """Prove the lease and, unless ``cursor`` is None, move the rank's cursor forward to it. A cursor that is not
        after the stored one changes nothing and is still OK.

        The outcome is decided in this order:

        1. STALE if the present generation is not ``generation``.
        2. FENCED if the lease is not one of ``rank`` (``lease % LEASE_STRIDE``), or is smaller than the stored token.
           Of an older generation's record only the token counts: a lease up to it was fenced by ``begin``.
        3. A lease that is larger than the stored token, or for which none is stored, proves that the store has lost
           state. It is FENCED unless ``trusted``.
        4. AHEAD if the stored cursor is before ``not_before``.
        5. ADOPTED for a lease of step 3: its token is stored, its cursor moved forward if one is given, and its holder
           is ``""``, unknown.
        6. OK.

        ``last_seen_s`` is written when the cursor moves, else only if it is at least 10 s old, so that reading costs no
        durable write."""

    async def ranks(self, run: str) -> tuple[Generation, list[RankRecord]]:
        """One consistent read of the present generation and the records of its ranks, sorted by rank."""

    async def report(
        self, run: str, place: Place, reports: Sequence[NewReport], max_images: int, now_s: float
    ) -> Reported:
        """Keep what the worker of one batch reports of its images. An image's count grows only if ``place`` is after
        the last one stored of it, so that reports that are repeated, in any order, change nothing. Of an image that
        would be more than ``max_images``, only ``num_not_kept`` grows, and only if ``place`` is after the last one of
        its rank for which it did, in an earlier call. Costs O(1) an image. Reports belong to the run: a new generation
        keeps them, and a run that is deleted and created again begins without any."""

    async def reports(self, run: str, after: int | None, limit: int) -> ImageReports:
        """One consistent read of the ``limit`` reports that follow number ``after``, or of the newest ``limit`` if it
        is None; at most 1,000, by number."""

    async def record(self, events: Sequence[NewEvent], least_id: int) -> None:
        """Append the events in order, except those whose mark is already kept, and drop all but the newest
        ``MAX_EVENTS``. Each id is one more than that of the newest event, and at least ``least_id``: if that grows with
        time, a store that has lost its events does not give an id twice. An event outlives its run."""

    async def events(self, run: str | None, after: int, limit: int) -> list[KeptEvent]:
        """The newest ``limit`` events with an id larger than ``after``, of one run or of all if None, newest first."""

    def watch(self, on_unavailable: Callable[[StoreUnavailable], None]) -> None:
        """Call back with each ``StoreUnavailable`` that a verb raises from now on, on the event loop on which it is
        raised. A closed store does not call."""

    async def close(self) -> None:
        """Release connections and threads. Closing again does nothing."""
