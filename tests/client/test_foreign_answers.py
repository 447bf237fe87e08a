"""Answers that are not the coordinator's, and refusals that were stored: neither ends a job that is healthy again."""

import contextlib

import pytest

from bucketline import (
    BucketClient,
    CoordinatorUnavailable,
    EndOfRun,
    Fenced,
    Forbidden,
    NotFound,
    Operator,
    ProtocolError,
    Unauthorized,
)
from bucketline._transport.failures import Unanswered
from bucketline._transport.first_contact import FOREIGN_PATIENCE_S
from bucketline._transport.transport import Transport
from bucketline._wire import Request, document
from tests.waiting import until

from .coordinators import Canned
from .test_faults import planned

EXHAUSTIVE = pytest.mark.exhaustive
JSON = {"Content-Type": "application/json"}
PROBLEM = {"Content-Type": "application/problem+json"}
HTML = {"Content-Type": "text/html; charset=utf-8"}
FOREIGN = {
    "not found": Canned(404, {"Content-Type": "text/plain"}, b"404 page not found\n"),
    "untyped": Canned(404, {}, b""),
    "forbidden": Canned(403, HTML, b"<html><title>403</title></html>"),
    "unauthorized": Canned(401, {**HTML, "WWW-Authenticate": "Basic"}, b"<html></html>"),
    "conflict": Canned(409, HTML, b"conflict"),
    "too large": Canned(413, HTML, b"<h1>413 Request Entity Too Large</h1>"),
    "no such method": Canned(501, HTML, b"Unsupported method ('POST')"),
    "redirect": Canned(302, {"Location": "https://login.example/?state=s3cret"}, b""),
    "moved": Canned(308, {"Location": "https://elsewhere.example/"}, b""),
    "not modified": Canned(304, {}, b""),
    "page": Canned(200, HTML, b"<html>please sign in</html>"),
    "page of JSON": Canned(200, HTML, b'{"status": "ready"}'),
    "empty": Canned(200, JSON, b""),
    "nothing": Canned(200, {}, b""),
    "cut off": Canned(200, JSON, b'{"lease": 1, "generation": 2, "cur'),
    "list": Canned(200, JSON, b"[]"),
    "gateway's JSON": Canned(404, JSON, b'{"code": "not_found", "detail": "no route"}'),
    "another's problem": Canned(404, PROBLEM, b'{"type": "about:blank", "status": 404}'),
    "another's code": Canned(409, PROBLEM, b'{"type": "about:blank", "code": "E17"}'),
    "broken problem": Canned(409, PROBLEM, b'{"code": "fen'),
}
NOT_FOUND = FOREIGN["not found"]


def refusal(status, code):
    return Canned(status, PROBLEM, b'{"code": "%s", "detail": "no"}' % code.encode())


def until_answered(proxy, path):
    """The client's thread has requested every scripted answer."""
    until("every scripted answer is taken", lambda: not proxy.script[path])


# --- in the midst of a job ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "redirect",
        "cut off",
        *(pytest.param(each, marks=EXHAUSTIVE) for each in ("not found", "page", "another's problem")),
    ],
)
def test_it_is_asked_again(proxy, url, run, connect, name):
    """The first contact below shows of each of the answers that it is not taken for the coordinator's."""
    for path in ("/lease", "/next", "/sessions"):
        proxy.script[path] = [FOREIGN[name]]
    client = connect(proxy.url, window=8)
    assert client.start_session(2, "start", session="s").generation == 2
    assert list(client.epoch(0)) == planned(url, run, 19)
    assert not any(proxy.script.values())


def test_a_document_without_what_was_asked_for_is_not_the_coordinators(proxy, url, run, connect):
    for path in ("/lease", "/next", "/sessions"):
        proxy.script[path] = [Canned(200, JSON, b"{}"), Canned(204, {}, b"")]
    client = connect(proxy.url, window=8)
    client.start_session(2, "start", session="s")
    assert list(client.epoch(0)) == planned(url, run, 19)


def test_workers_that_read_beside_the_training_process_ask_again(proxy, url, run, connect):
    client = connect(proxy.url, holder="shared")
    start = client.next_batch(0)
    for path in ("/lease", "/next"):
        proxy.script[path] = [NOT_FOUND, FOREIGN["page"]]
    reader = client.reader(0, holder="shared")
    assert list(reader.epoch(reader.cursor)) == planned(url, run, 19)
    assert start.step == 0


