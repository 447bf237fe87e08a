"""The public client: one object in each training process. What it does is in ``_engine``, and what belongs to the
process in ``_process``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

from . import _wire
from ._checks import check_token, image_ids, includes, report_detail, report_reason, seconds, whole
from ._engine import EXIT_PATIENCE_S, Engine
from ._errors import EndOfRun, Fenced, UsageError
from ._identity import SESSION_VARIABLE, preferred_replica, session_name
from ._process import ProcessBound
from ._reader import PlanReader, RankReader, Source
from ._resume import first_step
from ._transport.tls import Verify
from ._transport.transport import Transport
from ._transport.urls import Urls, check_urls, without_credentials
from ._types import AnyBatch, Batch, Cursor, HasPlace, Json, Pack, Session, State
from ._warnings import StartWarning
from ._window import ANY_BATCH, MAX_WINDOW, BatchTypes


class BucketClient(ProcessBound):
    """The batches of one run, for one rank or several.

    ```python
    with BucketClient("http://coordinator:7700", run="sdxl-base") as client:
        client.begin(checkpoint["data"] if checkpoint else None)
        for batch in client.epoch(rank):
            train(batch.ids, batch.width, batch.height)
    ```

    The constructor sends no request and starts no thread. Methods may be called from any thread.

    **Replicas**: one replica is asked as long as it answers; after a failed connection, a timeout, or 502, 503 or 504
    the next one is asked. Processes start at different replicas, by `RANK`, `SLURM_PROCID` or holder, and return to
    theirs some time after it failed.

    **Proxies** are those of the environment, except for an address on this machine and for what `NO_PROXY` lists,
    which may be a network (`10.0.0.0/8`).

    **fork**: a forked child shares nothing with its parent. It opens its own connection, and takes its own lease when
    it uses a rank, which fences the parent there unless `holder` was given. **pickle**: the configuration is copied (a
    token only if it was passed), and the session, but no lease, no batches and no generated holder. In both cases
    ranks begin at the coordinator's cursor.

    Args:
        url: the coordinator's address; if it has several replicas, a list of their addresses or one string with commas
            between them.
        run: the run's name.
        token: `BUCKETLINE_TOKEN` (without surrounding white space) unless given.
        holder: names the holder of a rank's lease. Unless given it is new in every process (host, pid, a random part),
            so a second process that uses a rank takes it over and the first one is `Fenced`. Processes that pass the
            same holder share the rank: model-parallel peers, which must all see the same batches. All of them must
            have requested their first batch before one requests its second, or have loaded the same state.
        session: names one start of the whole job; see `begin`.
        window: how many batches are prefetched for each rank, 1 to 1,024.
        timeout_s: how long a call waits for a coordinator that does not answer, in seconds, before it raises
            `CoordinatorUnavailable`.
        request_timeout_s: the limit of one attempt, in seconds.
        ack_interval_s: how old a finished step may get before it is acknowledged, in seconds.
        include: what batches contain in addition: `"original_size"`, `"crop"`, or both; see `Batch` and `Pack`.
        verify: for `https://` with a private CA: the file with its certificates, or an `ssl.SSLContext` (which cannot
            be pickled). `BUCKETLINE_CA_FILE` unless given, else what httpx trusts: `SSL_CERT_FILE`, `SSL_CERT_DIR`, or
            the public authorities.

    Raises:
        UsageError: if an argument is wrong.
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
            raise UsageError(f"run must be the name of a run, got {run!r}")
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
        self._started: str | None = None  # the session in which leases are taken
        self._is_start_checked = False  # the job has said where it starts, or was warned that it has not
        self._reset()

    def _make_engine(self) -> Engine:
        holder = self.holder
        urls = check_urls(self.url)
        # a replica that accepts connections and never answers must leave time to ask the others
        share_s = self._timeout_s / len(urls) if len(urls) > 1 else self._request_timeout_s
        transport = Transport(
            urls,
            self._token,
            request_timeout_s=min(self._request_timeout_s, share_s),
            verify=self._verify,
            preferred_replica=preferred_replica(holder, os.environ),
        )
        engine = Engine(
            transport,
            self.run,
            holder=holder,
            window=self._window,
            ack_interval_s=self._ack_interval_s,
            timeout_s=self._timeout_s,
            include=self._include,
        )
        engine.restart(self._started, None)
        return engine

    @property
    def holder(self) -> str:
        """The name of this process as a holder: the one that was given, or one generated for this process."""
        return self._holder or self._process_holder()

    @property
    def has_session(self) -> bool:
        """Whether the starts of the job were named, in the constructor or by `BUCKETLINE_SESSION`."""
        return bool(self._session or os.environ.get(SESSION_VARIABLE))

    # --- batches --------------------------------------------------------------------------------------------

    def next_batch(self, rank: int) -> Batch:
        """The rank's next batch. Requesting it says that the one before it is finished.

        The first use of a rank takes its lease. Errors other than `Fenced` are raised when no batch is prefetched,
        after an attempt made for this call; the next call tries again.

        ```python
        while True:
            batch = client.next_batch(rank)
            train(batch.ids, batch.width, batch.height)
        ```

        Raises:
            EndOfRun: after the last batch.
            Fenced: once another process or a newer start of the job holds the rank, even if batches are prefetched.
            CoordinatorUnavailable: if there was no answer in time.
            ProtocolError: if something other than a coordinator answers at the address.
            Refused: if the coordinator refuses the request.
            UsageError: if the run serves packs. Nothing is finished or consumed by such a call.
        """
        rank = whole("rank", rank)
        self.check_start(rank)
        batch = (self._engine or self._start_engine()).take(rank, None, types=(Batch,))
        return cast("Batch", batch)

    def next_pack(self, rank: int) -> Pack:
        """The rank's next pack, in a run of packed batches (`pack` in its spec); otherwise as `next_batch`.

        ```python
        while True:
            pack = client.next_pack(rank)
            train(pack.ids, pack.sizes)
        ```

        Raises:
            UsageError: if the run serves batches of one resolution. Nothing is finished or consumed by such a call.
            BucketlineError: the errors of `next_batch`.
        """
        rank = whole("rank", rank)
        self.check_start(rank)
        pack = (self._engine or self._start_engine()).take(rank, None, types=(Pack,))
        return cast("Pack", pack)

    def epoch(self, rank: int, *, ahead: bool = False) -> Iterator[Batch]:
        """The rest of the rank's epoch, that of its next batch. Nothing more once the run has ended.

        A batch is finished when the next one is requested, and the last one when the iterator is exhausted. If the loop
        is left early its last batch stays unfinished, until another one is requested for the rank.

        Args:
            rank: whose batches.
            ahead: for loaders that request batches before the training loop has finished those it has. Then a batch is
                finished only when `ack(rank, batch)` says so, and `state_dict` counts no other.

        Raises:
            UsageError: if the run serves packs. Nothing is finished or consumed by such a call.
        """
        return cast("Iterator[Batch]", self._epoch(rank, ahead, (Batch,)))

    def packs(self, rank: int, *, ahead: bool = False) -> Iterator[Pack]:
        """The rest of the rank's epoch in a run of packed batches (`pack` in its spec); otherwise as `epoch`.

        ```python
        for pack in client.packs(rank):
            train(pack.ids, pack.sizes)
        ```

        Args:
            rank: whose packs.
            ahead: as in `epoch`.

        Raises:
            UsageError: if the run serves batches of one resolution. Nothing is finished or consumed by such a call.
        """
        return cast("Iterator[Pack]", self._epoch(rank, ahead, (Pack,)))

    def _epoch(self, rank: int, ahead: bool, types: BatchTypes = ANY_BATCH) -> Iterator[AnyBatch]:
        rank = whole("rank", rank)
        self.check_start(rank)
        engine = self._engine or self._start_engine()
        try:
            batch = engine.take(rank, None, ahead, types)
        except EndOfRun:
            return
        while batch is not None:
            yield batch
            batch = (self._engine or self._start_engine()).take(rank, batch.epoch, ahead, types)

    def ack(self, rank: int, batch: AnyBatch | Cursor | None = None) -> None:
        """The batch handed out last is finished, although the next one is not needed yet.

        If batches were taken ahead or read by another process, `batch` and all before it are finished. The
        acknowledgement is sent in the background; `flush` waits for it.
        """
        rank = whole("rank", rank)
        if batch is not None:
            engine = self._engine or self._start_engine()
            engine.finish_upto(rank, Cursor(batch.epoch, batch.step))
        elif self._engine is not None:
            self._engine.finish(rank)

    def report(self, rank: int, batch: HasPlace, ids: Any, reason: str, detail: object = None) -> None:
        """Images of a batch could not be used: the loader left them out, or took others in their place.

        Returns at once. Reports are sent in the background, those of one second together; `flush` and `close` wait for
        them. None of their failures is raised: they are tried again as acknowledgements are, and a warning is logged if
        they are refused or lost. The coordinator counts an image once a batch, so a repeat changes nothing. The batch
        is served and finished all the same. A process that only reads, such as a DataLoader's worker, may call this.

        ```python
        try:
            image = load(item)
        except OSError as error:
            client.report(rank, item, item.id, "unreadable", error)
        ```

        Args:
            rank: whose batch it is.
            batch: the batch or pack; or the `bucketline.torch.Item`, or the step as a `Cursor`.
            ids: the id of the image, or a list of ids.
            reason: `"unreadable"` (cannot be opened or decoded), `"missing"`, `"wrong_size"` (not the map's),
                `"rejected"` (by the loader) or `"other"`.
            detail: what the reader said; its first 200 characters are kept.

        Raises:
            UsageError: if an argument is wrong: another reason, or an id that the batch does not have.
        """
        rank = whole("rank", rank)
        epoch, step = (whole(f"batch: {name!r}", getattr(batch, name, None)) for name in ("epoch", "step"))
        about = {"reason": report_reason(reason)}
        if (text := report_detail(detail)) is not None:
            about["detail"] = text
        images: dict[tuple[str | None, int | str], Json] = {}
        for id in image_ids(ids):
            for map_name in _maps_of(batch, id):
                named = {} if map_name is None else {"map": map_name}
                images[map_name, id] = {"id": id, **named, **about}
        (self._engine or self._start_engine()).report(rank, Cursor(epoch, step), images)

    def put_back(self, rank: int) -> None:
        """Batches that were taken ahead and are not finished are handed out again, in order."""
        if self._engine is not None:
            self._engine.put_back(whole("rank", rank))

    def num_steps(self, rank: int, epoch: int) -> int | None:
        """How many steps the epoch has; None if this rank has not reached it."""
        engine = self._engine or self._start_engine()
        engine.open(whole("rank", rank), reads=False)
        return engine.num_steps(rank, whole("epoch", epoch))

    def reader(self, rank: int, *, holder: str) -> RankReader:
        """The rank's batches for another process, such as a DataLoader worker: it reads any of them under the lease of
        `holder`, the process that trains, and acknowledges none. No thread is started."""
        engine = self._engine or self._start_engine()
        source = Source(engine.transport, self.run, self._started, self._include, self._timeout_s)
        return RankReader(source, whole("rank", rank), holder, min(self._window, MAX_WINDOW))

    def read_epoch(self, rank: int, world_size: int, epoch: int = 0) -> Iterator[Batch]:
        """One epoch of the plan, without lease or cursor: for a validation, or a pass that caches latents.

        Every call has the same batches in the same order, whatever was trained meanwhile, and any number of processes
        may read at once. Nothing is finished by it.

        ```python
        for batch in client.read_epoch(rank, world_size):
            validate(batch.ids, batch.width, batch.height)
        ```

        Args:
            rank: whose batches.
            world_size: over how many ranks the epoch is sharded, from its start.
            epoch: counted from 0.

        Raises:
            UsageError: if the run serves packs: call `read_packs`.
            BucketlineError: the errors of `next_batch`, but `Fenced` and `EndOfRun`.
        """
        return cast("Iterator[Batch]", self._read_epoch(rank, world_size, epoch, (Batch,)))

    def read_packs(self, rank: int, world_size: int, epoch: int = 0) -> Iterator[Pack]:
        """One epoch of the plan of a run of packed batches; otherwise as `read_epoch`.

        Args:
            rank: whose packs.
            world_size: over how many ranks the epoch is sharded, from its start.
            epoch: counted from 0.

        Raises:
            UsageError: if the run serves batches of one resolution.
            BucketlineError: the errors of `read_epoch`.
        """
        return cast("Iterator[Pack]", self._read_epoch(rank, world_size, epoch, (Pack,)))

    def _read_epoch(self, rank: int, world_size: int, epoch: int, types: BatchTypes) -> Iterator[AnyBatch]:
        for batch in self.plan_reader(rank, world_size, epoch).batches():
            if not isinstance(batch, types):
                serves = "packs: call read_packs" if isinstance(batch, Pack) else "no packs: call read_epoch"
                raise UsageError(f"run {self.run!r} serves {serves}")
            yield batch

    def plan_reader(self, rank: int, world_size: int, epoch: int) -> PlanReader:
        """Reads an epoch of the plan. No thread is started."""
        engine = self._engine or self._start_engine()
        source = Source(engine.transport, self.run, None, self._include, self._timeout_s)
        size = whole("world_size", world_size, 1)
        count = min(self._window, MAX_WINDOW)
        return PlanReader(source, whole("rank", rank), size, whole("epoch", epoch), count)

    def flush(self, timeout_s: float | None = None) -> None:
        """Return when the coordinator has acknowledged every finished batch and has the reports, after `timeout_s`
        seconds at most (unless given, the constructor's). Raises the errors of `next_batch`; of reports that could not
        be sent in time a warning is logged, and they are tried again."""
        wait_s = self._timeout_s if timeout_s is None else seconds("timeout_s", timeout_s, may_be_zero=True)
        if self._engine is not None:
            self._engine.flush(wait_s)

    # --- starting and resuming ------------------------------------------------------------------------------

    def begin(
        self, state: Mapping[str, Any] | None, world_size: int | None = None, *, session: str | None = None
    ) -> Session:
        """Begin the training, or resume it. The one call before the first batch, in every process of the job.

        All processes pass the same arguments, and the *session's* name makes their calls one start of the job. The name
        is the argument, else the constructor's, else `BUCKETLINE_SESSION`, else it is derived from the variables of
        torchrun or Slurm; see `start_session`. Under a name that was used before, as after a crash that did not change
        it, the ranks of this process still begin at the requested place.

        ```python
        checkpoint = load_checkpoint()  # None on the first start
        client.begin(checkpoint["data"] if checkpoint else None)
        ```

        Args:
            state: what `state_dict` returned for the checkpoint: the ranks of this process begin exactly there. None
                without a checkpoint: they begin at the run's first step, even if the run was trained on before.
            world_size: the job's number of ranks. Unless given, the state's, or without a state that of the run's spec.
            session: the name of this start of the job.

        Raises:
            SessionReused: if the session's name belongs to a start that sharded the epoch differently.
            Fenced: if another start of the job has begun since the session of this name.
            PlanMismatch: if the state belongs to another plan.
        """
        if state is not None:
            return self._start(_wire.state_from(state), world_size, session)
        if world_size is None:
            world_size = self._ask_run(_wire.planned_world_size_from)
        return self._start(None, world_size, session)

    def dealt_to(self) -> int:
        """The number of ranks over which the run currently shards its batches."""
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
        """Start the whole job again: all older leases are fenced, and every rank begins where `resume` says. For
        training, call `begin` instead.

        Every process of the job calls this with the same arguments; the session's name makes them one start. It is the
        argument, else the constructor's, else `BUCKETLINE_SESSION`, else torchrun's run id and restart count. Without
        these, a job of one rank and one process gets a random name, so every call is a new start; a job of several
        gets Slurm's job id, restart count and step (each `srun` is a start), and is refused elsewhere, because its
        processes would fence each other. One process that serves several ranks passes a name too.

        A name that was used before starts nothing. With a state dict this process's ranks still begin there, and
        `SessionReused` is raised if that start sharded the epoch differently.

        Args:
            world_size: the job's number of ranks; unless given, the state dict's.
            resume: `"cursor"` (the slowest rank's cursor), `"start"` (the run's first step) or a state dict.
            session: the name of this start of the job.
        """
        return self._start(_wire.resume_from(resume), world_size, session)

    def _start(self, place: str | State | None, world_size: int | None, session: str | None) -> Session:
        """``place`` as in ``start_session``; None is the run's first step, for this process's ranks in any case."""
        if world_size is None and isinstance(place, State):
            world_size = place.world_size
        if world_size is None:
            raise UsageError(
                "world_size must be the number of ranks, or resume a state dict that contains it"
            )
        world_size = whole("world_size", world_size, 1)
        name = session or self._session or session_name(world_size, os.environ)
        engine = self._engine or self._start_engine()
        if place == "cursor":
            # what is finished belongs in the cursors; a fence is no obstacle, but the reason for a new start
            engine.flush(self._timeout_s, skip=lambda window: isinstance(window.error, Fenced))
        request = _wire.session_request(self.run, name, world_size, place or "start")
        answer = engine.transport.call(request, self._timeout_s, _wire.session_from)
        start: Cursor | None = None
        self._loaded = None
        if place is None:
            place = State(self.run, answer.fingerprint, Cursor(0, 0), 0, world_size)
        if isinstance(place, State):
            start = first_step(place, world_size, answer, name)
            self._loaded = State(
                self.run,
                answer.fingerprint,
                start,
                consumed=answer.deal.consumed(start),
                world_size=world_size,
                lockstep=answer.deal.lockstep_of(start.epoch),
                start=answer.generation_id,
            )
        self._started = name
        self._is_start_checked = True
        engine.restart(name, start, is_from_start=place == "start")
        return answer

    def check_start(self, rank: int) -> None:
        """Warn, once, if the job takes the rank's batches from the coordinator's cursor without having said that it
        wants to. Anywhere but at the run's first step that is the middle of another training."""
        if self._is_start_checked:
            return
        engine = self._engine or self._start_engine()
        engine.open(rank)
        cursor = engine.leased_at(rank)
        self._is_start_checked = True
        if cursor > Cursor(0, 0):
            warnings.warn(
                f"run {self.run!r} is not at its first step: rank {rank} resumes at epoch {cursor.epoch} step "
                f"{cursor.step}, although the job has not said where it starts. Before the first batch and in every "
                "process, call begin(state) with a checkpoint's state dict to resume there, or begin(None) to train "
                "from the run's first step",
                StartWarning,
                stacklevel=3,
            )

    def state_dict(
        self, rank: int | None = None, *, include_last: bool = True, after: AnyBatch | Cursor | None = None
    ) -> dict[str, Any]:
        """The job's state, for its checkpoint. Sends no request, except for a rank that was never used.

        Every batch handed out counts as finished: call this between the optimizer's step and the next batch.

        ```python
        train(batch)
        save({"model": model.state_dict(), "data": client.state_dict()})
        ```

        Args:
            rank: the state of this rank; unless given, that of the slowest rank that this client has used.
            include_last: False within a step: the batch handed out last does not count.
            after: the state at which this batch (or step) of `rank` is the last one finished.

        Raises:
            UsageError: if no rank has been used and none is given.
        """
        if rank is not None:
            rank = whole("rank", rank)
        elif after is not None:
            raise UsageError("rank must be given with after")
        engine = self._engine or self._start_engine()
        place = None if after is None else Cursor(after.epoch, after.step)
        state = engine.state(rank, include_last, place) or (self._loaded if place is None else None)
        if state is None and rank is not None:
            engine.open(rank, reads=after is None)
            state = engine.state(rank, include_last, place)
        if state is None:
            raise UsageError("rank must be given as long as no rank has been used")
        return state.to_json()

    def load_state_dict(
        self, state: Mapping[str, Any], world_size: int | None = None, *, session: str | None = None
    ) -> Session:
        """Start a session from a checkpoint's state, for its world size or another one; prefetched batches are dropped.

        Every process of the job calls this with the same state; see `start_session` for the session's name. The ranks
        of this process begin exactly at the state, wherever the coordinator's cursors are.
        """
        return self.start_session(world_size, state, session=session)

    # --- the end --------------------------------------------------------------------------------------------

    def close(self, *, finished: bool = False) -> None:
        """Acknowledge what is finished and send the reports, then end the thread and the connections. Raises the error
        that prevents the acknowledgements.

        Leaving a `with` block without an exception passes `finished=True`, so leave it by an exception if the last
        batch was not trained on. Unfinished batches are handed out again to the next holder of the rank.

        Args:
            finished: whether the batch handed out last counts as finished. False by default, because `close` is also
                called on the way out of a failure.
        """
        engine = self._shut()
        if engine is None:
            return
        try:
            if finished:
                engine.finish(None)
            engine.flush(self._timeout_s, skip=lambda window: window.is_error_raised)
        finally:
            engine.stop()
            engine.join(EXIT_PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close(finished=True)
        elif (engine := self._shut()) is not None:
            # the exception matters most: try the acks once, without waiting for a coordinator
            engine.stop()
            engine.join(EXIT_PATIENCE_S)

    def __repr__(self) -> str:
        return f"BucketClient({','.join(map(without_credentials, self.url.split(',')))!r}, run={self.run!r})"


def _maps_of(batch: HasPlace, id: int | str) -> list[str | None]:
    """The maps in which the batch has the id; ``[None]`` if the run has one map, or if only the step is known."""
    if isinstance(batch, (Batch, Pack)):
        at = [index for index, each in enumerate(batch.ids) if each == id]
        if not at:
            raise UsageError(f"ids must be of the batch, which has no image {id!r}")
        return [None] if batch.maps is None else list(dict.fromkeys(batch.maps[index] for index in at))
    return [getattr(batch, "map", None)]
