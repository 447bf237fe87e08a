"""A client and a real coordinator: every batch of the plan once, and acknowledged as documented."""

import threading

import pytest

from bucketline import BucketClient, ClientClosed, EndOfRun, Fenced, NotFound, Operator, UsageError

from .coordinators import put_run

COMES_BACK = pytest.mark.filterwarnings("ignore::bucketline.StartWarning")
"""A worker that resumes at the coordinator's cursor."""


def planned(url, run, rank, epoch=0):
    """A rank's epoch as the plan has it."""
    with Operator(url) as operator:
        num_steps = operator.stats(run)["num_steps"]
        return operator.batches(run, epoch, 0, rank, num_steps)


def cursors(url, run):
    with Operator(url) as operator:
        return {each["rank"]: (each["epoch"], each["step"]) for each in operator.ranks(run)}


@pytest.mark.parametrize("window", [1, pytest.param(2, marks=pytest.mark.exhaustive), 1024])
def test_an_epoch_is_exact(url, run, connect, window):
    """As planned on every rank; over all ranks no image twice, and none left out except those that the plan names."""
    client = connect(window=window)
    served = {rank: list(client.epoch(rank)) for rank in (0, 1)}
    assert served == {rank: planned(url, run, rank) for rank in (0, 1)}
    ids = [id for batches in served.values() for batch in batches for id in batch.ids]
    with Operator(url) as operator:
        stats = operator.stats(run)
    assert len(ids) == len(set(ids)) == stats["num_assigned"] - stats["dropped"]


def test_epoch_after_epoch(url, run, connect):
    client = connect(window=7)
    for epoch in range(3):
        assert list(client.epoch(0)) == planned(url, run, 0, epoch)
    assert client.next_batch(0) == planned(url, run, 0, 3)[0]


def test_repeats_are_marked(url, connect):
    put_run(url, "padded", tails="pad")
    batches = [batch for rank in (0, 1) for batch in connect(run="padded").epoch(rank)]
    marked = [batch for batch in batches if batch.repeats is not None]
    assert marked
    assert all(len(batch.repeats) == len(batch.ids) and any(batch.repeats) for batch in marked)
    ids = [id for batch in batches for id in batch.ids]
    assert len(ids) - len(set(ids)) == sum(sum(batch.repeats) for batch in marked)


