"""Protects a coordinator without tokens from web pages that a browser on the same machine shows.

Without tokens every process that reaches the port may do everything, and any web page can send requests to it. So a
request must name a loopback host in ``Host`` (a page whose domain was made to resolve to 127.0.0.1 sends its own
name), and must not come from a page of another site."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from bucketline_service.http.auth import Tokens
from bucketline_service.http.problems import Misdirected, answer

_HOST = re.compile(r"(\[[^]]*\]|[^:]*)(:\d*)?")
_REMEDY = (
    "While no token is set, only requests to localhost, 127.0.0.1 and [::1], and from pages of these, are accepted. "
    "Set BUCKETLINE_WORKER_TOKEN and BUCKETLINE_OPERATOR_TOKEN, or allow the host with --allowed-hosts or "
    "BUCKETLINE_ALLOWED_HOSTS"
)


class Hosts:
    """Decides which requests may be answered. ``others``: allowed host names besides those of loopback, with or
    without a port. While there are ``tokens``, every request may: they alone decide."""

    def __init__(self, tokens: Tokens, others: Iterable[str] = ()) -> None:
        self._tokens = tokens
        names = frozenset(filter(None, map(_name, others)))
        self._is_own = lru_cache(256)(lambda given: _is_own(given.decode("latin-1"), names))

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raise ``Misdirected`` unless a request with these headers may be answered."""
        if (fault := self._fault(headers)) is not None:
            raise Misdirected(f"{fault}. {_REMEDY}")

    def _fault(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """What is wrong with the request, or None. A missing ``Host`` is fine: no browser leaves it out."""
        if self._tokens:
            return None
        sent_from, is_page = b"", False
        for name, value in headers:
            if name == b"host":
                if not self._is_own(value):
                    return f"the request is addressed to the host {_shown(value)}"
            elif name == b"origin":
                if not self._is_own(value.partition(b"://")[2]):
                    return f"the request comes from a page of {_shown(value)}"
            elif name == b"sec-fetch-site":
                sent_from = value
            elif name == b"sec-fetch-mode":
                is_page = value == b"navigate"
        if sent_from == b"cross-site" and not is_page:  # following a link is allowed
            return "the request comes from a page of another site"
        return None


class CheckHost:
    """Middleware that refuses requests which ``hosts`` does not allow."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._hosts.check(scope.get("headers", ()))
        except Misdirected as error:
            await answer(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_own(host: str, others: frozenset[str]) -> bool:
    name = _name(host)
    if name in others or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """The host name without its port; empty if it is malformed."""
    found = _HOST.fullmatch(host.strip().lower())
    return found[1].strip("[]").rstrip(".") if found else ""


def _shown(value: bytes) -> str:
    return repr(value.decode("latin-1")[:80])
