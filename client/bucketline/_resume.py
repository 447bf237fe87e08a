"""Where a job that loads a checkpoint begins, and whether the session it was given really is its own start."""

from __future__ import annotations

from ._errors import SessionReused
from ._types import Cursor, Session, State


def first_step(state: State, world_size: int, session: Session, name: str) -> Cursor:
    """The first step to hand out, as ``session`` shards the epoch.

    A session is idempotent by its name, so the answer may be an earlier start under the same one. It still serves if
    it shards the epoch exactly as this checkpoint has seen it: then the checkpoint's place is right, wherever the
    cursors are. If it does not, continuing would lose images or repeat them: ``SessionReused``.
    """
    deal, place = session.deal, state.cursor
    if deal.world_size == world_size:
        is_same_stream = not state.consumed or state.lockstep in (None, deal.lockstep_of(place.epoch))
        if place >= deal.origin and deal.consumed(place) == state.consumed and is_same_stream:
            return place
        next_epoch = Cursor(place.epoch + 1, 0)
        left = session.rolled_over_batches
        if left is None:  # an older coordinator does not report it; all epochs are about equally long
            left = session.num_steps * world_size - state.consumed
        if deal.origin == next_epoch and left < max(world_size, state.world_size):
            return next_epoch  # the rest of the epoch is less than a step, so the coordinator rolled it over
    raise SessionReused(
        f"session {name!r} was started before, at epoch {deal.origin.epoch} step {deal.origin.step} on "
        f"{deal.world_size} ranks, which does not lead to epoch {place.epoch} step {place.step} on "
        f"{world_size} ranks: give every start of the job a new name"
    )
