"""Which proxy of the environment leads to an address, by the rules that curl and Go have in common.

httpx reads the same variables, but it takes ``10.0.0.0/8`` in ``NO_PROXY`` for a single host, and requires the SOCKS
package even if ``NO_PROXY`` lists the host. So the proxy is chosen here and passed to httpx.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Mapping

from .urls import is_loopback


def environment() -> Mapping[str, str]:
    """``HTTP_PROXY`` as ``http``, ``NO_PROXY`` as ``no`` and so on; lower case takes precedence over upper case. On
    macOS and Windows these are the system's settings if the environment has none."""
    import urllib.request  # imported late: it is slow, and httpx loads it anyway

    return urllib.request.getproxies()


def proxy_for(url: str, proxies: Mapping[str, str]) -> str | None:
    """The address of the proxy through which ``url`` is asked; None if it is asked directly."""
    parts = urllib.parse.urlsplit(url)
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or is_loopback(url):
        return None
    host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]
    entries = re.split(r"[,\s]+", proxies.get("no", "").lower())
    if any(_is_listed(entry, parts.scheme, host.rstrip("."), port) for entry in entries if entry):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_listed(entry: str, scheme: str, host: str, port: int) -> bool:
    """Whether an entry of ``NO_PROXY`` covers this host: ``*``, an address, a network (for literal addresses only: no
    name is resolved), or a domain with all its subdomains; each may have a port, or a scheme in front."""
    of_scheme, _, rest = entry.rpartition("://")
    if of_scheme not in ("", "all", scheme):
        return False
    name, colon, digits = rest.rpartition(":")
    # without brackets, the last part of an IPv6 address is not a port
    if colon and digits.isdecimal() and (":" not in name or name.endswith("]")):
        if int(digits) != port:
            return False
        rest = name
    if rest == "*":
        return True
    network, address = _network(rest), _network(host)
    if network is None or address is None:
        domain = rest.removeprefix("*").strip(".")
        return network is None and address is None and bool(domain) and f".{host}".endswith(f".{domain}")
    return address.network_address in network


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """A network; of a single address, the network of that address alone. ``[fe80::]/10`` is ``fe80::/10``."""
    try:
        network = ipaddress.ip_network(text.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if network.version == 6 else None  # ::ffff:10.0.0.1
    return ipaddress.ip_network(mapped) if mapped and network.prefixlen == 128 else network


def without_userinfo(proxy: str) -> str:
    """Safe to display: scheme, host and port alone, as what stands before the host may be a password."""
    scheme, _, rest = proxy.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest.rpartition('@')[2])[0]}"
