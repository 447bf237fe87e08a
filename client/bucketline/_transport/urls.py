"""The addresses of a coordinator's replicas: checked, and safe to display."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Iterable

from .._errors import UsageError

Urls = str | Iterable[str]
"""One address or several, as a list or separated by commas."""


def check_url(url: str) -> str:
    """The coordinator's address without a trailing slash; ``UsageError`` if it cannot be one."""
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and _is_plain(url):
            return url.rstrip("/")
    except (ValueError, AttributeError, TypeError):
        pass
    given = repr(without_credentials(url) if isinstance(url, str) else url)
    raise UsageError(f"url must be the coordinator's http://host:port, got {given}")


def check_urls(url: Urls) -> tuple[str, ...]:
    """The addresses of the replicas, each once; ``UsageError`` if one cannot be an address, or if the list is empty."""
    try:
        given = url.split(",") if isinstance(url, str) else list(url)
    except TypeError:
        given = [url]  # type: ignore[list-item]  # check_url reports it
    stripped = [each.strip(" ") if isinstance(each, str) and len(given) > 1 else each for each in given]
    urls = tuple(dict.fromkeys(check_url(each) for each in stripped if each or len(given) == 1))
    if not urls:
        raise UsageError("url must be the coordinator's http://host:port, or several of them, got none")
    return urls


def without_credentials(url: str) -> str:
    """Safe to display: the address without a name and password."""
    return re.sub(r"//[^/]*@", "//", url)


def is_loopback(url: str) -> bool:
    """Whether the address never leaves this machine, so that a proxy elsewhere cannot lead there."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_plain(url: str) -> bool:
    """``urlsplit`` silently drops line ends and tabs; httpx refuses them."""
    return url.isprintable() and " " not in url
