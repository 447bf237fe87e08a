"""Where a job that loads a checkpoint begins, and whether the session that it was given really is its own
start."""

from __future__ import annotations

from ._errors import SessionReused
from ._types import Cursor, Session, State


def starting_place(state: State, world_size: int, session: Session, name: str) -> Cursor:
    """The first step to hand out, under the deal of ``session``.

    A session is idempotent by its name, so the answer may be of an earlier start under the same one. It still
    serves where it deals the epoch just as this checkpoint has seen it; then the checkpoint's place is right,
    wherever the cursors are. Where it does not, going on would lose images or repeat them: ``SessionReused``.
    """
    deal = session.deal
    place = state.cursor
    is_same_stream = not state.consumed or state.lockstep in (None, deal.lockstep_of(place.epoch))
    if (
        deal.world_size == world_size
        and place >= deal.origin
        and deal.consumed(place) == state.consumed
        and is_same_stream
    ):
        return place
    next_epoch = Cursor(place.epoch + 1, 0)
    left = session.rolled_over_batches
    if left is None:  # an older coordinator does not tell; then all epochs are about as long
        left = session.num_steps * world_size - state.consumed
    if (
        deal.world_size == world_size
        and deal.origin == next_epoch
        and left < max(world_size, state.world_size)
    ):
        return next_epoch  # what was left of the epoch is less than a step: the coordinator rolled it over
    raise SessionReused(
        f"session {name!r} was begun before, at epoch {deal.origin.epoch} step {deal.origin.step} on "
        f"{deal.world_size} ranks, which does not lead to epoch {place.epoch} step {place.step} on "
        f"{world_size}: give every start of the job a name of its own"
    )
