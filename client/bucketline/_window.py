"""One rank's window of batches: prefetched, handed out, finished, acknowledged.

No lock, no I/O and no clock: the engine holds its lock around every call and passes the time in.

    fetched  ->  ready       ->  out         ->  finished        ->  acknowledged
                 prefetched      handed out      the next one        the coordinator
                                                 was requested       knows it

At most one batch is out, unless they are taken *ahead*: by a loader that requests batches before the training loop has
finished those it has. Then only ``finish`` says which are finished.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ._errors import EndOfRun, Fenced, ProtocolError, UsageError
from ._types import AnyBatch, Batch, Cursor, Lease, NextAnswer, Pack, State

NEVER_S = float("inf")
MAX_WINDOW = 1024
"""The coordinator's limit of batches in one answer, and of steps that one ack may finish."""

BatchTypes = tuple[type[AnyBatch], ...]
ANY_BATCH: BatchTypes = (Batch, Pack)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request that the window needs. ``finished`` is its ack (inclusive), whether acknowledged already or not, and
    ``num_finished`` how many batches that is since the lease. ``start`` and ``count`` say which batches to get;
    ``start`` is None if only the ack matters."""

    finished: Cursor | None
    num_finished: int
    start: Cursor | None
    count: int


class Window:
    """``start`` is where to begin instead of at the lease's cursor: a checkpoint knows better than the coordinator.
    Without ``reads`` nothing is fetched until a batch is taken, because other processes read the batches."""

    def __init__(
        self, rank: int, size: int, ack_interval_s: float, start: Cursor | None = None, reads: bool = True
    ) -> None:
        self.rank = rank
        self.lease: Lease | None = None
        self.ready: deque[AnyBatch] = deque()
        self.ended = False
        self.error: BaseException | None = None
        self.is_error_raised = False
        self._asked_s = NEVER_S  # when the attempt began that ended in the error
        self._size = size
        self._low = size // 2
        self._ack_interval_s = ack_interval_s
        self._start = start
        self._next: Cursor | None = None  # the first step that is not fetched
        self._reads = reads
        self._last: AnyBatch | None = None
        self._out: deque[AnyBatch] = deque()  # handed out and not finished, the last one at the end
        self._is_ahead = False
        self._finished: Cursor | None = None  # the last finished step, inclusive as an ack is
        self._num_finished = 0
        self._num_acknowledged = 0
        self._ack_due_s = NEVER_S
        self._num_steps: dict[int, int] = {}  # of the epochs whose end is known

    # --- the training loop's side ---------------------------------------------------------------------------

    def take(
        self, ahead: bool = False, since_s: float = 0.0, types: BatchTypes = ANY_BATCH
    ) -> AnyBatch | None:
        """The next batch, or None if it is not prefetched yet. Raises the error that blocks a call that began at
        ``since_s``, and ``UsageError`` if the batch is of none of ``types``.

        Prefetched batches are still handed out after an error, because the plan does not change. After a fence they
        are not: the rank's new holder gets the same ones, and continuing would train on them twice.
        """
        if not self.ready or isinstance(self.error, Fenced):
            self.raise_error(since_s)
        if len(self._out) >= MAX_WINDOW:
            raise UsageError(
                f"rank {self.rank}: {len(self._out)} batches are handed out and none of them is acknowledged: call "
                "ack(rank, batch) for those that are finished"
            )
        self.check_type(types)
        self._reads, self._is_ahead = True, ahead
        if self.ready:
            self._last = self.ready.popleft()
            self._out.append(self._last)
            return self._last
        if self.ended:
            raise EndOfRun(f"rank {self.rank} has had every batch of its run")
        return None

    def check_type(self, types: BatchTypes) -> None:
        """``UsageError`` if the run is known to serve none of ``types``. Changes nothing."""
        known = self.ready[0] if self.ready else self._last
        if known is None or isinstance(known, types):
            return
        if isinstance(known, Pack):
            raise UsageError(
                f"rank {self.rank}: the run serves packs, in which each image has a size of its own: call next_pack or "
                "packs instead of next_batch or epoch"
            )
        raise UsageError(
            f"rank {self.rank}: the run serves batches of one resolution, not packs: call next_batch or epoch instead "
            "of next_pack or packs"
        )

    def raise_error(self, since_s: float) -> None:
        """Raise the error that blocks a call that began at ``since_s``. The error of an earlier attempt is forgotten
        instead, so that there is a new attempt: much may have changed since. A fence stays."""
        error = self.error
        if error is None:
            return
        if self._asked_s < NEVER_S and not isinstance(error, Fenced):
            self.error = None
            if self._asked_s < since_s:
                return
        self.is_error_raised = True
        raise error.with_traceback(None)

    def fail(self, error: BaseException, asked_s: float) -> None:
        """An attempt that began at ``asked_s`` ended in this error. NEVER_S: not an attempt, so none would help."""
        if self.error is None or self._asked_s < NEVER_S:
            self.error, self._asked_s = error, asked_s

    def is_end_of_epoch(self, epoch: int) -> bool | None:
        """Whether no batch of ``epoch`` is left to hand out; None if only the next answer can tell."""
        last = self._last
        if last is not None and last.epoch == epoch and self._num_steps.get(epoch) == last.step + 1:
            return True
        if self.ready:
            return self.ready[0].epoch != epoch
        return True if self.ended else None

    def finish_last(self, now_s: float) -> bool:
        """The batch handed out last is finished, and with it those before it. Returns as ``finish``. Nothing happens if
        batches are taken ahead."""
        if not self._out or self._is_ahead:
            return False
        return self.finish(_place(self._out[-1]), now_s)

    def finish(self, upto: Cursor, now_s: float) -> bool:
        """Step ``upto`` is finished, and every one before it. True if the thread must be notified: it is the
        first one since an ack, or half a window is waiting."""
        if self._finished is not None and upto <= self._finished:
            return False
        num_out = len(self._out)
        while self._out and _place(self._out[0]) <= upto:
            self._out.popleft()
        self._finished = upto
        self._num_finished += max(1, num_out - len(self._out))
        if self._ack_due_s == NEVER_S:
            self._ack_due_s = now_s + self._ack_interval_s
            return True
        return self._is_ack_overdue(now_s)

    def put_back(self) -> None:
        """Hand out again what is handed out and not finished."""
        self.ready.extendleft(reversed(self._out))
        self._out.clear()
        self._last = None

    def cursor(self, include_last: bool) -> Cursor | None:
        """The first step that is not finished; None before the rank is leased. Needs no request. ``include_last``:
        count the batch handed out last as finished, unless batches are taken ahead."""
        if self._out and (self._is_ahead or not include_last):
            return _place(self._out[0])
        if self._last is None and self._finished is None:
            if self._start is not None:
                return self._after(self._start)
            return self.lease.cursor if self.lease is not None else None
        if self.ready:
            return _place(self.ready[0])
        done = self._finished if self._last is None else _place(self._last)
        assert done is not None
        return self._after(Cursor(done.epoch, done.step + 1))

    def num_steps(self, epoch: int) -> int | None:
        """How many steps the epoch has; None if unknown."""
        return self._num_steps.get(epoch)

    def state(self, run: str, include_last: bool, after: Cursor | None = None) -> State | None:
        """The job's state; with ``after``, the state once that step is the last one finished."""
        cursor = (
            self.cursor(include_last) if after is None else self._after(Cursor(after.epoch, after.step + 1))
        )
        if self.lease is None or cursor is None:
            return None
        deal = self.lease.deal
        return State(
            run,
            self.lease.fingerprint,
            cursor,
            deal.consumed(cursor),
            deal.world_size,
            deal.lockstep_of(cursor.epoch),
            self.lease.generation_id,
        )

    # --- the thread's side ----------------------------------------------------------------------------------

    @property
    def is_low(self) -> bool:
        return self._reads and not self.ended and len(self.ready) <= self._low

    @property
    def is_acknowledged(self) -> bool:
        return self._num_finished == self._num_acknowledged

    @property
    def ack_due_s(self) -> float:
        """When an ack must be sent even if no batch is needed."""
        return self._ack_due_s if self.error is None else NEVER_S

    def ask(self, now_s: float, flush: bool) -> Ask | None:
        """What to request now, or None. An ack also fetches what is missing, and the reverse."""
        if self.error is not None or self.lease is None:
            return None
        acknowledges = not self.is_acknowledged
        if not (self.is_low or (acknowledges and (flush or self._is_ack_overdue(now_s)))):
            return None
        # Sent again even if acknowledged: a store that has lost this lease learns of it from an ack alone.
        finished = self._finished
        missing = 0
        if self._reads and not self.ended:
            missing = min(self._size, MAX_WINDOW - len(self._out)) - len(self.ready)
        if missing <= 0:
            return Ask(finished, self._num_finished, None, 1)
        return Ask(finished, self._num_finished, self._next, missing)

    def leased(self, lease: Lease) -> None:
        self.lease = lease
        self._learn(lease.cursor, lease.num_steps)
        self._next = self._after(self._start or lease.cursor)
        self.ended = lease.num_steps == 0 and self._next >= lease.cursor

    def answered(self, ask: Ask, answer: NextAnswer, now_s: float) -> None:
        """Take an answer in. ``ProtocolError`` if it is not exactly what follows; then nothing of it is kept."""
        self.is_error_raised = False
        self._learn(answer.cursor, answer.num_steps)
        if ask.start is not None:
            self._add(ask.start, answer)
        self._num_acknowledged = ask.num_finished
        self._ack_due_s = NEVER_S if self.is_acknowledged else now_s + self._ack_interval_s

    def _add(self, start: Cursor, answer: NextAnswer) -> None:
        if not answer.batches and not answer.done:
            raise ProtocolError(
                f"rank {self.rank} requested {start} and got nothing, although the run has not ended"
            )
        expected = self._after(start)
        for batch in answer.batches:
            place = _place(batch)
            is_known = expected.epoch in self._num_steps
            if not is_known and place == Cursor(expected.epoch + 1, 0):
                # the end of an epoch that the cursor has not reached
                self._num_steps[expected.epoch] = expected.step
                expected = place
            if place != expected or batch.rank != self.rank:
                raise ProtocolError(
                    f"rank {self.rank} requested {expected} and got {place} of rank {batch.rank}"
                )
            expected = self._after(Cursor(place.epoch, place.step + 1))
        if answer.done and expected.step > 0:
            self._num_steps[expected.epoch] = expected.step  # a run ends with an epoch
            expected = self._after(expected)
        self.ready.extend(answer.batches)
        self._next = expected
        self.ended = answer.done

    def _learn(self, cursor: Cursor, num_steps: int) -> None:
        """``num_steps`` is 0 if the run is over: then there is no such epoch."""
        if num_steps > 0:
            self._num_steps[cursor.epoch] = num_steps

    def _is_ack_overdue(self, now_s: float) -> bool:
        waiting = self._num_finished - self._num_acknowledged
        return waiting > 0 and (waiting >= self._low or now_s >= self._ack_due_s)

    def _after(self, cursor: Cursor) -> Cursor:
        """The cursor itself, or the next epoch's first step if this epoch is known to end before it."""
        return Cursor(cursor.epoch + 1, 0) if self._num_steps.get(cursor.epoch) == cursor.step else cursor


def _place(batch: AnyBatch) -> Cursor:
    return Cursor(batch.epoch, batch.step)
