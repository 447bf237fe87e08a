"""Requests over HTTP: one attempt, and attempts repeated until a deadline, at one coordinator or at several
replicas of it. The only module that touches httpx.

Every request of this package is safe to repeat: a lease goes to the same holder again, ``next`` reads and
acknowledges absolute places, a session is idempotent by its name, and the operator's calls put whole things
under names. So it is safe to repeat at another replica too, also where the first one has done what it was
asked and died before it said so: what makes a repetition harmless is in the store, which they share.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import random
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Union

from . import _wire
from ._errors import CoordinatorUnavailable, NotFound, ProtocolError, Refused, UsageError
from ._types import Json

if TYPE_CHECKING:
    import ssl

    import httpx

TOKEN_VARIABLE = "BUCKETLINE_TOKEN"
CA_VARIABLE = "BUCKETLINE_CA_FILE"
BACKOFF_BASE_S = 0.1
BACKOFF_CAP_S = 10.0
RETRY_AFTER_CAP_S = 60.0
ATTEMPT_CAP_S = 1e6
"""A socket takes no timeout of more than 2**31 ms."""
RETURN_AFTER_S = 30.0
RETURN_CAP_S = 600.0
"""How long a client that had to leave its own replica stays with another before it tries its own again; twice as
long after every try in vain. Up to twice that, by chance: not all at once."""

Urls = str | Iterable[str]
"""One address or several, as a list or with commas between them."""
Verify = Union[str, "os.PathLike[str]", "ssl.SSLContext"]
"""The file of a private CA's certificates, or all that TLS can be told."""

X509_EXPIRED, X509_HOSTNAME_MISMATCH, X509_IP_MISMATCH = 10, 62, 64
"""OpenSSL's codes of three mistakes, of which only others are mended by trusting another CA."""
LEAVING_STATUSES = frozenset({502, 503, 504})
"""What is gone, overloaded or behind a gap, where another replica may not be. A 500 would be one there as well, and who
is asked to slow down (429) does not go elsewhere to be fast."""

Read = Callable[[Iterator[bytes]], None]
"""Takes the chunks of an answer that is no JSON document, once for every attempt that has one."""

log = logging.getLogger("bucketline")


class Unanswered(Exception):  # noqa: N818 - never leaves this package
    """One attempt failed in a way that another may not: the network, a deadline of the attempt, 408, 429 or
    any 5xx.

    ``leave``: another replica may do better. ``is_distrust``: its certificate is not to be trusted.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        code: str | None = None,
        leave: bool = False,
        is_distrust: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.code = code
        self.leave = leave
        self.is_distrust = is_distrust


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
        self._clients: list[httpx.Client] = []
        for each in self._urls:
            try:
                # a transport of one's own keeps the environment's proxies away, and only them
                own = httpx.HTTPTransport(verify=trust) if is_loopback(each) else None
                self._clients.append(
                    httpx.Client(base_url=each, headers=headers, timeout=timeout, transport=own, verify=trust)
                )
            except (httpx.InvalidURL, ValueError, ImportError) as exc:
                raise UsageError(f"url: {shown(each)}, or a proxy for it in the environment: {exc}") from exc

    @property
    def url(self) -> str:
        """The replica that is asked at present, as it may be shown."""
        with self._lock:
            return shown(self._urls[self._route.at])

    def attempt(self, request: _wire.Request, read: Read | None = None) -> tuple[int, Json]:
        """Ask once, whichever replica's turn it is: the 2xx status and its document, which is empty where ``read``
        takes what is streamed. ``Unanswered`` where it is worth asking again, else ``Refused`` or ``ProtocolError``,
        or ``UsageError`` for a request that can not be sent at all, and where no replica is to be trusted."""
        with self._lock:
            at = self._route.choose(self._clock())
        try:
            answer = self._attempt_at(at, request, read)
        except Unanswered as exc:
            reason = one_line(exc)
            with self._lock:
                is_fresh = self._route.has_failed(at, reason, leave=exc.leave)
                (self._distrusted.add if exc.is_distrust else self._distrusted.discard)(at)
                is_hopeless = len(self._distrusted) == len(self._urls) and not self._has_answered
            if is_hopeless:
                # it would say the same until the deadline; a job that has begun waits for the certificate's renewal
                raise UsageError(reason) from exc
            told = reason if len(self._urls) == 1 else f"{shown(self._urls[at])}: {reason}"
            # how long one of them wants to be left alone says nothing about the others
            rest_s = None if is_fresh and exc.leave else exc.retry_after_s
            raise Unanswered(told, retry_after_s=rest_s, code=exc.code) from exc
        except (Refused, ProtocolError):
            self._note_answer(at)
            raise
        self._note_answer(at)
        return answer

    def _note_answer(self, at: int) -> None:
        with self._lock:
            self._has_answered = True
            self._route.answered(at, self._clock())

    def _attempt_at(self, at: int, request: _wire.Request, read: Read | None) -> tuple[int, Json]:
        httpx, client = self._httpx, self._clients[at]
        try:
            response = client.send(self._build(client, request), stream=read is not None)
            with closing(response):
                if read is None or not response.is_success:
                    response.read()
                else:
                    _check_type(request, response.headers.get("Content-Type", ""))
                    read(response.iter_bytes())
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as exc:
            raise UsageError(f"{request} can not be sent: {exc}") from exc
        except httpx.RequestError as exc:
            distrust = distrusted(exc, shown(self._urls[at]))
            reason = distrust or f"{type(exc).__name__}: {exc}"
            if isinstance(exc, httpx.RemoteProtocolError) and self._urls[at].startswith("http:"):
                reason += " (where TLS is served, https:// is wanted)"
            raise Unanswered(reason, leave=True, is_distrust=distrust is not None) from exc
        status = response.status_code
        if response.is_success and read is not None:
            return status, {}
        if response.is_success:
            return status, _wire.read_json(response.content, str(request)) if response.content else {}
        if status < 400:
            raise ProtocolError(f"{request}: answered {status}; is {shown(self._urls[at])} a coordinator?")
        problem = _wire.problem_from(status, response.content)
        if not _wire.is_retried(status):
            raise _wire.refusal(request, status, problem)
        code = problem.get("code")
        raise Unanswered(
            f"{status} {problem.get('detail') or response.reason_phrase}",
            retry_after_s=retry_after_s(response.headers.get("Retry-After"), time.time()),
            code=code if isinstance(code, str) else None,
            # a plan that is being built is as far everywhere, and here it will be mapped already
            leave=status in LEAVING_STATUSES and code != "planning",
        )

    def call(self, request: _wire.Request, timeout_s: float, read: Read | None = None) -> tuple[int, Json]:
        """Ask until there is a whole answer; ``CoordinatorUnavailable`` when ``timeout_s`` is over. Sleeps in
        between."""
        started = time.monotonic()
        backoff = Backoff()
        while True:
            try:
                return self.attempt(request, read)
            except NotFound:
                if request.method == "DELETE" and backoff.failures:
                    return 404, {}  # an earlier attempt has deleted it, and its answer was lost
                raise
            except Unanswered as exc:
                waited_s = time.monotonic() - started
                if waited_s >= timeout_s:
                    raise self.unavailable(str(request), exc, backoff.failures + 1, waited_s) from exc
                delay_s = min(backoff.next_delay_s(exc.retry_after_s), timeout_s - waited_s)
                log.log(level_of(backoff.failures), "%s: %s; trying again", request, exc)
            time.sleep(delay_s)

    def unavailable(
        self, what: str, cause: Unanswered | None, attempts: int, waited_s: float
    ) -> CoordinatorUnavailable:
        """The error for a deadline that passed, saying in one line what was tried, why it failed and what would
        do; the caller raises it ``from`` the cause."""
        with self._lock:
            failed = dict(self._route.failed)
        why = [f"{shown(self._urls[at])}: {reason}" for at, reason in sorted(failed.items())]
        return unavailable([shown(url) for url in self._urls], why, what, cause, attempts, waited_s)

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


def _check_type(request: _wire.Request, given: str) -> None:
    if given.partition(";")[0].strip().lower() != request.accept:
        raise ProtocolError(f"{request}: {request.accept} was expected, not {given or 'an untyped answer'}")


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
    given = repr(shown(url) if isinstance(url, str) else url)
    raise UsageError(f"url: http://host:port of the coordinator was expected, not {given}")


def check_urls(url: Urls) -> tuple[str, ...]:
    """The addresses of the replicas, each once; ``UsageError`` where one can not be an address, or none is there."""
    try:
        given = url.split(",") if isinstance(url, str) else list(url)
    except TypeError:
        given = [url]  # type: ignore[list-item]  # told as what it is below
    stripped = [each.strip(" ") if isinstance(each, str) and len(given) > 1 else each for each in given]
    urls = tuple(dict.fromkeys(check_url(each) for each in stripped if each or len(given) == 1))
    if not urls:
        raise UsageError(
            "url: http://host:port of the coordinator was expected, or several, and none is there"
        )
    return urls


def shown(url: str) -> str:
    """An address for messages: a name and password in it are nobody's business."""
    return re.sub(r"//[^/]*@", "//", url)