def test_the_deadline_tells_the_answer_and_the_next_call_tries_again(proxy, run, connect):
    client = connect(proxy.url, window=1, timeout_s=0.3)
    client.next_batch(0)
    proxy.script["/next"] = [NOT_FOUND] * 10_000
    with pytest.raises(CoordinatorUnavailable) as caught:
        client.next_batch(0), client.next_batch(0)
    assert f"{proxy.url} gave no answer" in str(caught.value)
    assert "404 text/plain '404 page not found'" in str(caught.value)
    proxy.script["/next"] = []
    assert client.next_batch(0).step in (1, 2)


def test_what_a_redirect_says_in_its_query_is_not_shown(canned):
    canned.script["/v1/"] = [FOREIGN["redirect"]] * 1000
    with Operator(canned.url, timeout_s=0.1) as operator, pytest.raises(ProtocolError) as caught:
        operator.run("r")
    assert "302, a redirect to 'https://login.example/'" in str(caught.value)
    assert "s3cret" not in str(caught.value)


# --- at the first contact -------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", FOREIGN.values(), ids=FOREIGN)
def test_a_wrong_address_is_reported_long_before_the_deadline(canned, monkeypatch, answer):
    monkeypatch.setattr("bucketline._transport.first_contact.FOREIGN_PATIENCE_S", 0.1)
    canned.script["/v1/"] = [answer] * 10_000
    client = BucketClient(canned.url, "r", timeout_s=10**9)
    with Operator(canned.url, timeout_s=10**9) as operator:
        for call in (lambda: operator.run("r"), lambda: client.next_batch(0)):
            with pytest.raises(
                ProtocolError, match=r"no coordinator has answered at .*is the url right"
            ) as told:
                call()
            assert canned.url in str(told.value)
            assert "\n" not in str(told.value)
    client.close()


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def deadlines(urls, *failures):
    """Until when a call waits that began at 0 and has 300 s, after a failure at 100 s, 200 s and so on."""
    clock = Clock()
    transport = Transport(urls, None, request_timeout_s=5.0, clock=clock)
    for _ in failures:
        clock.now_s += 100
        with contextlib.suppress(Unanswered, Forbidden):
            transport.attempt(Request("GET", "/v1/runs/r"), document)
        yield transport.deadline_s(0.0, 300.0)
    transport.close()


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([NOT_FOUND, NOT_FOUND], [100 + FOREIGN_PATIENCE_S] * 2),
        # a coordinator that starts: nobody listens, its ingress has no route yet, then it is busy
        ([Canned(503), NOT_FOUND, Canned(503)], [300, 200 + FOREIGN_PATIENCE_S, 300]),
        ([NOT_FOUND, Canned(200, JSON, b"{}"), NOT_FOUND], [100 + FOREIGN_PATIENCE_S, 300, 300]),
        ([refusal(503, "planning"), NOT_FOUND], [300, 300]),
        ([refusal(403, "forbidden"), NOT_FOUND], [300, 300]),
    ],
)
def test_how_long_it_is_waited_out(canned, answers, expected):
    canned.script["/v1/"] = list(answers)
    assert list(deadlines(canned.url, *answers)) == expected


def test_of_several_addresses_all_must_be_wrong(canned):
    canned.script["/v1/"] = [NOT_FOUND] * 3
    assert list(deadlines([canned.url, "http://127.0.0.1:9"], *"123")) == [300, 300, 300]


def test_a_waiting_call_asks_no_more_often_than_the_backoff(canned, monkeypatch):
    """However often the thread reports failures to it."""
    monkeypatch.setattr("bucketline._transport.retry.BACKOFF_BASE_S", 1e9)
    monkeypatch.setattr("bucketline._transport.retry.BACKOFF_CAP_S", 1e9)
    canned.script["/lease"] = [NOT_FOUND] * 10_000
    client = BucketClient(canned.url, "r", timeout_s=0.3)
    with pytest.raises(ProtocolError):
        client.next_batch(0)
    assert len(canned.seen) <= 2
    client.close()


