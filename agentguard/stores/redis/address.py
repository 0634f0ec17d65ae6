"""Where a Redis server is, and how it may be spoken to."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote, urlsplit

from redis import Connection, SSLConnection, UnixDomainSocketConnection
from redis import asyncio as redis_asyncio

from agentguard.errors import ConfigurationError

__all__ = ["Address", "checked_prefix"]

_PREFIX = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_CLASSES: dict[str, tuple[type[Any], type[Any]]] = {
    "redis": (Connection, redis_asyncio.Connection),
    "rediss": (SSLConnection, redis_asyncio.SSLConnection),
    "unix": (UnixDomainSocketConnection, redis_asyncio.UnixDomainSocketConnection),
}


@dataclass(frozen=True, slots=True)
class Address:
    """A server, as a URL names it: ``rediss://[USER@]HOST[:PORT][/DB]``, ``redis://...`` or ``unix:///PATH``.

    `str()` is the server alone. `options` are those of a connection.
    """

    name: str
    user: str | None
    classes: tuple[type[Any], type[Any]] = field(repr=False)
    options: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, url: str, *, ca: str | os.PathLike[str] | None = None, plaintext: bool = False) -> Address:
        """Read a URL. *ca* is a file with the certificates that the server's is signed by.

        The query of a URL is refused: redis-py would read settings in it, such as one that verifies nothing.
        With *plaintext*, a server on another machine may be spoken to without TLS.

        Raises:
            ConfigurationError: The URL is none of these, has a password or a query, or lacks TLS.
        """
        parts = urlsplit(url)
        if parts.scheme not in _CLASSES:
            raise ConfigurationError(
                "the URL of Redis begins with none of rediss://, redis:// and unix://",
                hint='as in url = "rediss://redis.example:6379/0"',
            )
        if parts.password is not None:
            raise ConfigurationError(
                "the URL of Redis holds a password", hint="name where the password is: password = 'env:NAME'"
            )
        if parts.query or parts.fragment:
            raise ConfigurationError("the URL of Redis has a query", hint="remove what follows ? or #")
        user = None if parts.username is None else unquote(parts.username)
        if parts.scheme == "unix":
            return cls(f"unix://{parts.path}", user, _CLASSES["unix"], {"path": unquote(parts.path)})
        return cls._of_host(parts.scheme, _host_of(url), user, ca=ca, plaintext=plaintext)

    @classmethod
    def _of_host(
        cls,
        scheme: str,
        place: tuple[str, int, int],
        user: str | None,
        *,
        ca: str | os.PathLike[str] | None,
        plaintext: bool,
    ) -> Address:
        host, port, db = place
        options: dict[str, Any] = {"host": host, "port": port, "db": db}
        if scheme == "rediss":
            options |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
            if ca is not None:
                options["ssl_ca_certs"] = os.fspath(ca)
        elif not (plaintext or _is_loopback(host)):
            raise ConfigurationError(
                f"Redis on {host} would be spoken to without TLS",
                hint="use rediss://, or say plaintext = true if nobody else is on that network",
            )
        return cls(f"{scheme}://{host}:{port}/{db}", user, _CLASSES[scheme], options)

    def __str__(self) -> str:
        return self.name


def checked_prefix(prefix: str) -> str:
    """Return the prefix of all keys of a deployment.

    Raises:
        ConfigurationError: It has other characters than letters, digits and ``_.:/-``, or none.
    """
    if _PREFIX.fullmatch(prefix) is None:
        raise ConfigurationError(
            "the prefix of the keys in Redis has a character that is not allowed",
            hint='letters, digits and _ . : / -, as in prefix = "agentguard"',
        )
    return prefix


def _host_of(url: str) -> tuple[str, int, int]:
    parts = urlsplit(url)
    database = parts.path.removeprefix("/")
    try:
        port = parts.port or 6379
        db = int(database) if database else 0
    except ValueError:
        db = port = -1
    if not parts.hostname or db < 0 or (database and not database.isdecimal()):
        raise ConfigurationError(
            "the URL of Redis names no server", hint='as in url = "rediss://redis.example:6379/0"'
        )
    return parts.hostname, port, db


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
