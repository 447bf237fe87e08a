"""What is retried, for how long, and the error at the end. The answers come from a real, tiny HTTP server."""

import email.utils
import logging
import random
import traceback

import pytest

import bucketline
from bucketline import CoordinatorUnavailable, Operator, UsageError
from bucketline._transport.retry import BACKOFF_BASE_S, BACKOFF_CAP_S, Backoff, retry_after_s
from bucketline._transport.urls import check_url, is_loopback

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
        (405, "method_not_allowed", bucketline.Refused),
    ],
)
def test_a_refusal_is_not_repeated(canned, status, code, kind):
    canned.script["/v1/"] = [problem(status, code), OK]
    with Operator(canned.url) as operator, pytest.raises(kind):
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
    assert "bucketline serve" not in str(error)  # there is one: it has answered


def test_nobody_listens():
    """One line, which ends with what to do."""
    operator = Operator("http://127.0.0.1:9", timeout_s=0.2)
    with operator, pytest.raises(CoordinatorUnavailable, match=r"`bucketline serve`.*url$") as caught:
        operator.runs()
    assert "\n" not in str(caught.value)


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
    for url in (
        "host:7700",
        "",
        None,
        "ftp://host",
        "http://",
        "http://host:99999",
        "http://[",
        3,
        "http://host\n",
        "http://ho\tst",
    ):
        with pytest.raises(UsageError):
            check_url(url)


def test_a_token_is_sent_and_not_shown(canned, monkeypatch):
    monkeypatch.setenv("BUCKETLINE_TOKEN", "from-environment")
    canned.script["/v1/"] = [OK]
    with Operator(canned.url) as operator:
        operator.run("r")
    assert canned.authorizations == ["Bearer from-environment"]
    client = bucketline.BucketClient(canned.url, "r", token="secret")
    assert "secret" not in repr(client)


def test_a_token_is_in_no_log_and_no_error(canned, caplog):
    """In ours and in httpx's, at any level, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("bucketline").setLevel(logging.DEBUG)
    canned.script["/v1/"] = [
        Canned(502),
        NOW,
        problem(401, "unauthorized"),
        Canned(200, {}, b"[]"),
        Canned(302),
    ]
    told = []
    with Operator([canned.url, "http://127.0.0.1:9"], "s3cret-token", timeout_s=0.5) as operator:
        for _ in range(5):
            with pytest.raises(bucketline.BucketlineError) as caught:
                operator.run("r")
            told.append("".join(traceback.format_exception(caught.value)))
    assert len(canned.seen) > 3
    assert "try" in caplog.text
    assert "httpcore" in {record.name.partition(".")[0] for record in caplog.records}
    assert "s3cret" not in caplog.text + "".join(told)


def test_a_token_from_a_file_may_bring_its_line_end(canned, monkeypatch):
    canned.script["/v1/"] = [OK, OK]
    for token in (" from-file\r\n", "\n"):
        monkeypatch.setenv("BUCKETLINE_TOKEN", token)
        with Operator(canned.url) as operator:
            operator.run("r")
    assert canned.authorizations == ["Bearer from-file", None]


@pytest.mark.parametrize("token", ["s3cret\n", " s3cret", "s3\ncret", "s3cret\0", "s3cret\udcff", b"s3cret"])
def test_a_token_that_no_header_carries_is_refused_unseen(canned, monkeypatch, token):
    with pytest.raises(UsageError, match=r"^token ") as caught:
        Operator(canned.url, token)
    assert "s3" not in str(caught.value)
    monkeypatch.setenv("BUCKETLINE_TOKEN", "s3\ncret")
    client = bucketline.BucketClient(canned.url, "r")
    with pytest.raises(UsageError, match=r"^BUCKETLINE_TOKEN ") as caught:
        client.next_batch(0)
    assert "s3" not in str(caught.value)
    assert not canned.seen


@pytest.mark.parametrize(
    "send",
    [
        lambda operator: operator.put_map("m", b"", content_type="text/csv\n"),
        lambda operator: operator.put_map("m", b"", content_type="tëxt/csv"),
        lambda operator: operator.image("r", "9" * 100_000),
    ],
)
def test_what_cannot_be_sent_is_not_tried_again(canned, send):
    with Operator(canned.url) as operator, pytest.raises(UsageError, match="cannot be sent"):
        send(operator)
    assert not canned.seen


def test_which_hosts_are_this_machine():
    for host in ("localhost", "127.0.0.1", "127.8.9.10", "[::1]"):
        assert is_loopback(f"http://{host}:7700/x")
    for host in ("coordinator", "localhost.example", "10.0.0.1", "0.0.0.0", "[2001:db8::1]"):
        assert not is_loopback(f"http://{host}:7700")
