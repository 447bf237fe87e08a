"""One rank's window: the batches at hand, what was handed out, what is finished and what of it is
acknowledged.

No lock, no I/O and no clock in here: the engine holds its lock around every call and passes the time in.

    fetched  ->  ready  ->  out     ->  finished  ->  acknowledged
                 at hand    handed      asked for     the coordinator
                            out         the next one  knows it

One batch at most is out, unless they are taken *ahead*: by a loader that asks for batches before the training loop is
through with those that it has. Then only ``finish`` says which are finished.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ._errors import EndOfRun, Fenced, ProtocolError, UsageError
from ._types import Batch, Cursor, Lease, NextAnswer, State

NEVER_S = float("inf")
MAX_WINDOW = 1024
"""The coordinator's own limit: batches in one answer, and steps that one ack may finish."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request that the window needs. ``finished`` is its ack (inclusive), acknowledged already or not, and
    ``num_finished`` how many batches that is since the lease; ``start`` and ``count`` say what is wanted, or
    ``start`` is None where only the ack matters."""

    finished: Cursor | None
    num_finished: int
    start: Cursor | None
    count: int


class Window:
    """``start`` is where to begin instead of at the lease's cursor: a checkpoint knows better than the
    coordinator. A window that does not ``reads`` fetches nothing until a batch is taken: other processes do that."""

    def __init__(
        self,
        rank: int,
        size: int,
        ack_interval_s: float,
        start: Cursor | None = None,
        reads: bool = True,
    ) -> None:
        self.rank = rank
        self.lease: Lease | None = None
        self.ready: deque[Batch] = deque()
        self.ended = False
        self.error: BaseException | None = None
        self.is_error_told = False
        self._asked_s = NEVER_S  # when the attempt began that came to the error
        self._size = size
        self._low = size // 2
        self._ack_interval_s = ack_interval_s
        self._start = start
        self._wanted: Cursor | None = None  # the first step that is not fetched
        self._reads = reads
        self._last: Batch | None = None
        self._out: deque[Batch] = deque()  # handed out and not finished, the last one at the end
        self._is_ahead = False
        self._finished: Cursor | None = None  # the last finished step, inclusive as an ack is
        self._num_finished = 0
        self._num_acknowledged = 0
        self._ack_due_s = NEVER_S
        self._num_steps: dict[int, int] = {}  # of the epochs whose end is known

    # --- the training loop's side ---------------------------------------------------------------------------

    def take(self, ahead: bool = False, since_s: float = 0.0) -> Batch | None:
        """The next batch, or None where it is not at hand yet. Raises what stands in the way of a call that began at
        ``since_s``.

        Batches at hand are still handed out after an error: the plan does not change. Not so after a fence:
        the rank's new holder is handed the same ones, and going on would train on them twice.
        """
        if not self.ready or isinstance(self.error, Fenced):
            self.raise_error(since_s)
        if len(self._out) >= MAX_WINDOW:
            raise UsageError(
                f"rank {self.rank}: {len(self._out)} batches are handed out and none of them is acknowledged: say "
                "which are finished, with ack(rank, batch)"
            )
        self._reads, self._is_ahead = True, ahead
        if self.ready:
            self._last = self.ready.popleft()
            self._out.append(self._last)
            return self._last
        if self.ended:
            raise EndOfRun(f"rank {self.rank} has had every batch of its run")
        return None

    def raise_error(self, since_s: float) -> None:
        """Raise the error that stands in the way of a call that began at ``since_s``. One that an earlier attempt came
        to is forgotten instead, so that there is another: much may have changed since. A fence stays."""
        error = self.error
        if error is None:
            return
        if self._asked_s < NEVER_S and not isinstance(error, Fenced):
            self.error = None
            if self._asked_s < since_s:
                return
        self.is_error_told = True
        raise error.with_traceback(None)

    def fail(self, error: BaseException, asked_s: float) -> None:
        """An attempt that began at ``asked_s`` came to this error. NEVER_S: not an attempt, so no other would help."""
        if self.error is None or self._asked_s < NEVER_S:
            self.error, self._asked_s = error, asked_s

    def is_end_of_epoch(self, epoch: int) -> bool | None:
        """Whether no batch of ``epoch`` is left to hand out; None where that is not known before an
        answer."""
        last = self._last
        if last is not None and last.epoch == epoch and self._num_steps.get(epoch) == last.step + 1:
            return True
        if self.ready:
            return self.ready[0].epoch != epoch
        return True if self.ended else None

    def finish_last(self, now_s: float) -> bool:
        """The batch handed out last is finished, and with it those before it. True as ``finish``. Of batches that are
        taken ahead nothing is known."""
        if not self._out or self._is_ahead:
            return False
        return self.finish(_place(self._out[-1]), now_s)

    def finish(self, upto: Cursor, now_s: float) -> bool:
        """Step ``upto`` is finished, and every one before it. True where the thread has to hear of it: this is the
        first one since an ack, or half a window has come together."""
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
        """What is handed out and not finished is handed out again."""
        self.ready.extendleft(reversed(self._out))
        self._out.clear()
        self._last = None

    def cursor(self, include_last: bool) -> Cursor | None:
        """The first step that is not finished, the batch handed out last counted as finished or as it is (as it is,
        where batches are taken ahead); None before the rank is leased. It needs no request."""
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
        """How many steps the epoch has; None where that is not known."""
        return self._num_steps.get(epoch)

    def state(self, run: str, include_last: bool, after: Cursor | None = None) -> State | None:
        """Where the job stands; ``after``: once that step is the last one finished."""
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
        """When an ack has to go out by itself."""
        return self._ack_due_s if self.error is None else NEVER_S

    def ask(self, now_s: float, flush: bool) -> Ask | None:
        """What to ask for now, or None. An ack takes along a fetch of what is missing, and the reverse."""
        if self.error is not None or self.lease is None:
            return None
        acknowledges = not self.is_acknowledged
        if not (self.is_low or (acknowledges and (flush or self._is_ack_overdue(now_s)))):
            return None
        # Also what is acknowledged: a store that has lost this lease is told of it by an ack, and by nothing else.
        finished = self._finished
        missing = 0
        if self._reads and not self.ended:
            missing = min(self._size, MAX_WINDOW - len(self._out)) - len(self.ready)
        if missing <= 0:
            return Ask(finished, self._num_finished, None, 1)
        return Ask(finished, self._num_finished, self._wanted, missing)

    def leased(self, lease: Lease) -> None:
        self.lease = lease
        self._learn(lease.cursor, lease.num_steps)
        self._wanted = self._after(self._start or lease.cursor)
        self.ended = lease.num_steps == 0 and self._wanted >= lease.cursor

    def answered(self, ask: Ask, answer: NextAnswer, now_s: float) -> None:
        """Take an answer in. ``ProtocolError`` where it is not exactly what follows: then nothing of it is
        kept."""
        self.is_error_told = False
        self._learn(answer.cursor, answer.num_steps)
        if ask.start is not None:
            self._add(ask.start, answer)
        self._num_acknowledged = ask.num_finished
        self._ack_due_s = NEVER_S if self.is_acknowledged else now_s + self._ack_interval_s

    def _add(self, wanted: Cursor, answer: NextAnswer) -> None:
        if not answer.batches and not answer.done:
            raise ProtocolError(f"rank {self.rank} asked for {wanted} and got nothing, yet it is not the end")
        wanted = self._after(wanted)
        for batch in answer.batches:
            place = _place(batch)
            is_known = wanted.epoch in self._num_steps
            if not is_known and place == Cursor(wanted.epoch + 1, 0):
                # the end of an epoch that the cursor has not reached
                self._num_steps[wanted.epoch] = wanted.step
                wanted = place
            if place != wanted or batch.rank != self.rank:
                raise ProtocolError(
                    f"rank {self.rank} asked for {wanted} and got {place} of rank {batch.rank}"
                )
            wanted = self._after(Cursor(place.epoch, place.step + 1))
        if answer.done and wanted.step > 0:
            self._num_steps[wanted.epoch] = wanted.step  # a run ends with an epoch
            wanted = self._after(wanted)
        self.ready.extend(answer.batches)
        self._wanted = wanted
        self.ended = answer.done

    def _learn(self, cursor: Cursor, num_steps: int) -> None:
        """Of a run that is over there is no epoch to have steps: 0."""
        if num_steps > 0:
            self._num_steps[cursor.epoch] = num_steps

    def _is_ack_overdue(self, now_s: float) -> bool:
        waiting = self._num_finished - self._num_acknowledged
        return waiting > 0 and (waiting >= self._low or now_s >= self._ack_due_s)

    def _after(self, cursor: Cursor) -> Cursor:
        """The cursor itself, or the next epoch's first step where this epoch is known to end before it."""
        return Cursor(cursor.epoch + 1, 0) if self._num_steps.get(cursor.epoch) == cursor.step else cursor


def _place(batch: Batch) -> Cursor:
    return Cursor(batch.epoch, batch.step)
