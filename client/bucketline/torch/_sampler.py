"""Batches for ``DataLoader(batch_sampler=…)``, and the account of which of them the loop has trained on.

The loader asks for indices far ahead of the loop, so asking says nothing about training. What is out, is out in
order, and comes back in order: ``follow`` counts what the loop is given, ``ack`` what it has done. All of it happens in
the training process; the loader's workers see items only.
"""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from .. import _wire
from .._client import BucketClient
from .._errors import UsageError
from .._types import Batch, Cursor, Session
from .._warnings import RepeatedBatchesWarning
from ._items import Item, items_of
from ._loader_checks import check_asker, check_loader, check_order, check_state, place_in, standing
from ._rank import seat_of

T = TypeVar("T")


class Start(NamedTuple):
    """Where to begin, and as which start of the job: as ``BucketClient.begin`` takes it."""

    state: dict[str, Any] | None
    session: str | None


class BucketBatchSampler:
    """One rank's batches, as lists of ``Item``, or of ids where ``ids_only``. One pass is (the rest of) one epoch.

    ``rank`` and ``world_size`` are the process group's, else ``RANK`` and ``WORLD_SIZE``, else one process alone, as
    they are when first needed; give ``rank`` where processes share one (tensor parallel), and the client the same
    ``holder`` in all of them. Where the world size is known and the run deals to another, the first batch is refused,
    and told what to do.

    Call ``begin`` first. Then loop over ``follow(loader)``, which acknowledges a batch when the next one is asked for.
    Where a framework owns the loop, call ``ack()`` after each step instead (``bucketline.lightning`` does). One of the
    two is needed: without them nothing is known to be trained on, and the second epoch is refused.

    Both this and its iterators have ``state_dict`` and ``load_state_dict``: StatefulDataLoader keeps them with its own.
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
        self._is_seat_given = not (rank is None and world_size is None)
        self._seat = seat_of(rank, world_size) if self._is_seat_given else None
        self._ids_only = ids_only
        self._out: deque[Batch] = deque()  # with the loader or the loop, not trained on; the oldest first
        self._has_first = False  # the loop has the oldest
        self._start: Start | None = None  # said, and to be begun when it is needed
        self._pass: _Pass | None = None
        self._is_told = False  # which batches of the pass are trained on
        self._is_followed = False
        self._is_handed_over = False
        self._runs_on = False
        self._is_rolled_over = False

    @property
    def rank(self) -> int:
        return self._seated()[0]

    @property
    def _world_size(self) -> int | None:
        return self._seated()[1]

    def _seated(self) -> tuple[int, int | None]:
        if self._seat is None:
            self._seat = seat_of(None, None)
        return self._seat

    def __iter__(self) -> _Pass:
        """Lazy: loaders make iterators that they never use, or load a state into."""
        check_asker(sys._getframe(1).f_locals.get("self"))
        return _Pass(self)

    def __len__(self) -> int:
        """The steps of the epoch that is under way, or comes next: all of them, wherever a pass begins."""
        epoch = self._out[0].epoch if self._out and self._start is None else self.epoch
        num_steps = self.client.num_steps(self.rank, epoch)
        if num_steps is None:  # an answer to what is finished so far tells it
            self.client.flush()
            num_steps = self.client.num_steps(self.rank, epoch)
        if num_steps is None:
            raise TypeError(f"the length of epoch {epoch} is not known yet")
        return num_steps

    @property
    def drop_last(self) -> bool:
        """Only who deals the batches out anew asks: ``accelerate``, of a loader that it is to prepare."""
        raise UsageError(
            "loader: its batches are this rank's own, and dealing them out again would lose most and mix resolutions: "
            "do not pass it to accelerator.prepare()"
        )

    @property
    def epoch(self) -> int:
        """The epoch that the next batch to be trained on is in. Of a job that has not said where it starts (``begin``)
        the coordinator's; ``UsageError`` where the run does not deal to as many ranks."""
        self._begin_start()
        state = self._state()
        self.client.check_start(self.rank)
        return int(state["epoch"])

    # --- what the loop has trained on -----------------------------------------------------------------------

    def follow(self, loader: Iterable[T]) -> Iterator[T]:
        """What ``loader`` gives, each batch acknowledged when the next one is asked for, and the last one at the end.

        ``loader`` is the DataLoader over this sampler, or what reads it ahead: a loader that ``accelerate`` has
        prepared for one process, ``tqdm``. Any other iterable is followed only where what it gives begins with an
        ``Item``, so that each batch tells its place: one that leaves batches out would spoil the account.
        Leaving the loop early leaves the batch in hand unfinished, until it is entered again.
        """
        check_order(loader)
        is_known = check_loader(loader, self)
        if self._has_first:
            self.finish_oldest()
        self._is_followed = True
        try:
            for data in loader:
                self._check_given(data, is_known)
                self._has_first = True
                yield data
                if self._has_first:
                    self.finish_oldest()
        finally:
            self._is_followed = False
        if self._out and self._pass is not None and self._pass.is_over:
            raise UsageError(
                f"loader: has taken {len(self._out)} batches of the epoch more than it gave to the loop, so which are "
                "trained on is not known: follow the DataLoader over this sampler itself"
            )

    def _check_given(self, data: Any, is_known: bool) -> None:
        if not self._out:
            raise UsageError("loader: gives batches that are not of this sampler")
        place, first = place_in(data), Cursor(self._out[0].epoch, self._out[0].step)
        if place is None and not is_known:
            raise UsageError(
                "loader: is no DataLoader over this sampler, so nobody could tell which of its batches it leaves out: "
                "follow the DataLoader itself and wrap what follow gives, or call sampler.ack() after each step"
            )
        if place is not None and place != first:
            raise UsageError(
                f"loader: gave epoch {place.epoch} step {place.step} where epoch {first.epoch} step {first.step} comes "
                "next. A resumed job needs no batches skipped: sampler.begin(state) goes on behind what it trained on"
            )

    def ack(self) -> None:
        """The loop has trained on one batch more. Sent in the background."""
        if self._is_handed_over:
            raise UsageError(
                "ack: BucketlineCallback acknowledges, and to do so twice would lose every other batch"
            )
        if not self._out:
            raise UsageError("ack: every batch that was handed out is acknowledged already")
        self.finish_oldest()

    # --- starting, resuming, checkpoints --------------------------------------------------------------------

    def begin(self, state: Mapping[str, Any] | None, *, session: str | None = None) -> Session:
        """Begin the training, or resume it: the one call before the loop, in every process of the job.

        ``state`` is what ``state_dict`` gave to the checkpoint, on as many ranks or others, or ``None`` without a
        checkpoint: then the run begins at its very first step, also where it was trained on before. ``session`` and
        how its name is found otherwise are as in ``BucketClient.begin``.
        """
        self.begin_later(state, session=session)
        return self._begin_start()  # type: ignore[return-value] # there is a start

    def begin_later(self, state: Mapping[str, Any] | None, *, session: str | None = None) -> None:
        """As ``begin``, but when the first batch, the epoch or the length is asked for: for frameworks that load
        checkpoints before the job is set up, or twice."""
        self._start = Start(None if state is None else _wire.state_from(state).to_json(), session)
        self._forget()
        self._is_told = self._is_rolled_over = False

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """``begin`` at ``state``, when the first batch is asked for. An empty state changes nothing: StatefulDataLoader
        brings it of a rank that the run did not have."""
        check_state(state)
        if state and not self._is_handed_over:
            self.begin_later(state)

    def state_dict(self) -> dict[str, Any]:
        """Where the job stands, for its checkpoint: at what is trained on, whatever the loader has asked for since.

        The batch that ``follow`` has given to the loop counts as trained on: call this between the optimizer's step
        and the next batch. Empty before a start is said, on a run that does not deal to as many ranks.
        """
        if self._start is not None and self._start.state is not None:
            return dict(self._start.state)
        self._begin_start()
        try:
            return self._state()
        except UsageError:  # StatefulDataLoader asks before it loads, in jobs that have grown as well
            return {}

    def _state(self) -> dict[str, Any]:
        after = self._out[0] if self._has_first else None
        return standing(self.client, self.rank, self._world_size, after)

    def _begin_start(self) -> Session | None:
        """Begin the start that was said, now that it is needed."""
        if self._start is None:
            return None
        state, session = self._start
        begun = self.client.begin(state, self._world_size, session=session)
        self._start = None
        self._is_rolled_over = state is not None and begun.deal.origin.epoch > state["epoch"]
        return begun

    def _forget(self) -> None:
        self._out.clear()
        self._has_first = False
        self._pass = None

    # --- where a framework owns the loop --------------------------------------------------------------------

    def finish_oldest(self) -> None:
        self.client.ack(self.rank, self._out.popleft())
        self._has_first, self._is_told = False, True

    def hand_over(self, rank: int, world_size: int, *, runs_on: bool) -> None:
        """To a framework's callback, until ``hand_back``: it acknowledges (``finish_oldest``), keeps the state in the
        framework's checkpoints and knows what an epoch has had. So loaders' states are not looked at, and a pass may be
        dropped unused. ``rank`` and ``world_size`` are the framework's word, where none were given. ``runs_on``: its
        epochs are shorter than the run's, and a pass goes on into the next one."""
        if not self._is_seat_given:
            self._seat = rank, world_size
        self._is_handed_over, self._runs_on = True, runs_on

    def hand_back(self) -> None:
        self._is_handed_over = self._runs_on = False

    # --- for the passes -------------------------------------------------------------------------------------

    def _begin_pass(self, new: _Pass) -> Iterator[Batch]:
        """The batches of a new pass: from the first that is not trained on. What an older one had out is put back."""
        if self._pass is not None and not self._is_told and not self._is_handed_over:
            self._tell_repeated(self._pass)
        self._begin_start()
        if self._has_first:
            self.finish_oldest()
        self._forget()
        self.client.put_back(self.rank)
        state = self._state()
        self.client.check_start(self.rank)
        self._pass, self._is_told = new, self._is_followed
        if new.epoch is not None and state["epoch"] > new.epoch:
            return iter(())  # it was loaded at the end of its epoch
        if self._is_handed_over and not self._runs_on and self._is_rolled_over:
            self._is_rolled_over = False
            return iter(())  # the framework's epoch is at its end: what was left of the run's is no step
        return self._run_on() if self._runs_on else self.client.epoch(self.rank, ahead=True)

    def _run_on(self) -> Iterator[Batch]:
        has_more = True
        while has_more:
            has_more = False
            for batch in self.client.epoch(self.rank, ahead=True):
                has_more = True
                yield batch

    def _tell_repeated(self, last: _Pass) -> None:
        """Nothing of the last pass is acknowledged, and its batches are asked for again."""
        if last.is_over and not self._is_followed:
            raise UsageError(
                "an epoch is over and nothing has told which of its batches were trained on: loop over "
                "sampler.follow(loader), or call sampler.ack() after each step"
            )
        if last.is_over or (last.has_begun and not self._is_followed):
            warnings.warn(
                "the loader gets the same batches as before, because none of them is acknowledged. If they were "
                "trained on, loop over sampler.follow(loader), or call sampler.ack() after each step",
                RepeatedBatchesWarning,
                stacklevel=4,
            )

    def _hand_out(self, asker: _Pass, batch: Batch) -> list[Any]:
        if asker is not self._pass:
            raise UsageError(
                "another pass over this sampler has begun, or a state was loaded: only one is in use"
            )
        self._out.append(batch)
        return list(batch.ids) if self._ids_only else items_of(batch)


