"""Checkpoints: a job resumes from every step, on any number of ranks, and each image comes once in an epoch."""

import itertools

import pytest

from bucketline import Conflict, Fenced, Operator, PlanMismatch, SessionReused, UsageError

from .coordinators import put_run

_names = (f"session-{i}" for i in itertools.count())
NUM_STEPS = 9  # of the small epochs below


def done_steps(*quick):
    """Every number of steps of a small epoch: these in ``make test``, the others in ``make test-all``."""
    others = [
        pytest.param(done, marks=pytest.mark.exhaustive) for done in range(NUM_STEPS + 1) if done not in quick
    ]
    return pytest.mark.parametrize("done", [*quick, *others])


@pytest.fixture(scope="module")
def whole(shared):
    """The epoch of run ``small``, which is walked many times: the batches of 2 ranks in 9 steps."""
    put_run(shared.url, "small", batch_size=256)
    with Operator(shared.url) as operator:
        return [operator.batches("small", 0, 0, rank, NUM_STEPS) for rank in (0, 1)]


@pytest.fixture
def small(whole):
    return "small"


def rest(client, rank):
    return list(client.epoch(rank))


def start(client, world_size=2):
    return client.start_session(world_size, "start", session=next(_names))


@done_steps(0, 4, NUM_STEPS)
def test_resume_from_every_step(small, whole, connect, done):
    first = connect(run=small)
    start(first)
    for rank, _ in itertools.product((0, 1), range(done)):
        first.next_batch(rank)
    for rank in (0, 1):
        first.state_dict(rank)  # leases the rank, where done is 0
    state = first.state_dict()
    second = connect(run=small)
    state["start"] = second.load_state_dict(state, session=next(_names)).generation_id
    ended = {"epoch": 1, "step": 0, "offset": 0} if done == NUM_STEPS else {}
    assert second.state_dict() == {**state, **ended}
    for rank in (0, 1):
        if ended:
            assert second.next_batch(rank).epoch == 1
        else:
            assert rest(second, rank) == whole[rank][done:]


@done_steps(0, 5)
@pytest.mark.parametrize("world_size", [1, 3, pytest.param(5, marks=pytest.mark.exhaustive)])
def test_resume_on_another_number_of_ranks(url, small, connect, world_size, done):
    """Two ranks, then others: together each image once, except those that the session says are left out."""
    first = connect(run=small)
    start(first)
    served = [first.next_batch(rank) for rank in (0, 1) for _ in range(done)]
    second = connect(run=small)
    session = second.load_state_dict(first.state_dict(0), world_size, session=next(_names))
    assert session.world_size == world_size
    if done:
        with Operator(url) as operator:
            num_batches = operator.stats(small)["num_batches"]
    else:  # the epoch begins with these ranks, and is laid out for them
        num_batches = session.num_steps * world_size
        assert session.left_out_batches == 0
    if session.cursor.epoch == 0:
        of_ranks = [rest(second, rank) for rank in range(world_size)]
        served += itertools.chain(*of_ranks)
        assert num_batches - len(served) == session.left_out_batches
        shapes = [{(batch.width, batch.height) for batch in step} for step in zip(*of_ranks, strict=True)]
        num_mixed = sum(len(found) > 1 for found in shapes)
        # of an epoch that others have begun, steps that span its units count, whatever they have
        assert num_mixed == session.mixed_steps if not done else num_mixed <= session.mixed_steps
    ids = [id for batch in served for id in batch.ids]
    assert len(ids) == len(set(ids))
    assert num_batches - len(served) < max(2, world_size)


def test_the_state_counts_the_last_batch_unless_requested(run, connect):
    client = connect()
    client.next_batch(0)
    client.next_batch(0)
    assert client.state_dict()["step"] == 2
    assert client.state_dict(include_last=False)["step"] == 1
    client.ack(0)
    assert client.state_dict(include_last=False)["step"] == 2


def test_the_state_is_at_the_slowest_rank(run, connect):
    client = connect()
    for rank in (0, 0, 0, 1):
        client.next_batch(rank)
    state = client.state_dict()
    assert (state["step"], state["offset"]) == (1, 2)
    assert client.state_dict(0)["offset"] == 6


