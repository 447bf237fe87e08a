"""Every key in Redis, its type, its meaning and its life time; and how the packed values read.

| key | type | holds |
| --- | --- | --- |
| ``bucketline:runs`` | set | the names of the runs |
| ``bucketline:ping`` | string | ``1``: proves that Redis takes writes; on a cluster see ``PINGS`` |
| ``bucketline:events`` | zset | the newest events by id, packed; of all runs |
| ``bucketline:announced:{bucketline:runs}`` | hash | run -> its last announcement, a birth or a token |
| ``bucketline:closed:{bucketline:runs}`` | hash | mark -> the map that it closes, ``until_s map`` |
| ``bucketline:{run}:generation`` | string | the present generation, packed; where it is, the run is |
| ``bucketline:{run}:document`` | string | ``RunRecord.document``, as it came |
| ``bucketline:{run}:sessions`` | hash | session name -> generation number, all that ever began |
| ``bucketline:{run}:ranks`` | hash | rank -> record, packed; those of older generations too |
| ``bucketline:{run}:announced`` | set | births with which the run may be created |

Life time: the first five for ever, a run's keys until ``delete_run``. Nothing expires.

``{run}`` is a hash tag, braces included: all keys of a run are in one slot of a cluster. The index, and what stands in
its slot by the tag ``{bucketline:runs}``, is in another: no one operation can create a run and list it, or see that a
map is closed. Hence the order of steps:

- a run is created by its birth in ``announced`` of its own slot; then, in one operation, by the look whether a map is
  closed and its name in the index; then by its keys, if the birth is announced still;
- a map is closed by its mark; then, of each name in the index, by taking away what is announced;
- a run is deleted by a look at its last announcement; then by taking away what is announced; its keys; and its name in
  the index, unless another was announced since.

Of a run and a closing either the run found the mark, or the closing found the name, and then left a run that is created
or one that cannot be. A crash between two steps leaves a name without a run, which ``list_runs`` leaves out, or a birth
that nobody uses. To tell, ``list_runs`` and ``close_map`` ask each run's own slot, and so need every node of a cluster.

Packed values are words parted by single spaces, numbers in decimal:

- generation: ``id world_size epoch step offset session``, session being ``-`` for none, else ``+name``; where it has a
  lockstep, ``offset/lockstep`` for the offset, which who knows of none can not read for another generation;
- rank record: ``id lease epoch step leased_at_s lease_epoch lease_step last_seen_s holder``, of the generation's id;
- event: ``mark run document``, run being ``-`` for none, else ``+name``.

A generation's id is ``number.birth``, or the number alone where it has an empty birth. It is compared as text.

The name is last, for it may hold spaces. Lua reads by position, and leaves numbers text where it can: tokens
go up to 2^53, and ``tostring`` keeps 14 digits.
"""

from __future__ import annotations

from bucketline_service.store.damage import sound_generation, sound_rank
from bucketline_service.store.port import (
    Cursor,
    Generation,
    GenerationId,
    KeptEvent,
    NewEvent,
    RankRecord,
)

RUNS = "bucketline:runs"
EVENTS = "bucketline:events"
ANNOUNCED = f"bucketline:announced:{{{RUNS}}}"
CLOSED = f"bucketline:closed:{{{RUNS}}}"
PINGS = ["bucketline:ping", *(f"bucketline:ping:{number}" for number in range(1, 4))]
"""A cluster has all of them, in slots far apart; else there is the first alone."""


def _key(run: str, name: str) -> str:
    # A brace in the name would end the hash tag early, and could make two runs' keys meet.
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


def of_run(run: str) -> list[str]:
    """All keys that belong to the run."""
    return [generation(run), document(run), sessions(run), ranks(run), announced(run)]


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
    """Raises ``ValueError`` where it is none."""
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
    """The generation that wrote the record, and the record. Raises ``ValueError`` where it is none."""
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


def pack_event(event: NewEvent) -> bytes:
    return f"{event.mark} {pack_name(event.run)} ".encode() + event.document


def unpack_event(packed: bytes, score: bytes) -> KeptEvent:
    _, run, document = packed.split(b" ", 2)
    return KeptEvent(int(score), run[1:].decode() if run.startswith(b"+") else None, document)