def one_line(reason: object) -> str:
    return " ".join(str(reason).split())


def trusted(verify: Verify | None) -> ssl.SSLContext:
    """Whom to trust: ``verify``, else ``BUCKETLINE_CA_FILE``, else what httpx trusts (``SSL_CERT_FILE``,
    ``SSL_CERT_DIR``, else the public authorities). ``UsageError`` for a file that can not be used."""
    import ssl  # here and not above: importing bucketline needs no network, and httpx loads it anyway

    import httpx

    if isinstance(verify, ssl.SSLContext):
        return verify
    source, given = "verify", verify
    if given is None:
        source, given = CA_VARIABLE, os.environ.get(CA_VARIABLE, "").strip() or None
    try:
        if given is not None:
            return ssl.create_default_context(cafile=os.fspath(given))
        source = "SSL_CERT_FILE or SSL_CERT_DIR"
        return httpx.create_ssl_context()
    except TypeError as exc:
        raise UsageError(f"{source}: the file of a CA's certificates was expected, not {given!r}") from exc
    except (OSError, ValueError) as exc:  # an SSLError is an OSError
        reason = (
            "holds no certificate in PEM" if isinstance(exc, ssl.SSLError) else getattr(exc, "strerror", exc)
        )
        raise UsageError(f"{source}: {given or 'the file that it names'}: {reason}") from exc


def distrusted(error: BaseException, url: str) -> str | None:
    """What is wrong with the coordinator's certificate and what would do, where that is why it was not asked."""
    import ssl

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    if not isinstance(cause, ssl.SSLCertVerificationError):
        if cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
            return (
                f"{url} does not speak TLS: use http:// there, or have it serve with --tls-cert and --tls-key"
            )
        return None
    said = cause.verify_message.rstrip(".")
    if cause.verify_code in (X509_HOSTNAME_MISMATCH, X509_IP_MISMATCH):
        advice = "use a name that the certificate is made out to"
    elif cause.verify_code == X509_EXPIRED:
        advice = "renew it, and send the coordinator SIGHUP"
    else:
        advice = f"name the file with its CA's certificate, in verify= or {CA_VARIABLE} (or SSL_CERT_FILE)"
    return f"the certificate of {url} is not to be trusted ({said}): {advice}"


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
