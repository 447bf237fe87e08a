"""The window alone: what it requests, what it hands out, what counts as finished. The clock is an argument."""

import pytest

from bucketline import Batch, Cursor, EndOfRun, Fenced, NotFound, ProtocolError
from bucketline._types import Deal, Lease, NextAnswer
from bucketline._window import NEVER_S, Ask, Window

NUM_STEPS = 10
RANK = 1


def make(size=4, cursor=(0, 0), num_steps=NUM_STEPS, start=None):
    window = Window(RANK, size, 1.0, start)
    assert window.ask(0.0, flush=True) is None
    window.leased(Lease(1, 1, Cursor(*cursor), num_steps, Deal(Cursor(0, 0), 0, 2), "f"))
    return window


def batch(epoch, step, rank=RANK):
    return Batch([epoch * 1000 + step], 64, 64, epoch, step, rank, 0)


def serve(window, now_s=0.0, flush=False, epochs=5, cursor=None, limit=1024):
    """Answer what the window asks as a coordinator of ``epochs`` epochs does; the ask, or None."""
    ask = window.ask(now_s, flush)
    if ask is None:
        return None
    assert 1 <= ask.count <= 1024
    after = ask.finished or Cursor(0, -1)
    after = cursor or Cursor(*divmod(after.epoch * NUM_STEPS + after.step + 1, NUM_STEPS))
    first = ask.start or after
    assert first.step <= NUM_STEPS, "neither a step nor an epoch's end"
    first = Cursor(*divmod(first.epoch * NUM_STEPS + first.step, NUM_STEPS))
    begin = first.epoch * NUM_STEPS + first.step
    end = min(begin + min(ask.count, limit), epochs * NUM_STEPS)
    batches = [batch(*divmod(place, NUM_STEPS)) for place in range(begin, end)]
    answer = NextAnswer(batches, after, NUM_STEPS if after.epoch < epochs else 0, end == epochs * NUM_STEPS)
    window.answered(ask, answer, now_s)
    return ask


def place(batch):
    return (batch.epoch, batch.step)


def step(window):
    """What ``next_batch`` does once a batch is prefetched."""
    window.finish_last(0.0)
    return place(window.take())


def test_it_fills_and_hands_out_in_order():
    window = make()
    assert serve(window) == Ask(None, 0, Cursor(0, 0), 4)
    assert window.ask(0.0, flush=True) is None
    assert [step(window) for _ in range(4)] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert window.take() is None


def test_asking_for_the_next_finishes_the_one_before():
    window = make()
    serve(window)
    step(window)
    assert window.is_acknowledged
    step(window)
    assert not window.is_acknowledged
    # half a window is left, so it fetches, and sends the ack with it
    assert serve(window) == Ask(Cursor(0, 0), 1, Cursor(0, 4), 2)
    assert window.is_acknowledged
    assert window.ack_due_s == NEVER_S


def test_an_ack_goes_by_itself_when_it_is_due():
    window = make(size=8)
    serve(window)
    step(window)
    assert window.finish_last(5.0)
    assert window.ack_due_s == 6.0
    assert window.ask(5.9, flush=False) is None
    assert window.ask(6.0, flush=False).finished == (0, 0)
    assert window.ask(5.0, flush=True).finished == (0, 0)


def test_half_a_window_is_acknowledged_at_once():
    window = make(size=8)
    serve(window)
    for _ in range(5):
        step(window)
    assert window.ask(0.0, flush=False).finished == (0, 3)


def test_what_is_acknowledged_is_said_again():
    """A store that has lost this lease would fence a request without an ack: only an ack is adopted."""
    window = make()
    serve(window)
    step(window), step(window)
    window.finish_last(0.0)
    assert serve(window, flush=True) == Ask(Cursor(0, 1), 2, Cursor(0, 4), 2)
    assert window.is_acknowledged
    window.take(), window.take()  # nothing more is finished, and half of the window is used up
    assert window.is_acknowledged
    assert window.ask(0.0, flush=False).finished == (0, 1)


def test_what_is_finished_while_an_ack_travels_is_still_to_be_acknowledged():
    window = make()
    serve(window)
    step(window), step(window)
    ask = window.ask(0.0, flush=False)
    step(window)
    window.answered(ask, NextAnswer([batch(0, 4), batch(0, 5)], Cursor(0, 1), NUM_STEPS, False), 7.0)
    assert not window.is_acknowledged
    assert window.ack_due_s == 8.0


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 64])
@pytest.mark.parametrize("limit", [1, 2, 5, 1024])
def test_every_batch_once_through_all_epochs(size, limit):
    """Even if the ends of epochs are known before the cursor is there, and if the coordinator returns fewer batches."""
    window = make(size=size)
    seen = []

    def train():
        while True:
            while serve(window, limit=limit):
                pass
            seen.append(step(window))

    with pytest.raises(EndOfRun):
        train()
    assert seen == [divmod(place, NUM_STEPS) for place in range(5 * NUM_STEPS)]
    serve(window, flush=True)
    assert window.is_acknowledged


