"""The addresses of a coordinator's replicas: checked, and as they may be shown."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Iterable

from .._errors import UsageError

Urls = str | Iterable[str]
"""One address or several, as a list or with commas between them."""


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