def test_the_state_agrees_with_the_coordinator(url, run, connect):
    client = connect()
    for rank, _ in itertools.product((0, 1), range(5)):
        client.next_batch(rank)
    for rank in (0, 1):
        client.ack(rank)
    client.flush()
    with Operator(url) as operator:
        assert operator.run(run)["state"] == client.state_dict()


def test_a_state_before_any_batch(run, connect):
    with pytest.raises(UsageError, match="rank"):
        connect().state_dict()
    assert connect().state_dict(0)["step"] == 0


def test_every_process_starts_the_same_session(run, connect):
    """Two processes of a job, each with a rank: the second start is the first one's."""
    old = connect()
    for rank in (0, 1):
        old.next_batch(rank), old.next_batch(rank)
    state = old.state_dict()
    name = next(_names)
    jobs = [connect(session=name), connect(session=name)]
    generations = {job.load_state_dict(state).generation for job in jobs}
    assert generations == {2}
    assert [job.next_batch(rank).step for rank, job in enumerate(jobs)] == [2, 2]
    with pytest.raises(Fenced):
        old.flush()


def test_a_fenced_client_may_start_again(run, connect):
    client = connect()
    client.next_batch(0), client.next_batch(0)
    client.flush()
    start(connect())
    client.next_batch(0)
    with pytest.raises(Fenced):
        client.flush()
    client.start_session(2, "cursor", session=next(_names))
    assert client.next_batch(0).step == 0


def test_a_session_at_the_cursor_loses_nothing(run, connect):
    client = connect()
    for rank in (0, 1):
        for _ in range(3):
            client.next_batch(rank)
        client.ack(rank)
    session = client.start_session(2, "cursor", session=next(_names))
    assert session.cursor == (0, 3)
    assert [client.next_batch(rank).step for rank in (0, 1)] == [3, 3]


def test_a_used_name_resumes_exactly_or_says_so(run, connect):
    """A launcher that gives every start of the job the same name: the checkpoint still decides, or an error does."""
    name = next(_names)
    first = connect(session=name)
    first.start_session(2, "start")
    for _ in range(3):
        first.next_batch(0)
    state = first.state_dict(0)
    for _ in range(4):
        first.next_batch(0)
    first.close()
    second = connect(session=name)
    second.load_state_dict(state)
    assert [second.next_batch(0).step for _ in range(12)] == list(range(3, 15))
    second.close(finished=True)
    third = connect(session=next(_names))
    third.load_state_dict({**state, "step": 5, "offset": 10})
    with pytest.raises(Fenced):
        connect(session=name).load_state_dict(state)
    with pytest.raises(SessionReused):
        connect(session=third._session).load_state_dict(state)
    with pytest.raises(Conflict):
        connect(session=third._session).load_state_dict(state, 3)


def test_states_that_do_not_fit(url, run, connect):
    client = connect()
    state = client.state_dict(0)
    with pytest.raises(UsageError, match="step"):
        client.load_state_dict({**state, "step": "3"})
    with pytest.raises(UsageError, match="resume"):
        client.start_session(2, "end")
    for wrong in (None, 0, "2", True, 2.0):
        with pytest.raises(UsageError, match="world_size"):
            client.start_session(wrong, "start", session="never")
    put_run(url, "another", seed=7)
    with pytest.raises(PlanMismatch):
        connect(run="another").load_state_dict(state, session=next(_names))


def test_plain_processes_do_not_fence_each_other(url, run, connect, monkeypatch):
    """Started by hand, each loads the checkpoint: refused before it begins a session, or one start under one name."""
    state = connect().state_dict(0)
    with Operator(url) as operator:
        before = operator.run(run)["generation"]
        with pytest.raises(UsageError, match="BUCKETLINE_SESSION"):
            connect().load_state_dict(state)
        assert operator.run(run)["generation"] == before
    monkeypatch.setenv("BUCKETLINE_SESSION", next(_names))
    processes = [connect(), connect()]
    for process in processes:
        process.load_state_dict(state)
    for rank, process in enumerate(processes):
        process.next_batch(rank), process.next_batch(rank)
    for process in processes:
        process.flush()


def test_a_job_of_one_rank_needs_no_name(url, connect):
    put_run(url, "alone", world_size=1)
    client = connect(run="alone")
    generations = [client.start_session(1, "start").generation for _ in range(2)]
    assert generations == [2, 3]
