"""Batches for ``DataLoader(batch_sampler=…)``, and the account of which of them the loop has trained on.

The loader asks for indices far ahead of the loop, so asking says nothing about training. What is out, is out in
order, and comes back in order: ``follow`` counts what the loop is given, ``ack`` what it has done. All of it happens in
the training process; the loader's workers see items only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from .. import _wire
from .._client import BucketClient
from .._errors import NotFound, UsageError
from .._types import Batch
from ._follow import check_loader, check_state
from ._items import Item, items_of
from ._seat import check_world_size, seat_of

T = TypeVar("T")


class BucketBatchSampler:
    """One rank's batches, as lists of ``Item``, or of ids where ``ids_only``. One pass is (the rest of) one epoch.

    ``rank`` and ``world_size`` are the process group's, else ``RANK`` and ``WORLD_SIZE``, else one process alone; give
    ``rank`` where processes share one (tensor parallel), and the client the same ``holder`` in all of them. Where the
    world size is known and the run deals to another, the first batch is refused, and told what to do.

    Loop over ``follow(loader)``, which acknowledges a batch when the next one is asked for. Where a framework owns the
    loop, call ``ack()`` after each step instead. One of the two is needed: without them nothing is known to be trained
    on, and the second epoch is refused.

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
        self.rank, self._world_size = seat_of(rank, world_size)
        self._ids_only = ids_only
        self._out: deque[Batch] = deque()  # with the loader or the loop, not trained on; the oldest first
        self._has_first = False  # the loop has the oldest
        self._loaded: dict[str, Any] | None = None  # until a session is begun with it
        self._pass: _Pass | None = None
        self._is_told = False

    def __iter__(self) -> _Pass:
        """Lazy: loaders make iterators that they never use, or load a state into."""
        return _Pass(self)

    def __len__(self) -> int:
        """The steps of the epoch that is under way, or comes next: all of them, wherever a pass begins."""
        self._start()
        epoch = self._out[0].epoch if self._out else self.epoch
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
        """The epoch that the next batch to be trained on is in."""
        return int(self._state()["epoch"])

    # --- what the loop has trained on -----------------------------------------------------------------------

    def follow(self, loader: Iterable[T]) -> Iterator[T]:
        """What ``loader`` gives, each batch acknowledged when the next one is asked for, and the last one at the end.

        Follow the outermost iterable, the one that the loop would be over: ``accelerate`` and others read ahead too.
        Leaving the loop early leaves the batch in hand unfinished, until it is entered again.
        """
        check_loader(loader)
        if self._has_first:
            self.ack()
        for data in loader:
            if not self._out:
                raise UsageError("loader: gives batches that are not of this sampler")
            self._has_first = self._is_told = True
            yield data
            if self._has_first:
                self.ack()

    def ack(self) -> None:
        """The loop has trained on one batch more. Sent in the background."""
        if not self._out:
            raise UsageError("ack: every batch that was handed out is acknowledged already")
        self.client.ack(self.rank, self._out.popleft())
        self._has_first, self._is_told = False, True

    # --- checkpoints ----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the job stands, for its checkpoint: at what is trained on, whatever the loader has asked for since.

        The batch that ``follow`` has given to the loop counts as trained on: call this between the optimizer's step
        and the next batch. Empty for a rank that the run does not have, before a state is loaded.
        """
        try:
            return self._state()
        except NotFound:  # StatefulDataLoader asks before it loads, in jobs that have grown as well
            return {}

    def _state(self) -> dict[str, Any]:
        if self._loaded is not None:
            return dict(self._loaded)
        after = self._out[0] if self._has_first else None
        return self.client.state_dict(self.rank, after=after)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly at ``state``, on as many ranks or others. Every process of the job calls it with the same
        state.

        The client's session (see ``BucketClient.start_session`` for its name) begins with the first batch.
        """
        check_state(state)
        if state:
            self._loaded = _wire.state_from(state).to_json()
            self._forget()
            self._is_told = False

    def _start(self) -> None:
        """Begin the session of a state that was loaded, now that a batch is wanted."""
        if self._loaded is not None:
            self.client.load_state_dict(self._loaded, self._world_size)
            self._loaded = None

    def _forget(self) -> None:
        self._out.clear()
        self._has_first = False
        self._pass = None

    # --- for the passes -------------------------------------------------------------------------------------

    def _begin(self, new: _Pass) -> Iterator[Batch]:
        """The batches of a new pass: from the first that is not trained on. What an older one had out is put back."""
        if self._pass is not None and self._pass.is_over and not self._is_told:
            raise UsageError(
                "an epoch is over and nothing has told which of its batches were trained on: loop over "
                "sampler.follow(loader), or call sampler.ack() after each step"
            )
        self._start()
        if self._has_first:
            self.ack()
        self._forget()
        self.client.put_back(self.rank)
        state = self._state()
        check_world_size(state["world_size"], self._world_size)
        self._pass = new
        if new.epoch is not None and state["epoch"] > new.epoch:
            return iter(())  # it was loaded at the end of its epoch
        return self.client.epoch(self.rank, ahead=True)

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
            self._batches = self._sampler._begin(self)
        try:
            batch = next(self._batches)
        except StopIteration:
            self._is_exhausted = True
            raise
        handed = self._sampler._hand_out(self, batch)
        self._last, self.epoch = batch, batch.epoch
        return handed

    @property
    def is_over(self) -> bool:
        return self._is_exhausted and self._last is not None

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
        if state:
            self._sampler.load_state_dict(state["state"])
            self.epoch = int(state["pass_epoch"])
