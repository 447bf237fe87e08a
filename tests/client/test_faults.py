"""Faults between a client and its coordinator: the training loop continues, or a named error says why it cannot."""

import contextlib
import gc
import logging
import threading

import pytest

from bucketline import BucketClient, CoordinatorUnavailable, Operator, ProtocolError

from .coordinators import LOSE, PASS, Canned

HTML = Canned(502, {"Content-Type": "text/html"})
BUSY = Canned(
    503,
    {"Retry-After": "0", "Content-Type": "application/problem+json"},
    b'{"code": "store_unavailable", "detail": "the store is late"}',
)


def planned(url, run, count, rank=0):
    with Operator(url) as operator:
        return operator.batches(run, 0, 0, rank, count)


def persist(call):
    """A caller with a short deadline has to retry: a slow coordinator is not what these tests are about."""
    while True:
        with contextlib.suppress(CoordinatorUnavailable):
            return call()


def test_a_coordinator_killed_between_two_calls(own):
    """SIGKILL, and a restart on the same data directory: the loop does not notice, and no batch is lost or repeated."""
    expected = planned(own.url, "run", 19)
    with BucketClient(own.url, "run", window=2) as client:
        served = []
        for batch in client.epoch(0):
            served.append(batch)
            if batch.step in (2, 11):
                own.kill()
                own.start()
        assert served == expected
    with Operator(own.url) as operator:
        assert operator.run("run")["state"]["epoch"] == 0  # rank 1 has not moved
        assert operator.ranks("run")[0]["epoch"] == 1


def test_prefetched_batches_need_no_coordinator(own):
    expected = planned(own.url, "run", 16)
    client = BucketClient(own.url, "run", window=16, timeout_s=0.3)
    served = [persist(lambda: client.next_batch(0))]
    own.kill()
    served += [client.next_batch(0) for _ in range(15)]
    assert served == expected
    with pytest.raises(CoordinatorUnavailable, match=r"rank 0's next batch") as caught:
        client.next_batch(0)
    assert caught.value.waited_s >= 0.3
    state = client.state_dict()
    assert state["step"] == 16
    own.start()
    assert persist(lambda: client.next_batch(0)).step == 16  # the same client continues
    persist(client.flush)
    client.close()


def test_no_coordinator_from_the_start():
    client = BucketClient("http://127.0.0.1:9", "run", timeout_s=0.2)
    for call in (
        lambda: client.next_batch(0),
        lambda: client.state_dict(0),
        lambda: client.start_session(1, "cursor", session="s"),
    ):
        with pytest.raises(CoordinatorUnavailable) as caught:
            call()
        assert caught.value.attempts > 0
    client.close()


def test_closing_reports_that_acks_did_not_arrive(own):
    client = BucketClient(own.url, "run", timeout_s=0.2)
    persist(lambda: client.next_batch(0))
    own.kill()
    with pytest.raises(CoordinatorUnavailable, match="ack"):
        client.close(finished=True)


def test_an_exception_is_not_hidden_by_a_dead_coordinator(own):
    def train():
        with BucketClient(own.url, "run") as client:
            client.next_batch(0), client.next_batch(0)
            own.kill()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()


@pytest.mark.parametrize(
    ("path", "fault"), [("/sessions", [LOSE, HTML]), ("/lease", [LOSE, LOSE]), ("/next", [BUSY, LOSE, BUSY])]
)
def test_faults_on_the_way_change_nothing(proxy, url, run, connect, path, fault):
    """Above all an answer that is lost after its request took effect."""
    proxy.script[path] = list(fault)
    client = connect(proxy.url, window=2)
    session = client.start_session(2, "start", session="s")
    assert session.generation == 2
    assert list(client.epoch(0)) == planned(url, run, 19)
    assert not proxy.script[path]


def test_every_other_answer_is_lost(proxy, url, run, connect):
    proxy.script["/next"] = [LOSE, PASS] * 6
    client = connect(proxy.url, window=4)
    assert list(client.epoch(0)) == planned(url, run, 19)
    client.flush()
    with Operator(url) as operator:
        assert (operator.ranks(run)[0]["epoch"], operator.ranks(run)[0]["step"]) == (1, 0)


def test_an_answer_that_contradicts_itself(proxy, run, connect):
    body = b'{"batches": [], "cursor": {"epoch": 0, "step": 0}, "num_steps": 19, "done": false}'
    proxy.script["/next"] = [Canned(200, {"Content-Type": "application/json"}, body)]
    client = connect(proxy.url)
    client.begin(None, session="the waiting call gets the error")
    with pytest.raises(ProtocolError):
        client.next_batch(0)
    assert client.next_batch(0).step == 0


def test_retries_are_reported_once(proxy, run, connect, caplog):
    proxy.script["/next"] = [BUSY, BUSY, BUSY]
    with caplog.at_level(logging.INFO, logger="bucketline"):
        connect(proxy.url).next_batch(0)
    told = [record for record in caplog.records if record.name == "bucketline"]
    assert [record.levelname for record in told] == ["WARNING", "INFO"]
    assert "the store is late" in told[0].message


def test_a_dropped_client_ends_its_thread(url, run):
    client = BucketClient(url, run, ack_interval_s=3600)
    client.next_batch(0), client.next_batch(0)
    thread = client._engine._thread
    del client
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    with Operator(url) as operator:
        assert operator.ranks(run)[0]["step"] == 1


def test_closing_ends_waiting_calls(canned):
    canned.script["/lease"] = [BUSY] * 10_000
    client = BucketClient(canned.url, "run")
    told = []

    def wait():
        try:
            client.next_batch(0)
        except Exception as exc:
            told.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    while not canned.seen:
        pass
    client.close()
    thread.join(10)
    assert [type(exc).__name__ for exc in told] == ["ClientClosed"]


def test_a_call_that_begins_to_wait_gets_an_attempt_at_once(canned, monkeypatch):
    """However long the thread meant to wait after the failures before: here, about half an hour."""
    monkeypatch.setattr("bucketline._transport.retry.BACKOFF_BASE_S", 3600.0)
    monkeypatch.setattr("bucketline._transport.retry.BACKOFF_CAP_S", 3600.0)
    canned.script["/lease"] = [Canned(503)] * 1000
    client = BucketClient(canned.url, "run", timeout_s=0.1)
    for num_tries in range(1, 6):
        for _ in range(50):
            if len(canned.seen) >= num_tries:
                break
            with pytest.raises(CoordinatorUnavailable):
                client.next_batch(0)
        assert len(canned.seen) >= num_tries
    client.close()


def test_nothing_happens_before_the_first_use():
    before = threading.active_count()
    client = BucketClient("http://127.0.0.1:9", "run")
    assert threading.active_count() == before
    assert client._engine is None
    client.flush()
    client.ack(0)
    client.close()
