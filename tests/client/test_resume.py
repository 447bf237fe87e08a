"""Where a job begins with a checkpoint, and which sessions are refused because they are not its own."""

import pytest

from bucketline import Cursor, Deal, Session, SessionReused
from bucketline._resume import first_step
from bucketline._types import State


def session(origin, offset, world_size, num_steps=100, locksteps=(None, None), rolled_over=None):
    deal = Deal(Cursor(*origin), offset, world_size, *locksteps)
    return Session(2, deal.origin, num_steps, deal, "f", 0, 0, rolled_over)


def state(epoch, step, consumed, world_size, lockstep=None):
    return State("r", "f", Cursor(epoch, step), consumed, world_size, lockstep)


def test_a_fresh_session_begins_at_the_state():
    assert first_step(state(0, 50, 400, 8), 8, session((0, 50), 400, 8), "s") == (0, 50)
    assert first_step(state(0, 50, 400, 8), 6, session((0, 50), 400, 6, 116), "s") == (0, 50)


def test_a_state_at_the_end_of_an_epoch_rolls_over():
    assert first_step(state(0, 100, 800, 8), 8, session((1, 0), 0, 8), "s") == (1, 0)
    # 8 of 800 batches are left: too few for a step of 16 ranks
    assert first_step(state(0, 99, 792, 8), 16, session((1, 0), 0, 16, 50), "s") == (1, 0)


def test_an_older_start_serves_where_it_deals_alike():
    assert first_step(state(0, 50, 400, 8), 8, session((0, 0), 0, 8), "s") == (0, 50)
    assert first_step(state(3, 50, 400, 8), 8, session((1, 20), 160, 8), "s") == (3, 50)


def test_what_was_left_of_an_epoch_is_the_coordinators_word():
    """Epochs of several locksteps differ in length: by this one's 50 steps of 16 ranks 32 batches would be left."""
    late = state(0, 96, 768, 8, lockstep=8)
    rolled = session((1, 0), 0, 16, 50, (16, 16), rolled_over=8)
    assert first_step(late, 16, rolled, "s") == (1, 0)
    lost = session((1, 0), 0, 16, 50, (16, 16), rolled_over=16)
    with pytest.raises(SessionReused):
        first_step(late, 16, lost, "s")


def test_a_start_that_has_the_stream_laid_out_otherwise_is_another():
    began = session((0, 50), 400, 6, locksteps=(8, 6))
    assert first_step(state(0, 51, 406, 6, lockstep=8), 6, began, "s") == (0, 51)
    assert first_step(state(1, 50, 300, 6, lockstep=6), 6, began, "s") == (1, 50)
    assert first_step(state(1, 0, 0, 4, lockstep=8), 6, began, "s") == (1, 0)  # nothing of it is dealt yet
    for other in (state(0, 51, 406, 6, lockstep=6), state(1, 50, 300, 6, lockstep=8)):
        with pytest.raises(SessionReused):
            first_step(other, 6, began, "s")
    # one that an older client has saved tells none
    assert first_step(state(0, 51, 406, 6), 6, began, "s") == (0, 51)


@pytest.mark.parametrize(
    "answer",
    [
        session((0, 0), 0, 6),  # other ranks
        session((0, 20), 200, 8),  # another deal of this epoch
        session((0, 60), 480, 8),  # after the state: its steps are gone
        session((1, 0), 0, 8),  # a whole epoch after it
    ],
)
def test_another_start_is_refused(answer):
    with pytest.raises(SessionReused, match=r"'none\.0'"):
        first_step(state(0, 50, 400, 8), 8, answer, "none.0")
