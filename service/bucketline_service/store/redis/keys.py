"""Every key in Redis with its type, meaning and lifetime, and the format of packed values.

| key | type | holds |
| --- | --- | --- |
| ``bucketline:runs`` | set | the names of the runs |
| ``bucketline:ping`` | string | ``1``: proves that Redis accepts writes; for a cluster see ``PINGS`` |
| ``bucketline:events`` | zset | the newest events by id, packed; of all runs |
| ``bucketline:announced:{bucketline:runs}`` | hash | run -> its last announcement, a birth or a token |
| ``bucketline:closed:{bucketline:runs}`` | hash | mark -> the map that it closes: ``until_s map`` |
| ``bucketline:{run}:generation`` | string | the present generation, packed; a run exists if it does |
| ``bucketline:{run}:document`` | string | ``RunRecord.document``, unchanged |
| ``bucketline:{run}:sessions`` | hash | session name -> generation number, of all sessions |
| ``bucketline:{run}:ranks`` | hash | rank -> record, packed; also of older generations |
| ``bucketline:{run}:announced`` | set | births that the run may be created with |
| ``bucketline:{run}:reports`` | hash | image -> what was reported of it, packed |
| ``bucketline:{run}:reported`` | list | the images in ``reports``, in the order of their first reports |
| ``bucketline:{run}:reports_not_kept`` | hash | rank -> reports without room: ``count epoch step`` |

Lifetime: the first five are permanent, a run's keys live until ``delete_run``. Nothing expires.

``{run}`` is a hash tag, braces included: all keys of a run are in one slot of a cluster. The index, and the keys in its
slot by the tag ``{bucketline:runs}``, are in another: no single operation can create a run and list it, or see that a
map is closed. So the order of the steps matters:

- to create a run: add its birth to ``announced`` in its own slot; then, in one operation, check that no map of it is
  closed and add its name to the index; then write its keys, if the birth is still announced;
- to close a map: write its mark; then delete ``announced`` of each name in the index;
- to delete a run: read its last announcement; then delete ``announced`` and its keys; then remove its name from the
  index, unless it was announced again since.

So of a run that is created while a map is closed, either the run found the mark, or the closing found the name, and the
run is then either created or can no longer be. A crash between two steps leaves a name without a run, which
``list_runs`` omits, or a birth that is never used. To check that, ``list_runs`` and ``close_map`` access each run's own
slot, so they need every node of a cluster.

Packed values are words separated by single spaces, numbers in decimal:

- generation: ``id world_size epoch step offset session``; ``session`` is ``-`` for none, else ``+name``. If it has a
  lockstep, ``offset`` is ``offset/lockstep``, which a release that has no lockstep refuses rather than misreads;
- rank record: ``id lease epoch step leased_at_s lease_epoch lease_step last_seen_s holder``, with the generation's id;
- report: ``count epoch step rank at_s epoch step rank at_s reason detail``, first and last place; ``detail`` is ``-``
  for none, else ``+text``;
- event: ``mark run document``; ``run`` is ``-`` for none, else ``+name``.

A generation's id is ``number.birth``, or the number alone if its birth is empty. It is compared as text.

Names and details come last, because they may contain spaces. Lua reads values by position and keeps numbers as text
where it can: tokens go up to 2^53, and ``tostring`` keeps 14 digits.
"""

from __future__ import annotations

from bucketline_service.store.damage import sound_generation, sound_rank, sound_report
from bucketline_service.store.port import (
    Cursor,
    Generation,
    GenerationId,
    ImageReport,
    KeptEvent,
    NewEvent,
    Place,
    RankRecord,
)

RUNS = "bucketline:runs"
EVENTS = "bucketline:events"
ANNOUNCED = f"bucketline:announced:{{{RUNS}}}"
CLOSED = f"bucketline:closed:{{{RUNS}}}"
PINGS = ["bucketline:ping", *(f"bucketline:ping:{number}" for number in range(1, 4))]
"""All of them on a cluster, in slots far apart; elsewhere the first alone."""


