"""Where a checkpoint begins, and which sessions are not its own."""

import pytest

from bucketline import Cursor, Deal, Session, SessionReused
from bucketline._resume import starting_place
from bucketline._types import State


def session(origin, offset, world_size, num_steps=100):
    deal = Deal(Cursor(*origin), offset, world_size)
    return Session(2, deal.origin, num_steps, deal, "f", 0, 0)


def state(epoch, step, consumed, world_size):
    return State("r", "f", Cursor(epoch, step), consumed, world_size)


def test_a_fresh_session_begins_at_the_state():
    assert starting_place(state(0, 50, 400, 8), 8, session((0, 50), 400, 8), "s") == (0, 50)
    assert starting_place(state(0, 50, 400, 8), 6, session((0, 50), 400, 6, 116), "s") == (0, 50)


def test_a_state_at_the_end_of_an_epoch_rolls_over():
    assert starting_place(state(0, 100, 800, 8), 8, session((1, 0), 0, 8), "s") == (1, 0)
    # 8 of 800 batches are left: too few for a step of 16 ranks
    assert starting_place(state(0, 99, 792, 8), 16, session((1, 0), 0, 16, 50), "s") == (1, 0)


def test_an_older_start_serves_where_it_deals_alike():
    assert starting_place(state(0, 50, 400, 8), 8, session((0, 0), 0, 8), "s") == (0, 50)
    assert starting_place(state(3, 50, 400, 8), 8, session((1, 20), 160, 8), "s") == (3, 50)


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
        starting_place(state(0, 50, 400, 8), 8, answer, "none.0")
