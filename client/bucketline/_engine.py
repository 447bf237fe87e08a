"""The windows of one client in one process, and the thread that prefetches and acknowledges batches.

All requests for batches are made by that thread, one at a time; callers only wait for it. So a deadline runs while a
caller waits, never while batches are available: a coordinator that is away for an hour is no error for a training loop
that has an hour's batches.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
import weakref
from collections.abc import Callable

from . import _wire
from ._errors import (
    BucketlineError,
    ClientClosed,
    CoordinatorUnavailable,
    Fenced,
    ProtocolError,
    Refused,
    UsageError,
)
from ._identity import SESSION_VARIABLE
from ._outbox import BatchReport, ImageKey, Outbox
from ._transport.failures import Unanswered
from ._transport.retry import Backoff, log_level
from ._transport.transport import Transport, log
from ._types import AnyBatch, Cursor, Json, State
from ._window import ANY_BATCH, NEVER_S, Ask, BatchTypes, Window

EXIT_PATIENCE_S = 5.0
"""How long the interpreter waits at exit for a last ack that is under way."""

Job = tuple[Window, Ask | None] | BatchReport
"""A window and the request that it needs, None for its lease; or a report to be sent."""


class Engine:
    """Belongs to the process that made it, and must never be used in a forked child: its lock may be held there.

    ``holder`` names this process to the coordinator.
    """

    def __init__(
        self,
        transport: Transport,
        run: str,
        *,
        holder: str,
        window: int,
        ack_interval_s: float,
        timeout_s: float,
        include: tuple[str, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.transport = transport
        self._run_name = run
        self._holder = holder
        # the start of the job in which leases are taken; None: the present one
        self._session: str | None = None
        self._start: Cursor | None = None
        self._is_from_start = False  # the session was started to begin the run at its first step
        self._size = window
        self._ack_interval_s = ack_interval_s
        self._timeout_s = timeout_s
        self._include = include
        self._clock = clock
        # re-entrant: the garbage collector may call stop() in any thread, also in one that holds the lock
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)  # the thread waits here for something to do
        self._news = threading.Condition(self._lock)  # callers wait here for answers
        self._windows: dict[int, Window] = {}
        self._outbox = Outbox()
        self._was_report = False  # the last job was a report
        self._is_refusal_told = False
        self._thread: threading.Thread | None = None
        self._flushes = 0
        self._is_stopping = False
        self._backoff = Backoff()
        self._failure: Unanswered | None = None
        self._failed_at_s = 0.0
        self._retry_at_s = 0.0
        self._not_before_s = 0.0
        _live.add(self)

    # --- called by the training loop's threads --------------------------------------------------------------

    def take(
        self, rank: int, epoch: int | None, ahead: bool = False, types: BatchTypes = ANY_BATCH
    ) -> AnyBatch | None:
        """The rank's next batch, which finishes the one before it unless batches are taken ``ahead``; None if ``epoch``
        has no further one. ``UsageError`` if the run's batches are of none of ``types``; then nothing is finished."""
        started_s = self._clock()
        with self._lock:
            window = self._window(rank)
            window.check_type(types)
            if not ahead and window.finish_last(started_s):
                self._work.notify()
            while True:
                if epoch is not None and window.is_end_of_epoch(epoch):
                    return None
                batch = window.take(ahead, started_s, types)
                if batch is not None:
                    if window.is_low:
                        self._work.notify()
                    return batch
                self._wait(started_s, self._timeout_s, f"rank {rank}'s next batch")

    def finish(self, rank: int | None) -> None:
        """The last batch handed out is finished: of one rank, or of all."""
        with self._lock:
            for window in self._windows.values():
                if rank in (None, window.rank) and window.finish_last(self._clock()):
                    self._work.notify()

    def finish_upto(self, rank: int, upto: Cursor) -> None:
        """Step ``upto`` of the rank and all before it are finished, whichever process has read them."""
        with self._lock:
            if self._window(rank, reads=False).finish(upto, self._clock()):
                self._work.notify()

    def report(self, rank: int, place: Cursor, images: dict[ImageKey, Json]) -> None:
        """Images of the batch of ``rank`` at ``place`` could not be used. Sent in the background."""
        with self._lock:
            if self._is_stopping:
                raise ClientClosed("the client is closed")
            self._outbox.add(rank, place, images)
            self._start_thread()
            self._work.notify()

    def put_back(self, rank: int) -> None:
        with self._lock:
            if rank in self._windows:
                self._windows[rank].put_back()

    def num_steps(self, rank: int, epoch: int) -> int | None:
        with self._lock:
            return self._windows[rank].num_steps(epoch) if rank in self._windows else None

    def open(self, rank: int, reads: bool = True) -> None:
        """Return when the rank is leased."""
        started_s = self._clock()
        with self._lock:
            window = self._window(rank, reads)
            while window.lease is None:
                window.raise_error(started_s)
                self._wait(started_s, self._timeout_s, f"rank {rank}'s lease")

    def leased_at(self, rank: int) -> Cursor:
        """The cursor at which the rank, which is open, was leased."""
        with self._lock:
            lease = self._windows[rank].lease
        assert lease is not None
        return lease.cursor

    def state(self, rank: int | None, include_last: bool, after: Cursor | None = None) -> State | None:
        """The state at the slowest of the ranks used so far, or at one rank; None if none is leased. ``after`` as in
        ``Window.state``."""
        with self._lock:
            states = [
                state
                for window in self._windows.values()
                if rank in (None, window.rank)
                and (state := window.state(self._run_name, include_last, after))
            ]
        return min(states, key=lambda state: state.cursor, default=None)

    def flush(self, timeout_s: float, skip: Callable[[Window], bool] = lambda window: False) -> None:
        """Return when the coordinator has acknowledged all that is finished, except in windows to ``skip``, and has the
        reports. Raises the error that prevents the acknowledgements; a warning is logged of reports that wait."""
        started_s = self._clock()
        with self._lock:
            self._flushes += 1
            try:
                while waiting := [w for w in self._windows.values() if not (w.is_acknowledged or skip(w))]:
                    for window in waiting:
                        window.raise_error(started_s)
                    self._wait(started_s, timeout_s, f"rank {waiting[0].rank}'s ack")
                while self._outbox.num_waiting:
                    self._wait(started_s, timeout_s, "reports of images")
            except (CoordinatorUnavailable, ProtocolError) as error:
                if any(not (w.is_acknowledged or skip(w)) for w in self._windows.values()):
                    raise
                log.warning("%d reports of images are not sent yet: %s", self._outbox.num_waiting, error)
            finally:
                self._flushes -= 1

    def restart(self, session: str | None, start: Cursor | None, *, is_from_start: bool = False) -> None:
        """Drop all windows; ranks are leased again on their next use, in ``session``, and begin at ``start``.
        ``is_from_start``: at the run's first step; a warning is logged if the session turns out to be an older one."""
        with self._lock:
            self._drop_windows(UsageError("a session was started while this call waited"))
            self._session, self._start, self._is_from_start = session, start, is_from_start

    def stop(self) -> None:
        """Let the thread try once more to acknowledge what is finished, and end. Does not wait; may be called more than
        once."""
        with self._lock:
            self._is_stopping = True
            if self._thread is None:
                self.transport.close()
            self._work.notify_all()

    def join(self, timeout_s: float) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    # --- with the lock held ---------------------------------------------------------------------------------

    def _window(self, rank: int, reads: bool = True) -> Window:
        window = self._windows.get(rank)
        if window is None:
            if self._is_stopping:
                raise ClientClosed("the client is closed")
            window = Window(rank, self._size, self._ack_interval_s, self._start, reads)
            self._windows[rank] = window
            self._start_thread()
            self._work.notify()
        return window

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="bucketline-prefetch", daemon=True)
            self._thread.start()
            _stop_with_worker()

    def _wait(self, started_s: float, timeout_s: float, what: str) -> None:
        """Wait for any news, and make sure that there is an attempt while a caller waits."""
        if self._is_stopping:
            raise ClientClosed("the client was closed while this call waited")
        now_s, until_s = self._clock(), self.transport.deadline_s(started_s, timeout_s)
        if now_s >= until_s:
            failures, cause = self._backoff.failures, self._failure
            raise self.transport.unavailable(what, cause, failures, now_s - started_s) from cause
        if started_s >= self._failed_at_s:  # once for each waiting call, or it would retry without a pause
            self._retry_at_s = min(self._retry_at_s, self._not_before_s)
        self._work.notify()
        self._news.wait(_bounded(until_s - now_s))

    def _drop_windows(self, error: BucketlineError) -> None:
        for window in self._windows.values():
            window.fail(error, NEVER_S)  # for the callers that wait on it
        self._windows = {}
        self._news.notify_all()

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (job := self._next_job()) is not None:
                self._do(job)
            self._last_try()
        except BaseException as exc:
            log.exception("bucketline's thread ended: this is a bug in bucketline")
            with self._lock:
                for window in self._windows.values():
                    window.fail(window.error or exc, NEVER_S)
                self._is_stopping = True
        finally:
            with self._lock:
                self._news.notify_all()
            self.transport.close()

    def _next_job(self) -> Job | None:
        """Wait for something to do; None when it is time to end."""
        with self._lock:
            while not self._is_stopping:
                now_s = self._clock()
                if now_s >= self._retry_at_s:
                    if (job := self._pick(now_s)) is not None:
                        return job
                    due_s = (window.ack_due_s for window in self._windows.values())
                    wake_s = min(self._outbox.due_s, *due_s, NEVER_S)
                else:
                    wake_s = self._retry_at_s
                self._work.wait(_bounded(max(0.0, wake_s - now_s)))
            return None

    def _pick(self, now_s: float) -> Job | None:
        """The emptiest window first: somebody may be waiting for it. A report takes its turn with an empty one, and
        goes before the others."""
        jobs: list[tuple[Window, Ask | None]] = []
        for window in self._windows.values():
            if window.lease is None and window.error is None:
                jobs.append((window, None))
            elif (ask := window.ask(now_s, self._flushes > 0)) is not None:
                jobs.append((window, ask))
        job = min(jobs, key=lambda job: len(job[0].ready), default=None)
        report = self._outbox.take(now_s, self._flushes > 0)
        if report is None or (job is not None and self._was_report and not job[0].ready):
            self._was_report = False
            return job
        self._was_report = True
        return report

    def _do(self, job: Job) -> None:
        """One attempt at one job."""
        if isinstance(job, BatchReport):
            self._send(job)
        else:
            self._ask(*job)

    def _ask(self, window: Window, ask: Ask | None) -> None:
        """The window learns of the result, even if it was dropped meanwhile."""
        asked_s = self._clock()
        try:
            if ask is None:
                request = _wire.lease_request(self._run_name, window.rank, self._holder, self._session)
                lease = self.transport.attempt(request, _wire.lease_from)
                with self._lock:
                    window.leased(lease)
                    self._warn_if_used(window.rank, lease.cursor)
            else:
                assert window.lease is not None
                request = _wire.next_request(
                    self._run_name,
                    window.rank,
                    window.lease,
                    ask.finished,
                    ask.start,
                    ask.count,
                    self._include,
                )
                answer = self.transport.attempt(request, _wire.next_from)
                with self._lock:
                    window.answered(ask, answer, self._clock())
        except Unanswered as exc:
            self._failed(request, exc)
            return
        except BucketlineError as exc:
            with self._lock:
                window.fail(exc, asked_s)
        self._answered(is_sent=not isinstance(window.error, UsageError))

    def _send(self, report: BatchReport) -> None:
        """A report that the coordinator refuses is dropped with a warning: it must not stop the training."""
        request = _wire.report_request(
            self._run_name, report.rank, report.place, list(report.images.values())
        )
        error: BucketlineError | None = None
        try:
            self.transport.attempt(request, _wire.document)
        except Unanswered as exc:
            self._failed(request, exc)
            return
        except BucketlineError as exc:
            error = exc
        with self._lock:
            if error is None:
                self._outbox.settled(report)
                self._is_refusal_told = False
            else:
                self._report_refused(report, error)
        self._answered(is_sent=not isinstance(error, UsageError))

    def _report_refused(self, report: BatchReport, error: BucketlineError) -> None:
        """Only the images that are wrong, where some are: the others are sent again. Otherwise the warning is logged
        once, until a report is accepted: an older coordinator refuses all of them."""
        wrong = error.problem.get("indexes") if isinstance(error, Refused) else None
        if isinstance(wrong, list) and wrong and set(wrong) <= set(range(len(report.images))):
            images = self._outbox.settled(report, only=wrong)
            ids = ", ".join(repr(image["id"]) for image in images[:3])
            more = f" and {len(images) - 3} more" if len(images) > 3 else ""
            log.warning(
                "reports of images that the run does not have are dropped: %s%s: %s", ids, more, error
            )
            return
        self._outbox.settled(report)
        if not self._is_refusal_told:
            self._is_refusal_told = True
            older = isinstance(error, Refused) and error.status in (404, 405)
            log.warning(
                "reports of images are dropped, because they are refused: %s%s",
                error,
                ". A coordinator of an older release does not know them: upgrade it" if older else "",
            )

    def _answered(self, *, is_sent: bool) -> None:
        with self._lock:
            if self._failure is not None and is_sent:
                log.info("%s answers again after %d failures", self.transport.url, self._backoff.failures)
            self._backoff.reset()
            self._failure = None
            self._news.notify_all()

    def _warn_if_used(self, rank: int, cursor: Cursor) -> None:
        if self._is_from_start and cursor > Cursor(0, 0):
            log.warning(
                "session %r was started before, so nothing is started again: rank %d resumes at epoch %d step %d. Give "
                "every start of the job a new name, in session= or %s",
                *(self._session, rank, *cursor, SESSION_VARIABLE),
            )

    def _failed(self, request: _wire.Request, failure: Unanswered) -> None:
        with self._lock:
            delay_s = self._backoff.next_delay_s(failure.retry_after_s)
            now_s = self._clock()
            self._failure, self._failed_at_s = failure, now_s
            self._retry_at_s = now_s + delay_s
            self._not_before_s = now_s + (failure.retry_after_s or 0.0)
            log.log(log_level(self._backoff.failures), "%s: %s; again in %.1f s", request, failure, delay_s)
            self._news.notify_all()  # the deadline may be an earlier one now

    def _last_try(self) -> None:
        """Acknowledge what is finished and send the reports, once and without a retry: the program ends, or has dropped
        its client."""
        with self._lock:
            windows = list(self._windows.values())
        for window in windows:
            if not isinstance(window.error, Fenced):
                window.error = None
            ask = window.ask(self._clock(), flush=True)
            if ask is not None and not window.is_acknowledged and self._failure is None:
                self._ask(window, Ask(ask.finished, ask.num_finished, None, 1))
        while self._failure is None:
            with self._lock:
                report = self._outbox.take(self._clock(), flush=True)
            if report is None:
                break
            self._send(report)
        lost = self._outbox.num_waiting + self._outbox.num_refused
        if lost:
            log.warning(
                "%d reports of images that could not be used are lost: %s", lost, self._failure or "too many"
            )


def _bounded(wait_s: float) -> float:
    """``Condition.wait`` does not accept infinity; callers look at the clock again anyway."""
    return min(wait_s, threading.TIMEOUT_MAX)


_live: weakref.WeakSet[Engine] = weakref.WeakSet()


def forget_engines() -> None:
    """In a forked child: the parent's engines must not be stopped by this process."""
    global _live
    _live = weakref.WeakSet()


def _stop_with_worker() -> None:
    """A process of ``multiprocessing``, such as a DataLoader's worker, ends without what is registered with atexit."""
    processes, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if processes is not None and util is not None and processes.parent_process() is not None:
        util.Finalize(None, _stop_engines, exitpriority=0)


@atexit.register
def _stop_engines() -> None:
    engines = list(_live)
    for engine in engines:
        engine.stop()
    for engine in engines:
        engine.join(EXIT_PATIENCE_S)
