"""Requests over HTTP: one attempt, and attempts repeated until a deadline, at one coordinator or at several
replicas of it. The only module that touches httpx.

Every request of this package is safe to repeat: a lease goes to the same holder again, ``next`` reads and
acknowledges absolute places, a session is idempotent by its name, and the operator's calls put whole things
under names. So it is safe to repeat at another replica too, also where the first one has done what it was
asked and died before it said so: what makes a repetition harmless is in the store, which they share.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

from .. import _wire
from .._errors import CoordinatorUnavailable, NotFound, ProtocolError, Refused, UsageError
from .._types import Json
from .answers import described, media_type, own_problem
from .proxies import environment, proxy_for, shown_proxy
from .tls import Verify, distrusted, trusted
from .urls import Urls, check_urls, shown

if TYPE_CHECKING:
    import ssl

    import httpx

T = TypeVar("T")

TOKEN_VARIABLE = "BUCKETLINE_TOKEN"
BACKOFF_BASE_S = 0.1
BACKOFF_CAP_S = 10.0
RETRY_AFTER_CAP_S = 60.0
ATTEMPT_CAP_S = 1e6
"""A socket takes no timeout of more than 2**31 ms."""
RETURN_AFTER_S = 30.0
RETURN_CAP_S = 600.0
"""How long a client that had to leave its own replica stays with another before it tries its own again; twice as
long after every try in vain. Up to twice that, by chance: not all at once."""

FOREIGN_PATIENCE_S = 5.0
"""How long answers that are not a coordinator's are waited out where a coordinator has never answered: an ingress that
reloads its routes is through by then, and a wrong address is told soon. Once one has answered, the deadline counts."""

LEAVING_STATUSES = frozenset({502, 503, 504})
"""What is gone, overloaded or behind a gap, where another replica may not be. A 500 would be one there as well, and who
is asked to slow down (429) does not go elsewhere to be fast."""

FINAL_5XX = frozenset({501, 505, 511})
"""Not what a proxy says while its coordinator is away: an unknown method, another version of HTTP, a login page."""

Read = Callable[[Iterator[bytes]], None]
"""Takes the chunks of an answer that is no JSON document, once for every attempt that has one."""

log = logging.getLogger("bucketline")


class Unanswered(Exception):  # noqa: N818 - never leaves this package
    """One attempt failed in a way that another may not: the network, a deadline of the attempt, 408, 429, any 5xx, or
    an answer that is not the coordinator's own.

    ``leave``: another replica may do better. ``is_distrust``: its certificate is not to be trusted. ``is_foreign``:
    something else than a coordinator answered, and not with a status that asks for a repetition. ``code``: the
    coordinator's own word, where it gave one.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        code: str | None = None,
        leave: bool = False,
        is_distrust: bool = False,
        is_foreign: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.code = code
        self.leave = leave
        self.is_distrust = is_distrust
        self.is_foreign = is_foreign


class Backoff:
    """How long to wait after each failure in a row: full jitter under a doubling cap, never less than
    Retry-After.

    Full jitter, because 10,000 ranks that lost the coordinator at the same moment must not come back in step.
    """

    def __init__(self, uniform: random.Random | None = None) -> None:
        self._random = uniform or random.Random()
        self.failures = 0

    def reset(self) -> None:
        self.failures = 0

    def next_delay_s(self, retry_after_s: float | None) -> float:
        cap = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(self.failures, 16))
        self.failures += 1
        floor = min(retry_after_s or 0.0, RETRY_AFTER_CAP_S)
        return floor + self._random.uniform(0.0, cap)


