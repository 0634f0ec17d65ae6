"""What a connection may carry, by where it leads. It imports nothing: who attaches credentials needs it."""

from __future__ import annotations

from ipaddress import ip_address

import httpx

__all__ = ["Origin", "origin_of", "private"]

Origin = tuple[str, str, int | None]

DEFAULT_PORTS = {"http": 80, "https": 443}


def private(scheme: str, host: str | None) -> bool:
    """Return whether nobody on the way can read or change what is sent: https, or http on this machine."""
    if scheme != "http":
        return scheme == "https" and bool(host)
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"  # RFC 6761 section 6.3


def origin_of(url: httpx.URL) -> Origin:
    """Return scheme, host and port, the last also where the scheme implies it."""
    return url.scheme, url.raw_host.decode("ascii").lower(), url.port or DEFAULT_PORTS.get(url.scheme)
