"""Reading a rank's batches without acknowledging any: outside the process that trains, under its lease; and from the
plan, without a lease."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from . import _wire
from ._errors import ProtocolError
from ._transport.transport import Transport
from ._types import AnyBatch, Cursor, Json, Lease, State

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """Where batches come from: a run, and the start of the job (``session``) in which leases are taken."""

    transport: Transport
    run: str
    session: str | None
    include: tuple[str, ...]
    timeout_s: float


class RankReader:
    """Requests ``count`` batches at a time, in the caller's own thread, which is ahead of the training loop anyway."""

    def __init__(self, source: Source, rank: int, holder: str, count: int) -> None:
        self._source = source
        self._rank = rank
        self._count = count
        request = _wire.lease_request(source.run, rank, holder, source.session)
        self._lease: Lease = self._ask(request, _wire.lease_from)

    @property
    def cursor(self) -> Cursor:
        """The rank's place when it was leased."""
        return self._lease.cursor

    def state(self, place: Cursor) -> State:
        """The job's state when every rank stands at ``place``, as the present start of the job shards the epoch."""
        deal = self._lease.deal
        return State(self._source.run, self._lease.fingerprint, place, deal.consumed(place), deal.world_size)

    def epoch(self, start: Cursor) -> Iterator[AnyBatch]:
        """The batches from ``start`` to the end of its epoch."""
        place: Cursor | None = start
        while place is not None:
            request = _wire.next_request(
                self._source.run, self._rank, self._lease, None, place, self._count, self._source.include
            )
            answer = self._ask(request, _wire.next_from)
            place = None
            for batch in answer.batches:
                if batch.epoch != start.epoch:
                    return
                yield batch
                place = None if answer.done else Cursor(batch.epoch, batch.step + 1)

    def _ask(self, request: _wire.Request, reader: Callable[[Json], T]) -> T:
        return self._source.transport.call(request, self._source.timeout_s, reader)


class PlanReader:
    """Reads an epoch of the plan as ``world_size`` ranks train it from its start, ``count`` batches at a time."""

    def __init__(self, source: Source, rank: int, world_size: int, epoch: int, count: int) -> None:
        self._source = source
        self._rank = rank
        self._world_size = world_size
        self._epoch = epoch
        self._count = count

    def num_steps(self) -> int:
        """Raises ``ProtocolError`` if the coordinator is too old to report it."""
        num_steps = self._read(0, 1)[1]
        if num_steps is None:
            raise ProtocolError(
                "the coordinator is too old to report the number of steps of an epoch: upgrade it"
            )
        return num_steps

    def batches(self) -> Iterator[AnyBatch]:
        """All batches of the epoch."""
        step, num_steps = 0, None
        while step != num_steps:
            found, num_steps = self._read(step, self._count)
            for batch in found:
                if batch.epoch != self._epoch:
                    return
                yield batch
                step = batch.step + 1
            if not found:
                return

    def _read(self, step: int, count: int) -> tuple[list[AnyBatch], int | None]:
        of, place = self._source, Cursor(self._epoch, step)
        request = _wire.plan_request(of.run, self._rank, self._world_size, place, count, of.include)
        return of.transport.call(request, of.timeout_s, _wire.planned_from)
