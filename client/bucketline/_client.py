"""The public client: one object in each training process. What it does is in ``_engine``; here is who does
it, and where."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from . import _wire
from ._checks import includes, seconds, whole
from ._engine import EXIT_PATIENCE_S, Engine, forget_engines
from ._errors import ClientClosed, EndOfRun, Fenced, UsageError
from ._identity import SESSION_VARIABLE, make_holder, seat, session_name
from ._reader import RankReader, Source
from ._resume import starting_place
from ._transport.tls import Verify
from ._transport.transport import Transport, check_token
from ._transport.urls import Urls, check_urls, shown
from ._types import Batch, Cursor, Json, Session, State
from ._warnings import StartWarning
from ._window import MAX_WINDOW


class BucketClient:
    """The batches of one run, for one rank or several.

    ``url`` is the coordinator's address, ``run`` the run's name, ``token`` ``BUCKETLINE_TOKEN`` unless given
    (without the white space around it). The environment's proxies are used, but for an address on this
    machine and for what ``NO_PROXY`` lists, also as a network (``10.0.0.0/8``).

    Of a coordinator with several replicas ``url`` is the list of their addresses, or one string with commas
    between them. One is asked while it answers; after a connection that fails, a timeout or 502, 503 or 504 it
    is the next one's turn. Processes begin at different ones, by ``RANK``, ``SLURM_PROCID`` or holder, and come
    back to theirs some time after it failed.

    ``verify`` is for ``https://`` with a private CA: the file with its certificates, ``BUCKETLINE_CA_FILE``
    unless given, or an ``ssl.SSLContext`` (which does not pickle). Without either whatever httpx trusts is
    trusted: ``SSL_CERT_FILE``, ``SSL_CERT_DIR``, else the public authorities.

    ``include`` is what batches tell besides, of ``"original_size"`` and ``"crop"``: see ``Batch``.

    ``holder`` names who holds a rank's lease; unless given it is new in every process (host, pid, a random
    part), so a second process that uses a rank takes it over and the first one is ``Fenced``. Processes that
    pass the same holder share the rank: model-parallel peers, which must all see the same batches. They must
    all have asked for their first batch before one of them asks for its second, or have loaded one state.

    ``session`` names one start of the whole job for ``begin``; see there.

    ``window`` (1 to 1,024) is how many batches are kept at hand for each rank. ``timeout_s`` is how long a
    call waits for a coordinator that does not answer before it raises ``CoordinatorUnavailable``; the client
    stays usable then. ``request_timeout_s`` bounds one attempt, ``ack_interval_s`` how old a finished step
    gets before it is acknowledged.

    Nothing is asked and no thread started until a method is called; methods may be called from any thread.

    **fork**: a forked child shares nothing with its parent: it opens its own connection, and takes its own
    lease when it uses a rank, which fences the parent there unless ``holder`` was given. **pickle**: the
    configuration goes along (a token only where it was passed), and the session, but no lease, no batches and
    no holder that was made up. In both, ranks begin at the coordinator's cursor.
    """

    def __init__(
        self,
        url: Urls,
        run: str,
        *,
        token: str | None = None,
        holder: str | None = None,
        session: str | None = None,
        window: int = 64,
        timeout_s: float = 300.0,
        request_timeout_s: float = 10.0,
        ack_interval_s: float = 1.0,
        include: Sequence[str] = (),
        verify: Verify | None = None,
    ) -> None:
        if not isinstance(run, str) or not run:
            raise UsageError(f"run: a name was expected, not {run!r}")
        self.url = ",".join(check_urls(url))
        self.run = run
        self._token = None if token is None else check_token(token)
        self._verify = verify
        self._holder = holder
        self._session = session
        self._window = whole("window", window, 1, MAX_WINDOW)
        self._timeout_s = seconds("timeout_s", timeout_s)
        self._request_timeout_s = seconds("request_timeout_s", request_timeout_s)
        self._ack_interval_s = seconds("ack_interval_s", ack_interval_s, may_be_zero=True)
        self._include = includes(include)
        self._started: str | None = None  # the session that leases are taken in
        self._is_start_checked = False  # a start was asked for, or its absence was told
        self._reset()

    def _reset(self) -> None:
        """What belongs to this process: all that fork and pickle must leave behind."""
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._finalizer: weakref.finalize[..., BucketClient] | None = None
        self._loaded: State | None = None
        self._made_holder: str | None = None
        self._is_closed = False
        _clients.add(self)

    @property
    def holder(self) -> str:
        """Who this process is to the coordinator: what was given, or a name made up for this process."""
        if self._holder is None and self._made_holder is None:
            self._made_holder = make_holder()
        return self._holder or self._made_holder or ""

    @property
    def has_session(self) -> bool:
        """Whether the starts of the job were named: in the constructor, or by ``BUCKETLINE_SESSION``."""
        return bool(self._session or os.environ.get(SESSION_VARIABLE))

    # --- batches --------------------------------------------------------------------------------------------

    def next_batch(self, rank: int) -> Batch:
        """The rank's next batch. Asking for it says that the one before it is finished.

        The first use of a rank takes its lease. Raises ``EndOfRun`` after the last batch, ``Fenced`` once
        another process or a newer start of the job holds the rank (also where batches are still at hand),
        ``CoordinatorUnavailable`` when there was no answer in time, and what the coordinator refused; other
        errors than ``Fenced`` are raised when no batch is at hand, after a try that this call has made, and the
        next call tries again. ``ProtocolError`` where something else than a coordinator answers at the address.
        """
        rank = whole("rank", rank)
        self.check_start(rank)
        batch = (self._engine or self._start_engine()).take(rank, None)
        assert batch is not None
        return batch

    def epoch(self, rank: int, *, ahead: bool = False) -> Iterator[Batch]:
        """The rest of the rank's epoch: the one that its next batch is in. Nothing more once the run has
        ended.

        A batch is finished when the next one is asked for, and the last one when the iterator is exhausted.
        Leaving the loop early leaves its last batch unfinished, until the rank is asked for another.

        ``ahead`` is for loaders that ask for batches before the training loop is through with those that it has:
        then none is finished until ``ack(rank, batch)`` says so, and ``state_dict`` counts none that is not.
        """
        rank = whole("rank", rank)
        self.check_start(rank)
        engine = self._engine or self._start_engine()
        try:
            batch = engine.take(rank, None, ahead)
        except EndOfRun:
            return
        while batch is not None:
            yield batch
            batch = (self._engine or self._start_engine()).take(rank, batch.epoch, ahead)

    def ack(self, rank: int, batch: Batch | Cursor | None = None) -> None:
        """The batch handed out last is finished, though no other is wanted yet; of batches that were taken
        ahead, or read by another process, ``batch`` and all before it. Sent in the background; ``flush`` waits."""
        rank = whole("rank", rank)
        if batch is not None:
            engine = self._engine or self._start_engine()
            engine.finish_upto(rank, Cursor(batch.epoch, batch.step))
        elif self._engine is not None:
            self._engine.finish(rank)

    def put_back(self, rank: int) -> None:
        """Batches that were taken ahead and are not finished are handed out again, in their order."""
        if self._engine is not None:
            self._engine.put_back(whole("rank", rank))

    def num_steps(self, rank: int, epoch: int) -> int | None:
        """How many steps the epoch has; None of one that this rank has not come to."""
        engine = self._engine or self._start_engine()
        engine.open(whole("rank", rank), reads=False)
        return engine.num_steps(rank, whole("epoch", epoch))

    def reader(self, rank: int, *, holder: str) -> RankReader:
        """Another process's way to the rank's batches, such as a DataLoader worker's: it reads any of them under the
        lease of ``holder``, which is that of the process that trains, and acknowledges none. No thread is started."""
        engine = self._engine or self._start_engine()
        source = Source(engine.transport, self.run, self._started, self._include, self._timeout_s)
        return RankReader(source, whole("rank", rank), holder, min(self._window, MAX_WINDOW))

    def flush(self, timeout_s: float | None = None) -> None:
        """Return when the coordinator has acknowledged every finished batch. Raises as ``next_batch``
        does."""
        wait_s = self._timeout_s if timeout_s is None else seconds("timeout_s", timeout_s, may_be_zero=True)
        if self._engine is not None:
            self._engine.flush(wait_s)

    # --- starting and resuming ------------------------------------------------------------------------------

    def begin(
        self, state: Mapping[str, Any] | None, world_size: int | None = None, *, session: str | None = None
    ) -> Session:
        """Begin the training, or resume it: the one call before the first batch, in every process of the job.

        ``state`` is what ``state_dict`` gave to the checkpoint: the ranks of this process begin exactly there. Without
        a checkpoint it is ``None``: they begin at the run's very first step, also on a run that was trained on before.
        ``world_size`` is the job's number of ranks; unless given, the state's, or without one the run's as it was put.

        All processes pass the same arguments, and the *session's* name makes their calls one start of the job. The name
        is the argument, else the constructor's, else ``BUCKETLINE_SESSION``, else it is derived from what torchrun or
        Slurm say; see ``start_session``. Under a name that was used before, as after a crash that did not change it,
        the ranks of this process begin at the asked place all the same; ``SessionReused`` is raised where that start
        dealt the epoch differently, and ``Fenced`` where another start of the job has begun since.
        """
        if state is not None:
            return self._start(_wire.state_from(state), world_size, session)
        if world_size is None:
            world_size = self._ask_run(_wire.planned_world_size_from)
        return self._start(None, world_size, session)

    def dealt_to(self) -> int:
        """The number of ranks that the run deals its batches to at present."""
        return self._ask_run(_wire.present_world_size_from)

    def _ask_run(self, reader: Callable[[Json], int]) -> int:
        engine = self._engine or self._start_engine()
        request = _wire.run_request(self.run)
        return engine.transport.call(request, self._timeout_s, reader)

    def start_session(
        self,
        world_size: int | None = None,
        resume: str | Mapping[str, Any] = "cursor",
        *,
        session: str | None = None,
    ) -> Session:
        """Start the whole job anew: all older leases are fenced, and every rank begins where ``resume`` says. For a
        training ``begin`` is the call.

        ``resume`` is ``"cursor"`` (the slowest rank's cursor), ``"start"`` (the run's very first step) or a
        state dict. Every process of the job calls this with the same arguments; the session's name makes them
        one start. It is the argument, else the constructor's, else ``BUCKETLINE_SESSION``, else torchrun's
        run id and restart count. Without these a job of one rank and one process gets a random name, so every
        call is a start of its own; one of several gets Slurm's job id, restart count and step (each ``srun`` is
        a start), and is refused elsewhere, for its processes would fence each other. One process that serves
        several ranks passes a name too.

        A name that was used before starts nothing. With a state dict this process's ranks begin there all the
        same, and ``SessionReused`` is raised where that start dealt the epoch differently.
        """
        return self._start(_wire.resume_from(resume), world_size, session)

    def _start(self, place: str | State | None, world_size: int | None, session: str | None) -> Session:
        """``place`` as in ``start_session``; None is the run's first step, for this process's ranks in any case."""
        if world_size is None and isinstance(place, State):
            world_size = place.world_size
        if world_size is None:
            raise UsageError("world_size: the number of ranks was expected, or a state dict that tells it")
        world_size = whole("world_size", world_size, 1)
        name = session or self._session or session_name(world_size, os.environ)
        engine = self._engine or self._start_engine()
        if place == "cursor":
            # what is finished belongs in the cursors; a fence is no obstacle: it is why a client starts anew
            engine.flush(self._timeout_s, skip=lambda window: isinstance(window.error, Fenced))
        request = _wire.session_request(self.run, name, world_size, place or "start")
        answer = engine.transport.call(request, self._timeout_s, _wire.session_from)
        start: Cursor | None = None
        self._loaded = None
        if place is None:
            place = State(self.run, answer.fingerprint, Cursor(0, 0), 0, world_size)
        if isinstance(place, State):
            start = starting_place(place, world_size, answer, name)
            deal = answer.deal
            lockstep, begun = deal.lockstep_of(start.epoch), answer.generation_id
            told = start, deal.consumed(start), world_size, lockstep, begun
            self._loaded = State(self.run, answer.fingerprint, *told)
        self._started = name
        self._is_start_checked = True
        engine.restart(name, start, is_anew=place == "start")
        return answer

    def check_start(self, rank: int) -> None:
        """Warn, once, of a job that takes the rank's batches from the coordinator's cursor without having said that it
        wants to. Elsewhere than at the run's start that is the middle of another training."""
        if self._is_start_checked:
            return
        engine = self._engine or self._start_engine()
        engine.open(rank)
        cursor = engine.leased_at(rank)
        self._is_start_checked = True
        if cursor > Cursor(0, 0):
            warnings.warn(
                f"run {self.run!r} is not at its start: rank {rank} goes on at epoch {cursor.epoch} step "
                f"{cursor.step}, and nothing has said that it should. Call begin(state) with a checkpoint's state dict "
                "to resume there, or begin(None) to train from the run's first step, before the first batch and in "
                "every process",
                StartWarning,
                stacklevel=3,
            )

    def state_dict(
        self, rank: int | None = None, *, include_last: bool = True, after: Batch | Cursor | None = None
    ) -> dict[str, Any]:
        """Where the job stands, for its checkpoint. Needs no request (but for a rank that was never used).

        It counts every batch handed out as finished: call it between the optimizer's step and the next batch.
        Within a step, ``include_last=False`` leaves the last one out. Of several ranks in this client the
        slowest counts, of those used since the start; or ``rank`` alone. ``after`` gives the state at which
        that batch (or step) of ``rank`` is the last one finished.
        """
        if rank is not None:
            rank = whole("rank", rank)
        elif after is not None:
            raise UsageError("rank: whose batch 'after' is was expected")
        engine = self._engine or self._start_engine()
        place = None if after is None else Cursor(after.epoch, after.step)
        state = engine.state(rank, include_last, place) or (self._loaded if place is None else None)
        if state is None and rank is not None:
            engine.open(rank, reads=after is None)
            state = engine.state(rank, include_last, place)
        if state is None:
            raise UsageError("no rank has been used yet: pass the rank whose state is wanted")
        return state.to_json()

    def load_state_dict(
        self, state: Mapping[str, Any], world_size: int | None = None, *, session: str | None = None
    ) -> Session:
        """Start a session from a checkpoint's state, for its world size or another; batches at hand are
        dropped.

        Every process of the job calls it, with the same state; see ``start_session`` for the session's name.
        The ranks of this process begin exactly at the state, wherever the coordinator's cursors were.
        """
        return self.start_session(world_size, state, session=session)

    # --- the end --------------------------------------------------------------------------------------------

    def close(self, *, finished: bool = False) -> None:
        """Acknowledge what is finished, then end the thread and the connection. Raises what kept the acks
        from arriving.

        The last batch handed out counts as finished only if ``finished`` says so: ``close`` is also called on
        the way out of a failure. Leaving a ``with`` block without an exception passes True, so leave by an
        exception where the last batch was not trained on. Unfinished batches are handed out again to whoever
        takes the rank next.
        """
        engine = self._shut()
        if engine is None:
            return
        try:
            if finished:
                engine.finish(None)
            engine.flush(self._timeout_s, skip=lambda window: window.is_error_told)
        finally:
            engine.stop()
            engine.join(EXIT_PATIENCE_S)

    def __enter__(self) -> BucketClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close(finished=True)
        elif (engine := self._shut()) is not None:
            # the exception under way is what matters: one try at the acks, without waiting for a coordinator
            engine.stop()
            engine.join(EXIT_PATIENCE_S)

    # --- the process ----------------------------------------------------------------------------------------

    def _start_engine(self) -> Engine:
        with self._lock:
            if self._is_closed:
                raise ClientClosed("the client is closed")
            if self._engine is None:
                holder = self.holder
                urls = check_urls(self.url)
                # of several, one that takes connections and says nothing must leave time to ask the others
                share_s = self._timeout_s / len(urls) if len(urls) > 1 else self._request_timeout_s
                transport = Transport(
                    urls,
                    self._token,
                    request_timeout_s=min(self._request_timeout_s, share_s),
                    verify=self._verify,
                    seat=seat(holder, os.environ),
                )
                self._engine = Engine(
                    transport,
                    self.run,
                    holder=holder,
                    window=self._window,
                    ack_interval_s=self._ack_interval_s,
                    timeout_s=self._timeout_s,
                    include=self._include,
                )
                self._engine.restart(self._started, None)
                self._finalizer = weakref.finalize(self, self._engine.stop)
                self._finalizer.atexit = False  # the engine's module sees to that end
            return self._engine

    def _shut(self) -> Engine | None:
        with self._lock:
            engine, self._engine, self._is_closed = self._engine, None, True
            return engine

    def _after_fork_in_child(self) -> None:
        if self._finalizer is not None:
            self._finalizer.detach()
        was_closed = self._is_closed
        self._reset()
        self._is_closed = was_closed

    def __getstate__(self) -> dict[str, Any]:
        own = ("_lock", "_engine", "_finalizer", "_loaded", "_made_holder")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()
        self._is_closed = state["_is_closed"]

    def __repr__(self) -> str:
        return f"BucketClient({','.join(map(shown, self.url.split(',')))!r}, run={self.run!r})"


_clients: weakref.WeakSet[BucketClient] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    forget_engines()
    for client in list(_clients):
        client._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
