"""URLs: which ones a secret may travel to, which origin they belong to, and their normal form."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx

__all__ = [
    "DEFAULT_PORTS",
    "Origin",
    "htu",
    "is_confidential",
    "is_confidential_url",
    "is_page_for_users",
    "origin_of",
    "without_query",
]

Origin = tuple[str, str, int | None]

DEFAULT_PORTS = {"http": 80, "https": 443}
_LONGEST = 2048  # characters of a page's URL
_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")


def is_confidential(scheme: str, host: str | None) -> bool:
    """Return whether nobody on the network can read or change a request: https, or http on this machine."""
    if scheme != "http":
        return scheme == "https" and bool(host)
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"  # RFC 6761 section 6.3


def is_confidential_url(url: object) -> bool:
    """Return whether *url* is a URL that `is_confidential` accepts."""
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return is_confidential(parts.scheme, parts.hostname)


def is_page_for_users(url: str) -> bool:
    """Return whether a user may be sent to *url*: https, or http on this machine, and nobody's name in it."""
    try:
        return len(url) <= _LONGEST and is_confidential_url(htu(url))
    except ValueError:
        return False


def origin_of(url: httpx.URL) -> Origin:
    """Return the scheme, the host and the port; the port is also given where the scheme implies it."""
    return url.scheme, url.raw_host.decode("ascii").lower(), url.port or DEFAULT_PORTS.get(url.scheme)


def htu(url: str) -> str:
    """Return the `htu` of a URL: no query, no fragment, normalized (RFC 9449 section 4.3, 9).

    Raises:
        ValueError: The URL is not an absolute http(s) URL in ASCII, names a user, or has dot segments.
    """
    if not url.isascii() or not url.isprintable() or " " in url:  # urlsplit would drop some of these
        raise ValueError("not a URL in ASCII")
    parts = urlsplit(url)
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        raise ValueError("not an absolute http(s) URL without user information")
    path = _ENCODED.sub(_normalize, parts.path) or "/"
    if not {".", ".."}.isdisjoint(path.split("/")):
        raise ValueError("the path has dot segments")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = "" if parts.port in (None, DEFAULT_PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{path}"


def without_query(url: str) -> str:
    """Return *url* as a request to it is sent, without query and fragment (RFC 9449 section 4.2).

    Nothing is normalized, since a server may compare a proof's `htu` with the URL of the request character by
    character. An empty path is sent as "/" (RFC 9112 section 3.2.1).

    Raises:
        ValueError: `htu` refuses the URL.
    """
    htu(url)
    target = url.partition("#")[0].partition("?")[0]
    return target if urlsplit(target).path else f"{target}/"


def _normalize(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if _UNRESERVED.fullmatch(character) else match[0].upper()