class _Pass(Iterator[list[Any]]):
    """One pass over (the rest of) an epoch. Its state is at the batches that it has handed to the loader, which is
    what StatefulDataLoader keeps beside each of them, and gives back for the one that the loop had."""

    def __init__(self, sampler: BucketBatchSampler) -> None:
        self.epoch: int | None = None
        self._is_exhausted = False
        self._sampler = sampler
        self._batches: Iterator[Batch] | None = None
        self._last: Batch | None = None

    def __next__(self) -> list[Item] | list[Any]:
        if self._batches is None:
            self._batches = self._sampler._begin_pass(self)
        try:
            batch = next(self._batches)
        except StopIteration:
            self._is_exhausted = True
            raise
        handed = self._sampler._hand_out(self, batch)
        self._last, self.epoch = batch, batch.epoch
        return handed

    @property
    def has_begun(self) -> bool:
        return self._last is not None

    @property
    def is_over(self) -> bool:
        return self._is_exhausted and self.has_begun

    def state_dict(self) -> dict[str, Any]:
        sampler = self._sampler
        if self._last is not None:
            state = sampler.client.state_dict(sampler.rank, after=self._last)
        else:
            state = sampler.state_dict()
        if not state:
            return {}
        return {"pass_epoch": state["epoch"] if self.epoch is None else self.epoch, "state": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state and not self._sampler._is_handed_over:
            self._sampler.load_state_dict(state["state"])
            self.epoch = int(state["pass_epoch"])
