"""One attempt at one replica of a coordinator. The only module that calls httpx, which it imports when it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

from .. import _wire
from .._errors import Refused, UsageError
from .._types import Json
from .answers import Answered, is_expected, outcome_of
from .failures import Reason, Unanswered
from .proxies import without_userinfo
from .tls import certificate_problem
from .urls import without_credentials

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    import httpx

T = TypeVar("T")

Read = Callable[[Iterator[bytes]], None]
"""Takes the chunks of an answer that is not a JSON document; called once for each attempt that has such an answer."""

ATTEMPT_CAP_S = 1e6
"""A socket takes no timeout of more than 2**31 ms."""


class Replica:
    """A connection pool to one replica at ``url``, through ``proxy`` if that is not None."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[bytes, bytes],
        request_timeout_s: float,
        connect_timeout_s: float,
        trust: ssl.SSLContext,
        proxy: str | None,
    ) -> None:
        import httpx  # imported late: it takes longer than all of bucketline

        self._url = url
        self._proxy = proxy
        attempt_s = min(request_timeout_s, ATTEMPT_CAP_S)
        # given a transport, a client does not look for proxies itself
        self._client = httpx.Client(
            base_url=_checked(url),
            headers=dict(headers),
            timeout=httpx.Timeout(attempt_s, connect=min(connect_timeout_s, attempt_s)),
            transport=_connections(self._proxy, trust),
        )

    @property
    def url(self) -> str:
        """Safe to display."""
        return without_credentials(self._url)

    def attempt(self, request: _wire.Request, reader: Callable[[Json], T], stream: Read | None) -> T:
        """Ask once: what ``reader`` makes of the document of a 2xx answer, which is empty where ``stream`` takes the
        body. ``Unanswered`` if it is worth asking again, else ``Refused``, or ``UsageError`` for a request that cannot
        be sent at all."""
        import httpx

        try:
            response = self._client.send(self._build(request), stream=stream is not None)
            with closing(response):
                if stream is not None and is_expected(response, request):
                    stream(response.iter_bytes())
                    return reader({})
                response.read()
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as exc:
            raise UsageError(f"{request} cannot be sent: {exc}") from exc
        except httpx.RequestError as exc:
            raise self._unreachable(exc) from exc
        match outcome_of(response, request, reader):
            case Answered(value):
                return value
            case Refused() as refusal if (older := _wire.for_older(request, refusal)) is not None:
                return self.attempt(older, reader, stream)
            case Unanswered(code=None) as failure if self._proxy is not None:
                raise Unanswered(
                    self._with_proxy(str(failure)), failure.reason, retry_after_s=failure.retry_after_s
                )
            case failure:
                raise failure

    def close(self) -> None:
        self._client.close()

    def _unreachable(self, error: httpx.RequestError) -> Unanswered:
        import httpx

        if (problem := certificate_problem(error, self.url)) is not None:
            return Unanswered(self._with_proxy(problem), Reason.UNTRUSTED)
        message = f"{type(error).__name__}: {error}"
        if isinstance(error, httpx.RemoteProtocolError) and self._url.startswith("http:"):
            message += " (if the coordinator serves TLS, use https://)"
        return Unanswered(self._with_proxy(message), Reason.UNREACHABLE)

    def _with_proxy(self, message: str) -> str:
        if self._proxy is None:
            return message
        return f"{message} (asked through the proxy {without_userinfo(self._proxy)} of the environment)"

    def _build(self, request: _wire.Request) -> httpx.Request:
        import httpx

        headers = {"Content-Type": request.content_type} if request.content_type else {}
        if request.accept:
            headers["Accept"] = request.accept
        own_s = request.timeout_s
        return self._client.build_request(
            request.method,
            request.path,
            json=request.body,
            content=request.content() if request.content is not None else None,
            params=list(request.params) or None,
            headers=headers,
            timeout=min(own_s, ATTEMPT_CAP_S) if own_s else httpx.USE_CLIENT_DEFAULT,
        )


def _checked(url: str) -> httpx.URL:
    import httpx

    try:
        return httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise UsageError(f"url: {without_credentials(url)}: {exc}") from exc


def _connections(proxy: str | None, trust: ssl.SSLContext) -> httpx.HTTPTransport:
    """Connections, through ``proxy`` if there is one. Errors about it show nothing that may be its password."""
    import httpx

    try:
        return httpx.HTTPTransport(verify=trust, proxy=proxy)
    except ImportError:
        needed = "SOCKS needs `pip install 'httpx[socks]'`"
    except (httpx.InvalidURL, ValueError):
        needed = "it must be http://host:port, https:// or socks5://"
    raise UsageError(
        f"the proxy {without_userinfo(proxy or '')} of the environment (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY): "
        f"{needed}, or list the coordinator's host in NO_PROXY"
    )
