"""``begin``: the one call that begins a training or resumes it, and the warning for a job that does not call it."""

import itertools
import os
import warnings

import pytest

from bucketline import BucketClient, EndOfRun, Fenced, Operator, SessionReused, StartWarning, UsageError

from .coordinators import put_run

_names = (f"begin-{number}" for number in itertools.count())


def steps(client, rank, count):
    return [(batch.epoch, batch.step) for batch in (client.next_batch(rank) for _ in range(count))]


@pytest.fixture
def used(url, run, connect):
    """A run that another job has left in the middle: the rank's first batches, and the state after two of them."""
    with BucketClient(url, run) as client:
        batches = [client.next_batch(0) for _ in range(5)]
        return batches, client.state_dict(0, after=batches[1])


def test_none_begins_at_the_very_first_step(used, connect):
    batches, _ = used
    for _ in range(2):
        client = connect()
        client.begin(None, session=next(_names))
        assert client.state_dict()["step"] == 0
        assert [client.next_batch(0) for _ in range(5)] == batches


def test_a_state_continues_behind_it(used, connect):
    batches, state = used
    client = connect()
    client.begin(state, session=next(_names))
    assert [client.next_batch(0) for _ in range(3)] == batches[2:]


def test_none_deals_to_as_many_ranks_as_the_run_was_put_with_or_as_is_said(url, run, connect):
    client = connect()
    assert client.begin(None, 3, session=next(_names)).world_size == 3
    assert client.begin(None, session=next(_names)).world_size == 2
    assert client.begin(client.state_dict(), 1, session=next(_names)).world_size == 1
    assert steps(client, 0, 1) == [(0, 0)]


def test_every_process_of_a_job_begins_it_and_none_fences_another(connect):
    name = next(_names)
    peers = [connect(session=name) for _ in range(2)]
    for client in peers:
        client.begin(None)
    assert [steps(client, rank, 3) for rank, client in enumerate(peers)] == [[(0, 0), (0, 1), (0, 2)]] * 2
    peers[0].flush()


def test_a_crash_loop_without_a_checkpoint_begins_again_each_time(used, connect):
    """Even under a name that does not change: the weights are new, the cursors are not."""
    batches, _ = used
    name = next(_names)
    for count in (4, 2, 5):
        client = connect(session=name)
        client.begin(None)
        assert [client.next_batch(0) for _ in range(count)] == batches[:count]
        client.close(finished=True)


def test_a_name_that_has_begun_elsewhere_is_refused(used, connect):
    _, state = used
    name = next(_names)
    client = connect(session=name)
    client.begin(state)
    with pytest.raises(SessionReused):
        client.begin(None)
    connect(session=next(_names)).begin(None)
    with pytest.raises(Fenced):
        connect(session=name).begin(state)


def test_a_state_that_is_none_is_refused(connect):
    for state in ({}, {"epoch": 0}, "start"):
        with pytest.raises(UsageError, match="state dict"):
            connect().begin(state)


def test_several_ranks_need_a_name(connect):
    with pytest.raises(UsageError, match="BUCKETLINE_SESSION"):
        connect().begin(None)


@pytest.mark.parametrize("take", [lambda client: client.next_batch(0), lambda client: next(client.epoch(0))])
def test_a_job_that_never_said_gets_one_warning(used, connect, take):
    client = connect()
    with pytest.warns(StartWarning, match=r"epoch 0 step 5.*begin\(state\).*begin\(None\)") as told:
        take(client)
    assert told[0].filename == __file__
    take(client), client.next_batch(1)


def test_a_job_on_a_run_that_has_ended_is_reported(url, connect):
    put_run(url, "ended", batch_size=600, epochs=1)
    with BucketClient(url, "ended") as client:
        assert list(client.epoch(0))
    with pytest.warns(StartWarning, match="epoch 1 step 0"), pytest.raises(EndOfRun):
        connect(run="ended").next_batch(0)


def test_who_says_where_or_begins_at_the_start_gets_no_warning(url, run, used, connect):
    _, state = used
    connect(run=run).begin(None, session=next(_names))
    assert steps(connect(), 0, 1) == [(0, 0)]
    for start in (
        lambda client, name: client.begin(state, session=name),
        lambda client, name: client.load_state_dict(state, session=name),
        lambda client, name: client.start_session(2, "cursor", session=name),
    ):
        client = connect()
        start(client, next(_names))
        client.next_batch(0)
    reader = connect().reader(0, holder="reader")
    assert next(reader.epoch(reader.cursor))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_worker_of_a_job_that_said_gets_no_warning(used, connect):
    _, state = used
    client = connect(holder="shared")
    client.begin(state, session=next(_names))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            warnings.simplefilter("error")
            client.next_batch(0)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_the_run_is_where_it_was_asked_to_begin(url, run, used, connect):
    connect().begin(used[1], session=next(_names))
    with Operator(url) as operator:
        assert operator.run(run)["state"]["step"] == 2