def test_the_cursor_stays_behind_what_may_be_acknowledged():
    """The coordinator accepts an ack of at most 1,024 steps, so no more may be handed out."""
    window = Window(RANK, 1024, 1.0)
    window.leased(Lease(1, 1, Cursor(0, 0), 10**6, Deal(Cursor(0, 0), 0, 2), "f"))
    fetched, acknowledged = 0, 0
    for _ in range(5000):
        if (ask := window.ask(0.0, flush=False)) is not None:
            acknowledged = ask.finished.step + 1 if ask.finished else acknowledged
            batches = [batch(0, s) for s in range(fetched, fetched + ask.count)] if ask.start else []
            fetched += len(batches)
            assert fetched - acknowledged <= 1024
            window.answered(ask, NextAnswer(batches, Cursor(0, acknowledged), 10**6, False), 0.0)
        step(window)


def test_the_end_of_an_epoch():
    window = make(size=4, cursor=(0, 8))
    assert window.is_end_of_epoch(0) is None
    window.answered(
        window.ask(0.0, False), NextAnswer([batch(0, 8), batch(0, 9)], Cursor(0, 8), NUM_STEPS, False), 0.0
    )
    step(window)
    assert window.is_end_of_epoch(0) is False
    step(window)
    assert window.is_end_of_epoch(0) is True  # known from num_steps, although nothing is prefetched


@pytest.mark.parametrize(
    "batches",
    [
        [batch(0, 1)],
        [batch(0, 0), batch(0, 2)],
        [batch(0, 0, rank=2)],
        [batch(0, 0), batch(1, 0)],
        [batch(0, 0), batch(0, 0)],
        [],
    ],
)
def test_an_answer_that_does_not_follow_is_refused_whole(batches):
    window = make()
    with pytest.raises(ProtocolError):
        window.answered(window.ask(0.0, False), NextAnswer(batches, Cursor(0, 0), NUM_STEPS, False), 0.0)
    assert not window.ready


def test_a_fence_stops_at_once_and_for_good():
    window = make()
    serve(window)
    window.error = Fenced("gone")
    for _ in range(2):
        with pytest.raises(Fenced):
            window.take()
    assert window.ask(9.0, flush=True) is None


def test_another_error_waits_for_the_last_batch_and_is_tried_again():
    window = make(size=1)
    serve(window)
    window.fail(NotFound("no"), 1.0)
    window.take()
    assert window.ask(0.0, flush=False) is None
    with pytest.raises(NotFound):
        window.take()
    assert window.take() is None
    assert window.ask(0.0, flush=False) is not None


def test_the_cursor_counts_the_last_batch_or_not():
    window = make(size=4, cursor=(0, 8))
    assert window.cursor(include_last=True) == (0, 8)
    serve(window, cursor=Cursor(0, 8))
    step(window)
    assert window.cursor(include_last=True) == (0, 9)
    assert window.cursor(include_last=False) == (0, 8)
    step(window)
    assert window.cursor(include_last=True) == (1, 0)
    assert window.cursor(include_last=False) == (0, 9)
    window.finish_last(0.0)
    assert window.cursor(include_last=False) == (1, 0)
    assert window.state("r", include_last=True).consumed == 0


def test_the_cursor_rolls_over_with_nothing_at_hand():
    window = make(size=1, cursor=(0, 9))
    window.answered(window.ask(0.0, False), NextAnswer([batch(0, 9)], Cursor(0, 9), NUM_STEPS, False), 0.0)
    step(window)
    assert window.cursor(include_last=True) == (1, 0)


def test_a_checkpoint_decides_where_to_start():
    window = make(cursor=(0, 5), start=Cursor(0, 2))
    assert window.cursor(include_last=True) == (0, 2)
    assert window.ask(0.0, False).start == (0, 2)


def test_a_run_that_is_over_when_it_is_leased():
    window = make(cursor=(5, 0), num_steps=0)
    assert window.ask(0.0, flush=True) is None
    with pytest.raises(EndOfRun):
        window.take()
    assert window.cursor(include_last=True) == (5, 0)
