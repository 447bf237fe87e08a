"""Reading a rank's batches outside the process that trains: under its lease, in order, without acknowledging any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from . import _wire
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