# --- refusals that were kept ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "unauthorized"),
        (422, "invalid"),
        *(
            pytest.param(*each, marks=EXHAUSTIVE)
            for each in ((403, "forbidden"), (404, "not_found"), (409, "conflict"))
        ),
    ],
)
def test_a_refusal_that_met_an_ack_does_not_end_a_job_that_is_well_again(
    proxy, url, run, connect, status, code
):
    client = connect(proxy.url, window=4, ack_interval_s=0.0)
    served = [client.next_batch(0)]
    client.flush()
    proxy.script["/next"] = [refusal(status, code)]
    served.append(client.next_batch(0))
    until_answered(proxy, "/next")
    served += [client.next_batch(0) for _ in range(17)]
    assert served == planned(url, run, 19)


def test_a_contradiction_that_met_an_ack_is_tried_again_too(proxy, url, run, connect):
    body = b'{"batches": [], "cursor": {"epoch": 0, "step": 0}, "num_steps": 19, "done": false}'
    client = connect(proxy.url, window=2, ack_interval_s=0.0)
    served = [client.next_batch(0)]
    client.flush()
    proxy.script["/next"] = [Canned(200, JSON, body)]
    client.ack(0)  # which also fetches, because only one batch is prefetched
    until_answered(proxy, "/next")
    served += [client.next_batch(0) for _ in range(18)]
    assert served == planned(url, run, 19)


def test_what_is_raised_is_the_answer_to_a_try_of_that_call(proxy, run, connect):
    client = connect(proxy.url, window=8, ack_interval_s=0.0)
    client.next_batch(0)
    client.flush()
    for first in ("the first call", "and the next, for which the thread has tried again by itself"):
        proxy.script["/next"] = [refusal(401, "unauthorized")]
        assert client.next_batch(0), first  # prefetched, but the ack of the one before it is refused
        until_answered(proxy, "/next")
        proxy.script["/next"] = [refusal(403, "forbidden")]
        with pytest.raises(Forbidden):
            client.flush()
    proxy.script["/next"] = [refusal(401, "unauthorized")]
    client.ack(0)
    until_answered(proxy, "/next")
    client.flush()


def test_a_lease_that_was_refused_is_asked_for_again(proxy, run, connect):
    proxy.script["/lease"] = [refusal(404, "not_found")]
    client = connect(proxy.url)
    with pytest.raises(NotFound):
        client.next_batch(0)
    assert client.state_dict(0)["step"] == 0
    assert client.next_batch(0).step == 0


def test_a_refusal_that_stays_is_raised_by_every_call_and_asked_for_once_in_each(canned):
    canned.script["/lease"] = [refusal(401, "unauthorized")] * 10_000
    client = BucketClient(canned.url, "r")
    for _ in range(5):
        with pytest.raises(Unauthorized):
            client.next_batch(0)
    assert len(canned.seen) <= 1 + 2 * 5  # and once more by the thread itself
    client.close()


def test_a_fence_is_final(proxy, run, connect):
    client = connect(proxy.url, window=2)
    client.next_batch(0)
    connect(proxy.url).next_batch(0)
    client.ack(0)
    with pytest.raises(Fenced):
        client.flush()
    num_asked = len(proxy.seen)
    for call in (lambda: client.next_batch(0), client.flush):
        with pytest.raises(Fenced):
            call()
    assert len(proxy.seen) == num_asked


@pytest.mark.parametrize("fails", [False, True])
def test_the_end_sends_what_a_refusal_kept_back(proxy, url, run, fails):
    """Also where the training loop ends by an exception, and nobody waits for the last ack."""
    with contextlib.suppress(ZeroDivisionError), BucketClient(proxy.url, run, ack_interval_s=0.0) as client:
        client.next_batch(0)
        client.flush()
        proxy.script["/next"] = [refusal(401, "unauthorized")]
        client.next_batch(0)
        until_answered(proxy, "/next")
        client.next_batch(0)
        if fails:
            raise ZeroDivisionError
    with Operator(url) as operator:
        assert operator.ranks(run)[0]["step"] == (2 if fails else 3)


def test_the_end_of_a_run_stays_the_end(url, connect, proxy, run):
    with Operator(url) as operator:
        operator.put_run(f"{run}-short", {"map": "coco", "world_size": 1, "batch_size": 1024, "epochs": 1})
    client = connect(proxy.url, f"{run}-short")
    assert len(list(client.epoch(0))) > 0
    for _ in range(2):
        with pytest.raises(EndOfRun):
            client.next_batch(0)