def test_ranks_in_threads_of_one_client(url, run, connect):
    client = connect(window=4)
    served = {}

    def train(rank):
        served[rank] = list(client.epoch(rank))

    threads = [threading.Thread(target=train, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served == {rank: planned(url, run, rank) for rank in (0, 1)}


def test_threads_that_share_a_rank_get_each_batch_once(url, run, connect):
    client = connect(window=3)
    expected = planned(url, run, 0)
    served = []

    def train():
        served.extend(client.next_batch(0) for _ in range(4))

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(batch.step for batch in served) == list(range(16))
    assert all(batch == expected[batch.step] for batch in served)


@COMES_BACK
def test_the_run_ends(url, connect):
    put_run(url, "two-epochs", epochs=2)
    client = connect(run="two-epochs")
    assert [len(list(client.epoch(0))) for _ in range(3)] == [19, 19, 0]
    for _ in range(2):
        with pytest.raises(EndOfRun):
            client.next_batch(0)
    client.flush()
    assert cursors(url, "two-epochs")[0] == (2, 0)
    state = client.state_dict(0)
    assert (state["epoch"], state["step"]) == (2, 0)
    late = connect(run="two-epochs")
    with pytest.raises(EndOfRun):
        late.next_batch(0)
    assert late.state_dict(0) == state


def test_a_clean_end_acknowledges_the_last_batch(url, run):
    with BucketClient(url, run) as client:
        for _ in range(3):
            client.next_batch(0)
    assert cursors(url, run)[0] == (0, 3)
    with pytest.raises(ClientClosed):
        client.next_batch(0)
    client.close()


def test_an_exception_does_not(url, run):
    def train():
        with BucketClient(url, run) as client:
            for _ in range(3):
                client.next_batch(0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert cursors(url, run)[0] == (0, 2)


@COMES_BACK
def test_nor_does_a_bare_close_unless_requested(url, run, connect):
    client = connect()
    client.next_batch(0)
    client.next_batch(0)
    client.close()
    assert cursors(url, run)[0] == (0, 1)
    client = connect()
    assert client.next_batch(0).step == 1
    client.close(finished=True)
    assert cursors(url, run)[0] == (0, 2)


def test_an_exhausted_epoch_is_finished_and_a_left_one_is_not(url, run, connect):
    client = connect()
    list(client.epoch(0))
    for batch in client.epoch(1):
        if batch.step == 4:
            break
    client.flush()
    assert cursors(url, run) == {0: (1, 0), 1: (0, 4)}
    client.ack(1)
    client.flush()
    assert cursors(url, run)[1] == (0, 5)
    assert client.next_batch(1).step == 5


def test_finished_steps_are_acknowledged_without_being_asked(url, run, connect):
    """The ack goes out by itself when its interval is over: the test asks until it has."""
    client = connect(ack_interval_s=0.2)
    client.next_batch(0)
    client.next_batch(0)
    assert any(cursors(url, run)[0] == (0, 1) for _ in range(1000))


@COMES_BACK
def test_what_was_not_acknowledged_comes_again(url, run, connect):
    first = connect()
    batches = [first.next_batch(0) for _ in range(3)]
    first.flush()
    assert connect().next_batch(0) == batches[2]


def test_a_second_process_takes_the_rank_over(url, run, connect):
    old, new = connect(), connect()
    assert old.next_batch(0).step == 0
    assert new.next_batch(0).step == 0
    assert old.next_batch(0).step == 1  # prefetched, and it does not know yet
    with pytest.raises(Fenced, match="bucketline run ranks"):
        old.flush()
    for _ in range(2):  # although batches are prefetched: for good, and without taking the rank back
        with pytest.raises(Fenced):
            old.next_batch(0)
    assert new.next_batch(0).step == 1
    new.flush()
    assert cursors(url, run)[0] == (0, 1)
    old.close()  # has been told already


def test_other_ranks_of_a_fenced_client_continue(run, connect):
    old, new = connect(), connect()
    for client in (old, new, old, old):
        client.next_batch(0)
    with pytest.raises(Fenced):
        old.flush()
    assert old.next_batch(1).step == 0
    assert old.next_batch(1).step == 1


def test_the_same_holder_shares_a_rank(url, run, connect):
    peers = [connect(holder="model-parallel-0") for _ in range(2)]
    for batch in planned(url, run, 0)[:9]:
        assert [peer.next_batch(0) for peer in peers] == [batch, batch]
    for peer in peers:
        peer.close(finished=True)
    assert cursors(url, run)[0] == (0, 9)


def test_what_does_not_exist(url, run, connect):
    with pytest.raises(NotFound):
        connect(run="nowhere").next_batch(0)
    client = connect()
    for _ in range(2):
        with pytest.raises(NotFound):
            client.next_batch(2)
    assert client.next_batch(1).rank == 1


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("window", [0, 1025, "3", True]),
        ("timeout_s", [0, "3", None, float("nan")]),
        ("request_timeout_s", ["3"]),
        ("ack_interval_s", [-1]),
        ("url", ["here"]),
        ("run", [""]),
        ("token", ["s3cret\n"]),
    ],
)
def test_wrong_arguments_are_reported_before_anything_is_asked(name, wrong):
    for value in wrong:
        with pytest.raises(UsageError, match=name) as caught:
            BucketClient(**{"url": "http://127.0.0.1:9", "run": "r", name: value})
        assert "s3cret" not in str(caught.value)


def test_what_is_not_a_rank_is_refused_and_fences_nobody(connect):
    """Above all ``os.environ["RANK"]`` as it is, while another process holds rank 0."""
    holder, other = connect(), connect()
    holder.next_batch(0), holder.next_batch(0)
    for rank in ("0", -1, True, 0.0, None):
        for call in (
            other.next_batch,
            lambda rank: next(other.epoch(rank)),
            other.ack,
            lambda rank: other.state_dict("0" if rank is None else rank),
        ):
            with pytest.raises(UsageError, match="rank"):
                call(rank)
    holder.flush()


def test_a_rank_may_be_any_integer(url, run, connect):
    class One:
        def __index__(self):
            return 1

    client = connect()
    assert [client.next_batch(rank).step for rank in (1, One())] == [0, 1]


def test_waiting_for_ever(run, connect):
    forever = float("inf")
    client = connect(timeout_s=forever, request_timeout_s=forever, ack_interval_s=forever)
    assert [client.next_batch(0).step for _ in range(2)] == [0, 1]
    client.flush(forever)
    for wrong in ("3", -1):
        with pytest.raises(UsageError, match="timeout_s"):
            client.flush(wrong)
