"""Requests over HTTP: one attempt, and attempts repeated until a deadline. The only module that touches
httpx.

Every request of this package is safe to repeat: a lease goes to the same holder again, ``next`` reads and
acknowledges absolute places, a session is idempotent by its name, and the operator's calls put whole things
under names.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import random
import time
import urllib.parse
from typing import TYPE_CHECKING

from . import _wire
from ._errors import CoordinatorUnavailable, NotFound, ProtocolError, UsageError
from ._types import Json

if TYPE_CHECKING:
    import httpx

TOKEN_VARIABLE = "BUCKETLINE_TOKEN"
BACKOFF_BASE_S = 0.1
BACKOFF_CAP_S = 10.0
RETRY_AFTER_CAP_S = 60.0
ATTEMPT_CAP_S = 1e6
"""A socket takes no timeout of more than 2**31 ms."""

log = logging.getLogger("bucketline")


class Unanswered(Exception):  # noqa: N818 - never leaves this package
    """One attempt failed in a way that another may not: the network, a deadline of the attempt, 408, 429 or
    any 5xx."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.code = code


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


class Transport:
    """One connection pool to one coordinator. Thread-safe; belongs to the process that made it."""

    def __init__(
        self, url: str, token: str | None, *, request_timeout_s: float, connect_timeout_s: float = 5.0
    ) -> None:
        # here and not above: it takes longer to import than all of bucketline, and only who asks needs it
        import httpx

        self.url = check_url(url)
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
        try:
            # a transport of one's own keeps the environment's proxies away, and only them
            own = httpx.HTTPTransport() if is_loopback(self.url) else None
            self._client: httpx.Client = httpx.Client(
                base_url=self.url, headers=headers, timeout=timeout, transport=own
            )
        except (httpx.InvalidURL, ValueError, ImportError) as exc:
            raise UsageError(f"url: {self.url}, or a proxy for it in the environment: {exc}") from exc

    def attempt(self, request: _wire.Request) -> tuple[int, Json]:
        """Ask once: the 2xx status and its document. ``Unanswered`` where it is worth asking again, else
        ``Refused`` or ``ProtocolError``, or ``UsageError`` for a request that can not be sent at all."""
        httpx = self._httpx
        try:
            response = self._client.send(self._build(request))
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as exc:
            raise UsageError(f"{request} can not be sent: {exc}") from exc
        except httpx.RequestError as exc:
            raise Unanswered(f"{type(exc).__name__}: {exc}") from exc
        status = response.status_code
        if response.is_success:
            return status, _wire.read_json(response.content, str(request)) if response.content else {}
        if status < 400:
            raise ProtocolError(f"{request}: answered {status}; is {self.url} a coordinator?")
        problem = _wire.problem_from(status, response.content)
        if not _wire.is_retried(status):
            raise _wire.refusal(request, status, problem)
        code = problem.get("code")
        raise Unanswered(
            f"{status} {problem.get('detail') or response.reason_phrase}",
            retry_after_s=retry_after_s(response.headers.get("Retry-After"), time.time()),
            code=code if isinstance(code, str) else None,
        )

    def call(self, request: _wire.Request, timeout_s: float) -> tuple[int, Json]:
        """Ask until there is an answer; ``CoordinatorUnavailable`` when ``timeout_s`` is over. Sleeps in
        between."""
        started = time.monotonic()
        backoff = Backoff()
        while True:
            try:
                return self.attempt(request)
            except NotFound:
                if request.method == "DELETE" and backoff.failures:
                    return 404, {}  # an earlier attempt has deleted it, and its answer was lost
                raise
            except Unanswered as exc:
                waited_s = time.monotonic() - started
                if waited_s >= timeout_s:
                    raise unavailable(self.url, str(request), exc, backoff.failures + 1, waited_s) from exc
                delay_s = min(backoff.next_delay_s(exc.retry_after_s), timeout_s - waited_s)
                log.log(level_of(backoff.failures), "%s: %s; trying again", request, exc)
            time.sleep(delay_s)

    def close(self) -> None:
        self._client.close()

    def _build(self, request: _wire.Request) -> httpx.Request:
        headers = {"Content-Type": request.content_type} if request.content_type else {}
        timeout = (
            min(request.timeout_s, ATTEMPT_CAP_S) if request.timeout_s else self._httpx.USE_CLIENT_DEFAULT
        )
        return self._client.build_request(
            request.method,
            request.path,
            json=request.body,
            content=request.content() if request.content is not None else None,
            params=list(request.params) or None,
            headers=headers,
            timeout=timeout,
        )


def unavailable(
    url: str, what: str, cause: Unanswered | None, attempts: int, waited_s: float
) -> CoordinatorUnavailable:
    """The error for a deadline that passed, saying in one line what was tried and what would do; the caller
    raises it ``from`` the cause."""
    last = " ".join(str(cause).split()) if cause is not None else "the request is still under way"
    if cause is None or cause.code is not None:
        advice = "call again, or wait longer (timeout_s)"
    else:
        advice = "is a coordinator running there? `bucketline serve` starts one; if it is elsewhere, change the url"
    return CoordinatorUnavailable(
        f"{url} gave no answer to {what} in {waited_s:.1f} s ({attempts} attempts failed; the last: {last}): "
        f"{advice}",
        attempts=attempts,
        waited_s=waited_s,
        code=cause.code if cause is not None else None,
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


def check_url(url: str) -> str:
    """The coordinator's address without a trailing slash; ``UsageError`` for what can not be one."""
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and _is_plain(url):
            return url.rstrip("/")
    except (ValueError, AttributeError, TypeError):
        pass
    raise UsageError(f"url: http://host:port of the coordinator was expected, not {url!r}")


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


def is_loopback(url: str) -> bool:
    """Whether the address never leaves this machine, so that a proxy elsewhere can not lead there."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_plain(url: str) -> bool:
    """``urlsplit`` drops line ends and tabs without a word; httpx refuses them."""
    return url.isprintable() and " " not in url
