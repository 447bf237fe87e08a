"""Batches for ``DataLoader(batch_sampler=...)``, and the account of which of them the loop has trained on.

A loader requests indices far ahead of the loop, so a request says nothing about training. Batches are handed out in
order and come back in order: ``follow`` counts what the loop is given, ``ack`` what it has finished. All of it happens
in the training process; the loader's workers see items only.
"""

from __future__ import annotations

import inspect
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from .. import _wire
from .._client import BucketClient
from .._errors import UsageError
from .._types import AnyBatch, Cursor, Session
from .._warnings import RepeatedBatchesWarning
from ._items import items_of
from ._loader_checks import check_caller, check_loader, check_order, check_state, place_in, state_of_rank
from ._pass import Pass
from ._rank import rank_and_world_size

T = TypeVar("T")


class Start(NamedTuple):
    """The arguments of ``BucketClient.begin``."""

    state: dict[str, Any] | None
    session: str | None


class BucketBatchSampler:
    """One rank's batches or packs, as lists of `Item`. One pass is (the rest of) one epoch.

    Call `begin` first. Then loop over `follow(loader)`, which acknowledges a batch when the next one is requested. If a
    framework owns the loop, call `ack()` after each step instead (`bucketline.lightning` does). Without either of the
    two it is unknown what is trained on, and the second epoch is refused.

    The sampler and its iterators have `state_dict` and `load_state_dict`: StatefulDataLoader keeps them with its own.

    ```python
    sampler = BucketBatchSampler(BucketClient(url, run="sdxl-base"))
    loader = DataLoader(images, batch_sampler=sampler, num_workers=4)
    sampler.begin(checkpoint["data"] if checkpoint else None)
    while sampler.epoch < num_epochs:
        for batch in sampler.follow(loader):
            train_step(batch)
    ```

    Args:
        client: the client of the run.
        rank: the process group's, else `RANK`, else that of one process alone; looked up when it is first needed. Give
            it if processes share a rank (tensor parallel), and give their clients the same `holder`.
        world_size: the process group's, else `WORLD_SIZE`. If it is known and the run is sharded over another number of
            ranks, the first batch is refused with an error that says what to do.
        ids_only: yield lists of ids instead of items.

    Raises:
        UsageError: if the launcher says that there are several processes, but not which rank this one is.
    """

    def __init__(
        self,
        client: BucketClient,
        rank: int | None = None,
        world_size: int | None = None,
        *,
        ids_only: bool = False,
    ) -> None:
        self.client = client
        self._is_rank_given = not (rank is None and world_size is None)
        self._place_in_job = rank_and_world_size(rank, world_size) if self._is_rank_given else None
        self._ids_only = ids_only
        self._out: deque[AnyBatch] = deque()  # with the loader or the loop, not trained on; the oldest first
        self._loop_has_oldest = False
        self._start: Start | None = None  # requested, and carried out when it is needed
        self._pass: Pass | None = None
        self._is_counted = False  # something says which batches of the pass are trained on
        self._is_followed = False
        self._is_handed_over = False
        self._runs_on = False
        self._is_rolled_over = False

    @property
    def rank(self) -> int:
        """This process's rank."""
        return self._rank_and_world_size()[0]

    @property
    def _world_size(self) -> int | None:
        return self._rank_and_world_size()[1]

    def _rank_and_world_size(self) -> tuple[int, int | None]:
        if self._place_in_job is None:
            self._place_in_job = rank_and_world_size(None, None)
        return self._place_in_job

    def __iter__(self) -> Pass:
        frame = inspect.currentframe()
        check_caller(frame.f_back if frame is not None else None)
        return Pass(self)

    def __len__(self) -> int:
        """The steps of the current or next epoch: all of them, wherever a pass begins."""
        epoch = self._out[0].epoch if self._out and self._start is None else self.epoch
        num_steps = self.client.num_steps(self.rank, epoch)
        if num_steps is None:  # the answer to an acknowledgement contains it
            self.client.flush()
            num_steps = self.client.num_steps(self.rank, epoch)
        if num_steps is None:
            raise TypeError(f"the length of epoch {epoch} is not known yet")
        return num_steps

    @property
    def drop_last(self) -> bool:
        """Read only by code that distributes batches again: `accelerate`, for a loader that it prepares."""
        raise UsageError(
            "loader: its batches already are this rank's own; distributing them again would lose most of them and mix "
            "resolutions: do not pass it to accelerator.prepare()"
        )

    @property
    def epoch(self) -> int:
        """The epoch of the next batch to be trained on. If the job has not said where it starts (`begin`), it is the
        coordinator's. `UsageError` if the run is sharded over another number of ranks."""
        self._begin_start()
        state = self._state()
        self.client.check_start(self.rank)
        return int(state["epoch"])

    # --- what the loop has trained on -----------------------------------------------------------------------

    def follow(self, loader: Iterable[T]) -> Iterator[T]:
        """Yield what `loader` yields. A batch is acknowledged when the next one is requested, the last one at the end.

        If the loop is left early, its last batch stays unfinished until `follow` is called again.

        Args:
            loader: the DataLoader over this sampler, or a wrapper that prefetches from it: a loader that `accelerate`
                has prepared for one process, `tqdm`. Any other iterable must yield data that begins with an `Item`, so
                that each batch shows its place: one that leaves batches out would falsify the account.

        Raises:
            UsageError: if the loader leaves batches out or changes their order.
        """
        check_order(loader)
        is_known = check_loader(loader, self)
        if self._loop_has_oldest:
            self.finish_oldest()
        self._is_followed = True
        try:
            for data in loader:
                self._check_data(data, is_known)
                self._loop_has_oldest = True
                yield data
                if self._loop_has_oldest:
                    self.finish_oldest()
        finally:
            self._is_followed = False
        if self._out and self._pass is not None and self._pass.is_over:
            raise UsageError(
                f"loader: it has taken {len(self._out)} more batches of the epoch than it yielded, so it is unknown "
                "which are trained on: follow the DataLoader over this sampler itself"
            )

    def _check_data(self, data: Any, is_known: bool) -> None:
        if not self._out:
            raise UsageError("loader: it yields batches that are not from this sampler")
        place, first = place_in(data), Cursor(self._out[0].epoch, self._out[0].step)
        if place is None and not is_known:
            raise UsageError(
                "loader: it is not a DataLoader over this sampler, so it is unknown which batches it leaves out: "
                "follow the DataLoader itself and wrap what follow yields, or call sampler.ack() after each step"
            )
        if place is not None and place != first:
            raise UsageError(
                f"loader: it yielded epoch {place.epoch} step {place.step}, but epoch {first.epoch} step {first.step} "
                "comes next. A resumed job must not skip batches: sampler.begin(state) resumes after what it has "
                "trained on"
            )

    def ack(self) -> None:
        """The loop has trained on one more batch. Sent in the background.

        ```python
        for batch in loader:
            train_step(batch)
            sampler.ack()
        ```
        """
        if self._is_handed_over:
            raise UsageError(
                "ack: BucketlineCallback acknowledges already, and doing so twice would lose every other batch"
            )
        if not self._out:
            raise UsageError("ack: every batch that was handed out is acknowledged already")
        self.finish_oldest()

    # --- starting, resuming, checkpoints --------------------------------------------------------------------

    def begin(self, state: Mapping[str, Any] | None, *, session: str | None = None) -> Session:
        """Begin the training, or resume it. The one call before the loop, in every process of the job.

        Args:
            state: what `state_dict` returned for the checkpoint, on any number of ranks. None without a checkpoint:
                the run begins at its first step, even if it was trained on before.
            session: the name of this start of the job; see `BucketClient.begin` for how it is found otherwise.
        """
        self.begin_later(state, session=session)
        return self._begin_start()  # type: ignore[return-value] # there is a start

    def begin_later(self, state: Mapping[str, Any] | None, *, session: str | None = None) -> None:
        """As `begin`, but carried out when the first batch, the epoch or the length is requested: for frameworks that
        load checkpoints before the job is set up, or twice."""
        self._start = Start(None if state is None else _wire.state_from(state).to_json(), session)
        self._forget()
        self._is_counted = self._is_rolled_over = False

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """`begin` at `state`, when the first batch is requested. An empty state changes nothing: StatefulDataLoader
        passes that of a rank which the run did not have."""
        check_state(state)
        if state and not self._is_handed_over:
            self.begin_later(state)

    def state_dict(self) -> dict[str, Any]:
        """The job's state, for its checkpoint: after what is trained on, whatever the loader has requested since.

        The batch that `follow` has given to the loop counts as trained on: call this between the optimizer's step and
        the next batch. Empty as long as the job has not said where it starts and the run is sharded over another number
        of ranks.
        """
        if self._start is not None and self._start.state is not None:
            return dict(self._start.state)
        self._begin_start()
        try:
            return self._state()
        except UsageError:  # StatefulDataLoader asks before it loads, also in jobs that have grown
            return {}

    def _state(self) -> dict[str, Any]:
        after = self._out[0] if self._loop_has_oldest else None
        return state_of_rank(self.client, self.rank, self._world_size, after)

    def _begin_start(self) -> Session | None:
        """Carry out the requested start, now that it is needed."""
        if self._start is None:
            return None
        state, session = self._start
        begun = self.client.begin(state, self._world_size, session=session)
        self._start = None
        self._is_rolled_over = state is not None and begun.deal.origin.epoch > state["epoch"]
        return begun

    def _forget(self) -> None:
        self._out.clear()
        self._loop_has_oldest = False
        self._pass = None

    # --- if a framework owns the loop -----------------------------------------------------------------------

    def finish_oldest(self) -> None:
        """The oldest batch that was handed out is trained on."""
        self.client.ack(self.rank, self._out.popleft())
        self._loop_has_oldest, self._is_counted = False, True
        self._pass_over_empty()

    def _pass_over_empty(self) -> None:
        """Batches without an image, which no loader gets, count once all before them do."""
        while self._out and not self._out[0].ids:
            self.client.ack(self.rank, self._out.popleft())

    def hand_over(self, rank: int, world_size: int, *, runs_on: bool) -> None:
        """Hand the account to a framework's callback, until `hand_back`.

        The callback acknowledges (`finish_oldest`), keeps the state in the framework's checkpoints and knows what an
        epoch has had. So the loaders' states are ignored, and a pass may be dropped unused.

        Args:
            rank: the framework's rank, used if none was given.
            world_size: the framework's number of ranks, used if none was given.
            runs_on: the framework's epochs are shorter than the run's, and a pass continues into the next epoch.
        """
        if not self._is_rank_given:
            self._place_in_job = rank, world_size
        self._is_handed_over, self._runs_on = True, runs_on

    def hand_back(self) -> None:
        """The framework's loop has ended."""
        self._is_handed_over = self._runs_on = False

    # --- for the passes (see PassOwner) ---------------------------------------------------------------------

    def _begin_pass(self, new: Pass) -> Iterator[AnyBatch]:
        """The batches of a new pass, from the first one that is not trained on. What an older pass had out is put
        back."""
        if self._pass is not None and not self._is_counted and not self._is_handed_over:
            self._warn_of_repeated(self._pass)
        self._begin_start()
        if self._loop_has_oldest:
            self.finish_oldest()
        self._forget()
        self.client.put_back(self.rank)
        state = self._state()
        self.client.check_start(self.rank)
        self._pass, self._is_counted = new, self._is_followed
        if new.epoch is not None and state["epoch"] > new.epoch:
            return iter(())  # it was loaded at the end of its epoch
        if self._is_handed_over and not self._runs_on and self._is_rolled_over:
            self._is_rolled_over = False
            # the framework's epoch has ended: the rest of the run's epoch is less than a step
            return iter(())
        return self._all_epochs() if self._runs_on else self.client._epoch(self.rank, ahead=True)

    def _all_epochs(self) -> Iterator[AnyBatch]:
        has_more = True
        while has_more:
            has_more = False
            for batch in self.client._epoch(self.rank, ahead=True):
                has_more = True
                yield batch

    def _warn_of_repeated(self, last: Pass) -> None:
        """Nothing of the last pass is acknowledged, and its batches are requested again."""
        if last.is_over and not self._is_followed:
            raise UsageError(
                "an epoch is over, but nothing says which of its batches were trained on: loop over "
                "sampler.follow(loader), or call sampler.ack() after each step"
            )
        if last.is_over or (last.has_begun and not self._is_followed):
            warnings.warn(
                "the loader gets the same batches as before, because none of them is acknowledged. If they were "
                "trained on, loop over sampler.follow(loader), or call sampler.ack() after each step",
                RepeatedBatchesWarning,
                stacklevel=4,
            )

    def _hand_out(self, owner: Pass, batch: AnyBatch) -> list[Any]:
        if owner is not self._pass:
            raise UsageError(
                "another pass over this sampler has begun, or a state was loaded: only one pass can be used at a time"
            )
        self._out.append(batch)
        self._pass_over_empty()
        return list(batch.ids) if self._ids_only else items_of(batch)

    def _state_after(self, last: AnyBatch | None) -> dict[str, Any]:
        return self.state_dict() if last is None else self.client.state_dict(self.rank, after=last)

    def _load_pass_state(self, state: Mapping[str, Any]) -> bool:
        if self._is_handed_over:
            return False
        self.load_state_dict(state)
        return True
