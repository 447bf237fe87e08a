"""Requests repeated until a deadline, at whichever replica of the coordinator is next."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from .. import _wire
from .._checks import check_token
from .._errors import CoordinatorUnavailable, NotFound, ProtocolError, Refused, UsageError
from .._types import Json
from .failover import Failover
from .failures import Unanswered, never_a_coordinator, one_line, unavailable
from .first_contact import FirstContact
from .proxies import environment, proxy_for
from .replica import Read, Replica
from .retry import Backoff, log_level
from .tls import Verify, trusted
from .urls import Urls, check_urls

T = TypeVar("T")

TOKEN_VARIABLE = "BUCKETLINE_TOKEN"

log = logging.getLogger("bucketline")


class Transport:
    """Connection pools to the replicas of one coordinator, one of which is asked at a time, starting with number
    ``preferred_replica`` (modulo their number). Thread-safe; belongs to the process that made it."""

    def __init__(
        self,
        url: Urls,
        token: str | None,
        *,
        request_timeout_s: float,
        connect_timeout_s: float = 5.0,
        verify: Verify | None = None,
        preferred_replica: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        urls = check_urls(url)
        headers = _headers(token)
        environ_proxies = environment()
        proxies = [proxy_for(each, environ_proxies) for each in urls]
        trust = trusted(verify, (*urls, *proxies))  # shared by all
        self._replicas = [
            Replica(
                each,
                headers=headers,
                request_timeout_s=request_timeout_s,
                connect_timeout_s=connect_timeout_s,
                trust=trust,
                proxy=proxy,
            )
            for each, proxy in zip(urls, proxies, strict=True)
        ]
        self._lock = threading.Lock()  # around the two below
        self._failover = Failover(len(urls), preferred_replica)
        self._first_contact = FirstContact(len(urls))
        self._clock = clock

    @property
    def url(self) -> str:
        """The replica that is asked at present, safe to display."""
        with self._lock:
            return self._replicas[self._failover.at].url

    def attempt(self, request: _wire.Request, reader: Callable[[Json], T], stream: Read | None = None) -> T:
        """Ask once, as ``Replica.attempt``, whichever replica is next. ``UsageError`` also if no replica is to be
        trusted."""
        with self._lock:
            at = self._failover.choose(self._clock())
        try:
            answer = self._replicas[at].attempt(request, reader, stream)
        except Unanswered as failure:
            raise self._note_failure(at, failure) from failure
        except Refused:
            self._note_answer(at)
            raise
        self._note_answer(at)
        return answer

    def _note_failure(self, at: int, failure: Unanswered) -> Unanswered | UsageError:
        """The error to raise for it."""
        why, leave = one_line(failure), failure.reason.tries_another_replica
        with self._lock:
            is_next_fresh = self._failover.note_failure(at, why, leave=leave)
            self._first_contact.failed(at, failure, self._clock())
            if self._first_contact.is_hopeless:
                return UsageError(why)  # it would be the same until the deadline
        message = why if len(self._replicas) == 1 else f"{self._replicas[at].url}: {why}"
        # how long one replica wants to be left alone says nothing about the others
        wait_s = None if is_next_fresh and leave else failure.retry_after_s
        return Unanswered(message, failure.reason, retry_after_s=wait_s, code=failure.code)

    def _note_answer(self, at: int) -> None:
        with self._lock:
            self._first_contact.answered()
            self._failover.answered(at, self._clock())

    def call(
        self,
        request: _wire.Request,
        timeout_s: float,
        reader: Callable[[Json], T],
        stream: Read | None = None,
    ) -> T:
        """Ask until there is a whole answer; the error of ``unavailable`` once the deadline has passed. Sleeps between
        attempts."""
        started_s = self._clock()
        backoff = Backoff()
        while True:
            try:
                return self.attempt(request, reader, stream)
            except NotFound:
                if request.method == "DELETE" and backoff.failures:
                    return reader({})  # an earlier attempt has deleted it, and its answer was lost
                raise
            except Unanswered as exc:
                now_s, until_s = self._clock(), self.deadline_s(started_s, timeout_s)
                if now_s >= until_s:
                    attempts = backoff.failures + 1
                    raise self.unavailable(str(request), exc, attempts, now_s - started_s) from exc
                delay_s = min(backoff.next_delay_s(exc.retry_after_s), until_s - now_s)
                log.log(log_level(backoff.failures), "%s: %s; trying again", request, exc)
            time.sleep(delay_s)

    def deadline_s(self, started_s: float, timeout_s: float) -> float:
        """Until when a call that began at ``started_s`` waits: sooner if no coordinator has ever answered."""
        with self._lock:
            return self._first_contact.deadline_s(started_s, timeout_s)

    def unavailable(
        self, what: str, cause: Unanswered | None, attempts: int, waited_s: float
    ) -> CoordinatorUnavailable | ProtocolError:
        """The error for a deadline that passed; the caller raises it ``from`` the cause."""
        urls = [replica.url for replica in self._replicas]
        with self._lock:
            failed = [f"{urls[at]}: {why}" for at, why in sorted(self._failover.failed.items())]
            is_foreign = self._first_contact.is_foreign
        if is_foreign and cause is not None:
            return never_a_coordinator(urls, failed, what, cause, attempts, waited_s)
        return unavailable(urls, failed, what, cause, attempts, waited_s)

    def close(self) -> None:
        for replica in self._replicas:
            replica.close()


def _headers(token: str | None) -> dict[bytes, bytes]:
    source = "token"
    if token is None:  # a secret's file leaves a line end in the environment
        token, source = os.environ.get(TOKEN_VARIABLE, "").strip(), TOKEN_VARIABLE
    headers = {b"Accept": b"application/json", b"User-Agent": b"bucketline"}
    if token:
        headers[b"Authorization"] = b"Bearer " + check_token(token, source).encode()
    return headers
