"""What is asked again, how long, and what is told in the end. The answers come from a real, tiny HTTP server."""

import email.utils
import random

import pytest

import bucketline
from bucketline import CoordinatorUnavailable, Operator, ProtocolError, UsageError
from bucketline._transport import BACKOFF_BASE_S, BACKOFF_CAP_S, Backoff, check_url, retry_after_s

from .coordinators import Canned

OK = Canned(200, {"Content-Type": "application/json"}, b'{"status": "ready"}')
NOW = Canned(503, {"Retry-After": "0", "Content-Type": "application/problem+json"}, b'{"code": "planning"}')


def problem(status, code):
    return Canned(status, {"Content-Type": "application/problem+json"}, b'{"code": "%s"}' % code.encode())


@pytest.mark.parametrize(
    "failure", [Canned(502), Canned(503), Canned(504), Canned(500), Canned(408), Canned(429), NOW]
)
def test_it_asks_again(canned, failure):
    canned.script["/v1/"] = [failure, failure, OK]
    with Operator(canned.url) as operator:
        assert operator.run("r") == {"status": "ready"}


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "unauthorized", bucketline.Unauthorized),
        (403, "forbidden", bucketline.Forbidden),
        (404, "not_found", bucketline.NotFound),
        (409, "conflict", bucketline.Conflict),
        (413, "too_large", bucketline.TooLarge),
        (422, "invalid", bucketline.Invalid),
        (400, "", bucketline.Refused),
    ],
)
def test_a_refusal_is_not_repeated(canned, status, code, kind):
    canned.script["/v1/"] = [problem(status, code), OK]
    with Operator(canned.url) as operator, pytest.raises(kind):
        operator.run("r")
    assert len(canned.seen) == 1


@pytest.mark.parametrize("answer", [Canned(200), Canned(302, {"Location": "/login"}), Canned(200, {}, b"[]")])
def test_what_is_no_coordinator_is_told_at_once(canned, answer):
    canned.script["/v1/"] = [answer]
    with Operator(canned.url) as operator, pytest.raises(ProtocolError):
        operator.run("r")
    assert len(canned.seen) == 1


def test_the_deadline_says_what_was_tried(canned):
    canned.script["/v1/"] = [NOW] * 1000
    with Operator(canned.url, timeout_s=0.3) as operator, pytest.raises(CoordinatorUnavailable) as caught:
        operator.run("r")
    error = caught.value
    assert error.code == "planning"
    assert error.attempts == len(canned.seen) > 1
    assert error.waited_s >= 0.3
    assert "GET /v1/runs/r" in str(error)
    assert error.__cause__ is not None


def test_nobody_listens():
    with Operator("http://127.0.0.1:9", timeout_s=0.2) as operator, pytest.raises(CoordinatorUnavailable):
        operator.runs()


def test_a_delete_whose_answer_was_lost_is_done(canned):
    gone = problem(404, "not_found")
    canned.script["/v1/"] = [Canned(502), gone, gone]
    with Operator(canned.url) as operator:
        operator.delete_run("r")
        with pytest.raises(bucketline.NotFound):
            operator.delete_run("r")


def test_backoff_is_full_jitter_under_a_doubling_cap():
    backoff = Backoff(random.Random(1))
    delays = [backoff.next_delay_s(None) for _ in range(200)]
    caps = [min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2**i) for i in range(200)]
    assert all(0 <= delay <= cap for delay, cap in zip(delays, caps, strict=True))
    late = delays[20:]
    assert min(late) < 0.1 * BACKOFF_CAP_S < 0.9 * BACKOFF_CAP_S < max(late)


def test_backoff_honours_retry_after():
    assert Backoff().next_delay_s(7.0) >= 7.0
    assert Backoff().next_delay_s(1e9) <= 61.0  # but not a mistake of a day


def test_retry_after_in_both_forms():
    at = 1_700_000_000
    assert retry_after_s("3", at) == 3.0
    assert retry_after_s(email.utils.formatdate(at + 90, usegmt=True), at) == 90.0
    assert retry_after_s(email.utils.formatdate(at - 90, usegmt=True), at) == 0.0
    assert retry_after_s("-1", at) == 0.0
    assert retry_after_s("nan", at) == 0.0
    assert retry_after_s("soon", at) is None
    assert retry_after_s(None, at) is None


def test_addresses():
    assert check_url("http://host:7700/") == "http://host:7700"
    assert check_url("https://host/bucketline/") == "https://host/bucketline"
    for url in ("host:7700", "", None, "ftp://host", "http://", "http://host:99999", "http://[", 3):
        with pytest.raises(UsageError):
            check_url(url)


def test_a_token_is_sent_and_not_shown(canned, monkeypatch):
    monkeypatch.setenv("BUCKETLINE_TOKEN", "from-environment")
    with Operator(canned.url) as operator:
        assert operator._transport._client.headers["Authorization"] == "Bearer from-environment"
    client = bucketline.BucketClient(canned.url, "r", token="secret")
    assert "secret" not in repr(client)