def _key(run: str, name: str) -> str:
    # a brace in the name would end the hash tag early, and two runs' keys could coincide
    tag = run.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    return f"bucketline:{{{tag}}}:{name}"


def document(run: str) -> str:
    return _key(run, "document")


def generation(run: str) -> str:
    return _key(run, "generation")


def sessions(run: str) -> str:
    return _key(run, "sessions")


def ranks(run: str) -> str:
    return _key(run, "ranks")


def announced(run: str) -> str:
    return _key(run, "announced")


def reports(run: str) -> list[str]:
    """The keys of the run's reports: ``reports``, ``reported`` and ``reports_not_kept``."""
    return [_key(run, name) for name in ("reports", "reported", "reports_not_kept")]


def of_run(run: str) -> list[str]:
    """All keys that belong to the run."""
    return [generation(run), document(run), sessions(run), ranks(run), announced(run), *reports(run)]


def pack_id(value: GenerationId) -> str:
    return f"{value.number}.{value.birth}" if value.birth else str(value.number)


def unpack_id(packed: str) -> GenerationId:
    number, _, birth = packed.partition(".")
    return GenerationId(birth, int(number))


def pack_name(name: str | None) -> str:
    return "-" if name is None else f"+{name}"


def pack_generation(value: Generation) -> str:
    epoch, step = value.origin
    offset = f"{value.offset}" if value.lockstep is None else f"{value.offset}/{value.lockstep}"
    return f"{pack_id(value.id)} {value.world_size} {epoch} {step} {offset} {pack_name(value.session)}"


def unpack_generation(packed: bytes) -> Generation:
    """Raises ``ValueError`` if ``packed`` is not a generation."""
    packed_id, world_size, epoch, step, place, session = packed.decode().split(" ", 5)
    birth, number = unpack_id(packed_id)
    offset, _, lockstep = place.partition("/")
    generation = Generation(
        number=number,
        session=session[1:] if session.startswith("+") else None,
        world_size=int(world_size),
        origin=Cursor(int(epoch), int(step)),
        offset=int(offset),
        birth=birth,
        lockstep=int(lockstep) if lockstep else None,
    )
    return sound_generation(generation)


def unpack_rank(rank: int, packed: bytes) -> tuple[GenerationId, RankRecord]:
    """The generation that wrote the record, and the record. Raises ``ValueError`` if ``packed`` is not a record."""
    packed_id, lease, epoch, step, leased_at_s, lease_epoch, lease_step, last_seen_s, holder = (
        packed.decode().split(" ", 8)
    )  # fmt: skip
    record = RankRecord(
        rank=rank,
        cursor=Cursor(int(epoch), int(step)),
        lease=int(lease),
        holder=holder,
        leased_at_s=float(leased_at_s),
        lease_cursor=Cursor(int(lease_epoch), int(lease_step)),
        last_seen_s=float(last_seen_s),
    )
    return unpack_id(packed_id), sound_rank(record)


def unpack_report(number: int, image: bytes, packed: bytes) -> ImageReport:
    """Raises ``ValueError`` if ``packed`` is not a report."""
    count, *places, reason, detail = packed.decode().split(" ", 10)
    first, first_at_s, last, last_at_s = places[:3], places[3], places[4:7], places[7]
    report = ImageReport(
        number=number,
        image=image.decode(),
        count=int(count),
        reason=reason,
        detail=detail[1:] if detail.startswith("+") else None,
        first=Place(*map(int, first)),
        first_at_s=float(first_at_s),
        last=Place(*map(int, last)),
        last_at_s=float(last_at_s),
    )
    return sound_report(report)


def pack_event(event: NewEvent) -> bytes:
    return f"{event.mark} {pack_name(event.run)} ".encode() + event.document


def unpack_event(packed: bytes, score: bytes) -> KeptEvent:
    _, run, document = packed.split(b" ", 2)
    return KeptEvent(int(score), run[1:].decode() if run.startswith(b"+") else None, document)