class Route:
    """Which of several replicas is asked next. No lock, no I/O and no clock in here.

    It stays with one while that answers. After a failure the next is one that has not failed since the last
    answer, and of those first the one that answered last; once all have failed, they take turns. Having had an
    answer elsewhere, it comes back to ``home`` after a while: else the first restart of a replica would leave
    all of its clients with the others for good.
    """

    def __init__(
        self, num_urls: int, home: int, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self.failed: dict[int, str] = {}  # why, of those that have failed since the last answer
        self._num_urls = num_urls
        self._home = home % num_urls
        self._at = self._home
        self._answered: int | None = None
        self._return_at_s: float | None = None
        self._stay_s = RETURN_AFTER_S
        self._uniform = uniform

    def choose(self, now_s: float) -> int:
        if self._return_at_s is not None and now_s >= self._return_at_s:
            self._at, self._return_at_s = self._home, None
            self._stay_s = min(2 * self._stay_s, RETURN_CAP_S)
        return self._at

    @property
    def at(self) -> int:
        return self._at

    def answered(self, at: int, now_s: float) -> None:
        self.failed.clear()
        self._answered = at
        if at == self._home:
            self._stay_s = RETURN_AFTER_S
        if self._at == self._home:
            self._return_at_s = None
        elif self._return_at_s is None:
            self._return_at_s = now_s + self._stay_s * self._uniform(1.0, 2.0)

    def has_failed(self, at: int, reason: str, *, leave: bool) -> bool:
        """Whether the next attempt goes to one that has not failed since the last answer."""
        self.failed[at] = reason
        if not leave or at != self._at:  # who left meanwhile was another thread
            return self._at not in self.failed
        in_turn = [(at + step) % self._num_urls for step in range(1, self._num_urls + 1)]
        if self._answered is not None:
            in_turn.insert(0, self._answered)
        self._at = next((each for each in in_turn if each not in self.failed), (at + 1) % self._num_urls)
        return self._at not in self.failed


class Transport:
    """Connection pools to the replicas of one coordinator, of which one is asked at a time, beginning with the
    ``seat``-th. Thread-safe; belongs to the process that made it."""

    def __init__(
        self,
        url: Urls,
        token: str | None,
        *,
        request_timeout_s: float,
        connect_timeout_s: float = 5.0,
        verify: Verify | None = None,
        seat: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # here and not above: it takes longer to import than all of bucketline, and only who asks needs it
        import httpx

        self._urls = check_urls(url)
        self._route = Route(len(self._urls), seat)
        self._lock = threading.Lock()  # around the route
        self._clock = clock
        self._has_answered = False
        self._distrusted: set[int] = set()
        self._foreign: set[int] = set()  # those whose last answer was not a coordinator's
        self._foreign_since_s: float | None = None  # when no coordinator has ever answered, and all are such
        if token is None:  # a line's end is what a secret's file leaves in the environment
            token, source = os.environ.get(TOKEN_VARIABLE, "").strip(), TOKEN_VARIABLE
        else:
            source = "token"
        headers = {b"Accept": b"application/json", b"User-Agent": b"bucketline"}
        if token:
            headers[b"Authorization"] = b"Bearer " + check_token(token, source).encode()
        attempt_s = min(request_timeout_s, ATTEMPT_CAP_S)
        timeout = httpx.Timeout(attempt_s, connect=min(connect_timeout_s, attempt_s))
        self._httpx = httpx
        trust = trusted(verify)  # one for all: to load a hundred certificates takes longer than a request
        proxies = environment()
        self._via = [proxy_for(each, proxies) for each in self._urls]
        self._clients = [
            # with a transport of its own a client does not look for proxies by itself
            httpx.Client(
                base_url=_checked(each), headers=headers, timeout=timeout, transport=_opened(proxy, trust)
            )
            for each, proxy in zip(self._urls, self._via, strict=True)
        ]

    @property
    def url(self) -> str:
        """The replica that is asked at present, as it may be shown."""
        with self._lock:
            return shown(self._urls[self._route.at])

    def attempt(self, request: _wire.Request, reader: Callable[[Json], T], stream: Read | None = None) -> T:
        """Ask once, whichever replica's turn it is: what ``reader`` makes of the document of a 2xx answer, which is
        empty where ``stream`` takes the body. ``Unanswered`` where it is worth asking again, else ``Refused``, or
        ``UsageError`` for a request that cannot be sent at all, and where no replica is to be trusted."""
        with self._lock:
            at = self._route.choose(self._clock())
        try:
            answer = self._attempt_at(at, request, reader, stream)
        except Unanswered as exc:
            reason = one_line(exc)
            if (proxy := self._via[at]) is not None and exc.code is None:
                reason += f" (asked through the proxy {shown_proxy(proxy)} of the environment)"
            with self._lock:
                is_fresh = self._route.has_failed(at, reason, leave=exc.leave)
                is_hopeless = self._note_failure(at, exc)
            if is_hopeless:
                # it would say the same until the deadline; a job that has begun waits for the certificate's renewal
                raise UsageError(reason) from exc
            told = reason if len(self._urls) == 1 else f"{shown(self._urls[at])}: {reason}"
            # how long one of them wants to be left alone says nothing about the others
            rest_s = None if is_fresh and exc.leave else exc.retry_after_s
            raise Unanswered(told, retry_after_s=rest_s, code=exc.code) from exc
        except Refused:
            self._note_answer(at)
            raise
        self._note_answer(at)
        return answer

    def _note_failure(self, at: int, failure: Unanswered) -> bool:
        """Whether no replica will ever be trusted. With the lock held."""
        for those, is_one in ((self._distrusted, failure.is_distrust), (self._foreign, failure.is_foreign)):
            (those.add if is_one else those.discard)(at)
        self._has_answered = self._has_answered or failure.code is not None
        if self._has_answered or len(self._foreign | self._distrusted) < len(self._urls):
            self._foreign_since_s = None
        elif self._foreign_since_s is None:
            self._foreign_since_s = self._clock()
        return len(self._distrusted) == len(self._urls) and not self._has_answered

    def _note_answer(self, at: int) -> None:
        with self._lock:
            self._has_answered = True
            self._foreign_since_s = None
            self._route.answered(at, self._clock())

    def _attempt_at(
        self, at: int, request: _wire.Request, reader: Callable[[Json], T], stream: Read | None
    ) -> T:
        httpx, client = self._httpx, self._clients[at]
        try:
            response = client.send(self._build(client, request), stream=stream is not None)
            with closing(response):
                is_wanted = response.is_success and _is_typed(response, request.accept or "application/json")
                if stream is not None and is_wanted:
                    stream(response.iter_bytes())
                    return reader({})
                response.read()
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as exc:
            raise UsageError(f"{request} can not be sent: {exc}") from exc
        except httpx.RequestError as exc:
            distrust = distrusted(exc, shown(self._urls[at]))
            reason = distrust or f"{type(exc).__name__}: {exc}"
            if isinstance(exc, httpx.RemoteProtocolError) and self._urls[at].startswith("http:"):
                reason += " (where TLS is served, https:// is wanted)"
            raise Unanswered(reason, leave=True, is_distrust=distrust is not None) from exc
        if is_wanted:
            return _read(response, reader)
        failure = _failure_of(response, request)
        if older := _wire.for_older(request, failure):
            return self._attempt_at(at, older, reader, stream)
        raise failure

    def call(
        self,
        request: _wire.Request,
        timeout_s: float,
        reader: Callable[[Json], T],
        stream: Read | None = None,
    ) -> T:
        """Ask until there is a whole answer; the error of ``unavailable`` when the deadline is over. Sleeps in
        between."""
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
                    failures = backoff.failures + 1
                    raise self.unavailable(str(request), exc, failures, now_s - started_s) from exc
                delay_s = min(backoff.next_delay_s(exc.retry_after_s), until_s - now_s)
                log.log(level_of(backoff.failures), "%s: %s; trying again", request, exc)
            time.sleep(delay_s)

    def deadline_s(self, started_s: float, timeout_s: float) -> float:
        """Until when a call that began at ``started_s`` waits. A user who has typed a wrong address is told soon."""
        with self._lock:
            since_s = self._foreign_since_s
        until_s = started_s + timeout_s
        return until_s if since_s is None else min(until_s, max(started_s, since_s) + FOREIGN_PATIENCE_S)

    def unavailable(
        self, what: str, cause: Unanswered | None, attempts: int, waited_s: float
    ) -> CoordinatorUnavailable | ProtocolError:
        """The error for a deadline that passed, saying in one line what was tried, why it failed and what would
        do; the caller raises it ``from`` the cause."""
        with self._lock:
            failed, is_foreign = dict(self._route.failed), self._foreign_since_s is not None
        urls = [shown(url) for url in self._urls]
        why = [f"{urls[at]}: {reason}" for at, reason in sorted(failed.items())]
        if is_foreign and cause is not None:
            last = one_line(cause) if len(urls) == 1 else "; ".join(why)
            return ProtocolError(
                f"no coordinator has answered at {', '.join(urls)} to {what} in {waited_s:.1f} s ({attempts} attempts, "
                f"the last: {last}): is the url right, and does what stands before the coordinator let it through?"
            )
        return unavailable(urls, why, what, cause, attempts, waited_s)

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def _build(self, client: httpx.Client, request: _wire.Request) -> httpx.Request:
        headers = {"Content-Type": request.content_type} if request.content_type else {}
        if request.accept:
            headers["Accept"] = request.accept
        timeout = (
            min(request.timeout_s, ATTEMPT_CAP_S) if request.timeout_s else self._httpx.USE_CLIENT_DEFAULT
        )
        return client.build_request(
            request.method,
            request.path,
            json=request.body,
            content=request.content() if request.content is not None else None,
            params=list(request.params) or None,
            headers=headers,
            timeout=timeout,
        )


def unavailable(
    urls: list[str],
    why: list[str],
    what: str,
    cause: Unanswered | None,
    attempts: int,
    waited_s: float,
) -> CoordinatorUnavailable:
    """``why``: of each of ``urls`` that has failed, if they are several."""
    if cause is None:
        last = "; the last: the request is still under way" if attempts or len(urls) == 1 else ""
    else:
        last = f"; the last: {one_line(cause)}" if len(urls) == 1 else ""
    if len(urls) > 1:
        last += "".join(f"; {each}" for each in why)
    who = f"{urls[0]} gave no answer" if len(urls) == 1 else f"none of {', '.join(urls)} gave an answer"
    if cause is None or cause.code is not None:
        advice = "call again, or wait longer (timeout_s)"
    else:
        advice = "is a coordinator running there? `bucketline serve` starts one; if it is elsewhere, change the url"
    return CoordinatorUnavailable(
        f"{who} to {what} in {waited_s:.1f} s ({attempts} attempts failed{last}): {advice}",
        attempts=attempts,
        waited_s=waited_s,
        code=cause.code if cause is not None else None,
    )


def _checked(url: str) -> httpx.URL:
    import httpx

    try:
        return httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise UsageError(f"url: {shown(url)}: {exc}") from exc


def _opened(proxy: str | None, trust: ssl.SSLContext) -> httpx.HTTPTransport:
    """Connections, through ``proxy`` where there is one. Errors about it show nothing that may be its password."""
    import httpx

    try:
        return httpx.HTTPTransport(verify=trust, proxy=proxy)
    except ImportError:
        needed = "SOCKS needs `pip install 'httpx[socks]'`"
    except (httpx.InvalidURL, ValueError):
        needed = "http://host:port, https:// or socks5:// was expected"
    raise UsageError(
        f"the proxy {shown_proxy(proxy or '')} of the environment (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY): {needed}, or "
        "list the coordinator's host in NO_PROXY"
    )


def _is_typed(response: httpx.Response, wanted: str) -> bool:
    given = media_type(response.headers.get("Content-Type", ""))
    return given == wanted or (response.status_code == 204 and not given)


def _read(response: httpx.Response, reader: Callable[[Json], T]) -> T:
    what = f"{response.status_code} {media_type(response.headers.get('Content-Type', ''))}"
    try:
        document = _wire.read_json(response.content, what) if response.status_code != 204 else {}
        return _wire.read(document, reader, what)
    except ProtocolError as exc:
        raise Unanswered(str(exc), leave=True, is_foreign=True) from exc


def _failure_of(response: httpx.Response, request: _wire.Request) -> Unanswered | Refused:
    """What an answer that is no success means: the coordinator's refusal, or that it has to be asked again."""
    status, headers = response.status_code, response.headers
    given = headers.get("Content-Type", "")
    problem = own_problem(given, response.content)
    wait_s = retry_after_s(headers.get("Retry-After"), time.time())
    if problem is None:
        told = described(status, given, headers.get("Location"), response.content)
        wanted = f" where {request.accept or 'JSON'} was expected" if response.is_success else ""
        is_foreign = status in FINAL_5XX or not _wire.is_retried(status)
        leave = status in LEAVING_STATUSES or is_foreign
        return Unanswered(told + wanted, retry_after_s=wait_s, leave=leave, is_foreign=is_foreign)
    if not _wire.is_retried(status):
        return _wire.refusal(request, status, problem)
    return Unanswered(
        f"{status} {problem.get('detail') or response.reason_phrase}",
        retry_after_s=wait_s,
        code=problem["code"],
        # a plan that is being built is as far everywhere, and here it will be mapped already
        leave=status in LEAVING_STATUSES and problem["code"] != "planning",
    )


def level_of(failures: int) -> int:
    """The first failure in a row is worth a warning; that it goes on, only when someone looks."""
    return logging.WARNING if failures == 1 else logging.DEBUG


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """Seconds to wait, from either form of Retry-After (RFC 9110 10.2.3); None where there is none to be
    read."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        import email.utils  # here and not above: slow to import, and coordinators send seconds

        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - now_s
        except ValueError:
            return None
    return seconds if 0 < seconds < float("inf") else 0.0


def one_line(reason: object) -> str:
    return " ".join(str(reason).split())


def check_token(token: str, source: str = "token") -> str:
    """The token as it is; ``UsageError``, which does not show it, for what a header can not carry."""
    if not isinstance(token, str):
        raise UsageError(f"{source}: a string was expected, not {type(token).__name__}")
    if token != token.strip() or not token.isprintable():
        raise UsageError(
            f"{source}: a token without white space around it and without control characters was expected "
            "(is the end of a line still on it?)"
        )
    return token
