"""Where the PostgreSQL server is, and how a connection to it is protected."""

from __future__ import annotations

import ipaddress
import math
import os
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from agentguard.errors import ConfigurationError
from agentguard.model import Secret

__all__ = ["Address", "holds_password"]

_EXAMPLE = 'as in url = "postgresql://agentguard@db.example:5432/agents"'
_LIBPQ_WITH_SYSTEM_CAS = 160_000


class Address:
    """The parameters of each connection to one server. It holds no password.

    The connection to another host is encrypted, and the server's certificate is checked for the host's name
    (``sslmode=verify-full``). The certificate authorities are those of the file *ca* in PEM, or of the URL's
    ``sslrootcert``, of ``~/.postgresql/root.crt``, or of the system. A loopback address or a Unix socket
    needs no TLS. With *plaintext*, any ``sslmode`` of the URL is taken.

    *timeout* in seconds bounds a statement at the server, and how long a lost packet is waited for.
    `password` is the one that the URL holds, if any.

    Raises:
        ConfigurationError: The URL cannot be read, or a connection by it would not be protected.
    """

    def __init__(
        self, url: str, *, timeout: float, ca: str | os.PathLike[str] | None = None, plaintext: bool = False
    ) -> None:
        parameters = _parameters(url)
        if "service" in parameters or "PGSERVICE" in os.environ:
            raise ConfigurationError(
                "a service file would say where the server is",
                hint="unset PGSERVICE, and write a complete url",
            )
        password = parameters.pop("password", None)
        self.password = None if password is None else Secret(str(password))
        hosts = [host for name in ("hostaddr", "host") for host in _setting(parameters, name).split(",")]
        self.is_local = all(map(_is_local, hosts))
        self.name = _name(parameters)
        self.parameters = _defaults(timeout) | parameters
        self.parameters["options"] = _options(timeout, parameters.get("options", ""))
        self.parameters |= _tls(parameters, is_local=self.is_local, ca=ca, plaintext=plaintext)

    def __repr__(self) -> str:
        return f"<Address {self.name}>"


def holds_password(url: str) -> bool:
    """Return whether a URL holds a password; a file that others may read should not.

    Raises:
        ConfigurationError: The URL cannot be read.
    """
    return "password" in _parameters(url)


def _parameters(url: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.Error:  # its text may hold a part of the URL, and so of the password
        raise ConfigurationError("the url of PostgreSQL cannot be read", hint=_EXAMPLE) from None


def _setting(parameters: dict[str, Any], name: str) -> str:
    """Return a parameter, from the URL or else from the environment variable that libpq reads."""
    return str(parameters.get(name) or os.environ.get(f"PG{name.upper()}") or "")


def _is_local(host: str) -> bool:
    if host in ("", "localhost") or host.startswith(("/", "@")):  # "" is the Unix socket
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name(parameters: dict[str, Any]) -> str:
    host, port = _setting(parameters, "host") or "local socket", _setting(parameters, "port") or "5432"
    return f"PostgreSQL {host}:{port}/{_setting(parameters, 'dbname') or 'default'}"


def _defaults(timeout: float) -> dict[str, Any]:
    milliseconds = math.ceil(timeout * 1000)
    return {
        "application_name": "agentguard",
        "target_session_attrs": "read-write",  # of several hosts, the one that can write
        "client_encoding": "UTF8",
        "gssencmode": "disable",
        "keepalives": 1,
        "keepalives_idle": math.ceil(timeout),
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "tcp_user_timeout": milliseconds,
    }


def _options(timeout: float, extra: object) -> str:
    """Return the settings of the session; they overrule those of the role and of the database."""
    milliseconds = math.ceil(timeout * 1000)
    settings = {
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
        "default_transaction_isolation": r"read\ committed",
        "default_transaction_deferrable": "off",
        "search_path": "pg_catalog",
        "jit": "off",
    }
    return " ".join([str(extra), *(f"-c {name}={value}" for name, value in settings.items())]).strip()


def _tls(
    parameters: dict[str, Any], *, is_local: bool, ca: str | os.PathLike[str] | None, plaintext: bool
) -> dict[str, Any]:
    mode = _setting(parameters, "sslmode")
    authorities = {} if ca is None else {"sslrootcert": os.fspath(ca)}
    if is_local or (plaintext and mode):
        return authorities
    if mode not in ("", "verify-full"):
        raise ConfigurationError(
            f"with sslmode={mode} the connection to another host could be read or changed on its way",
            hint="use sslmode=verify-full; or say plaintext = true, if the network itself is protected",
        )
    tls = {"sslmode": "verify-full"} | authorities
    has_authorities = (
        ca or _setting(parameters, "sslrootcert") or Path("~/.postgresql/root.crt").expanduser().exists()
    )
    if not has_authorities and pq.version() >= _LIBPQ_WITH_SYSTEM_CAS:
        tls["sslrootcert"] = "system"
    return tls
