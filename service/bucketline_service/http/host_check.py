"""While there is no token, whoever reaches the port may do everything, and a browser on this machine reaches it for
every page that it shows. So a request must be addressed to this machine by a name that no other can have (a page whose
own name was made to resolve to 127.0.0.1 has that name in ``Host``), and must not come from another site's page."""

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
    "While no token is set, requests are taken for localhost, 127.0.0.1 and [::1], and from pages of these alone. Set "
    "BUCKETLINE_WORKER_TOKEN and BUCKETLINE_OPERATOR_TOKEN, or name the host with --allowed-hosts or "
    "BUCKETLINE_ALLOWED_HOSTS"
)


class Hosts:
    """Tells whether a request may be answered. ``others``: names besides those of loopback, with or without a port.
    ``tokens``: while there are any, they alone decide."""

    def __init__(self, tokens: Tokens, others: Iterable[str] = ()) -> None:
        self._tokens = tokens
        names = frozenset(filter(None, map(_name, others)))
        self._is_own = lru_cache(256)(lambda given: _is_own(given.decode("latin-1"), names))

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raise ``Misdirected`` unless a request with these headers may be answered."""
        if (fault := self._fault(headers)) is not None:
            raise Misdirected(f"{fault}. {_REMEDY}")

    def _fault(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """What is wrong, where something is. No ``Host`` at all is a client of HTTP/1.0, and no browser."""
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
        if sent_from == b"cross-site" and not is_page:  # to follow a link is no call
            return "the request comes from a page of another site"
        return None


class CheckHost:
    """Refuses what ``hosts`` finds a fault with."""

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
    """Without its port; empty where it is none."""
    found = _HOST.fullmatch(host.strip().lower())
    return found[1].strip("[]").rstrip(".") if found else ""


def _shown(value: bytes) -> str:
    return repr(value.decode("latin-1")[:80])
