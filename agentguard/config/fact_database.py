"""Connections to a PostgreSQL database that holds records, protected as those of the store are."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import psycopg

from agentguard.credentials.sources import source
from agentguard.postgres.address import Address

__all__ = ["connecting"]


def connecting(
    url: str, *, timeout: float, ca: str | os.PathLike[str] | None, password: str | None
) -> Callable[[], Any]:
    """Return what opens a connection that can only read; *timeout* in seconds bounds each statement.

    *password* says where the password is. It is read for each connection.

    Raises:
        ConfigurationError: The URL cannot be read, or a connection by it would not be protected.
    """
    address = Address(url, timeout=timeout, ca=ca)
    secrets = None if password is None else source(password)
    # of several settings of one name the last counts: tables elsewhere than in `public` are named with it
    settings = "-c search_path=public -c default_transaction_read_only=on"
    options = f"{address.parameters.get('options', '')} {settings}"
    parameters: dict[str, Any] = {**address.parameters, "options": options.strip(), "autocommit": True}
    parameters["target_session_attrs"] = "any"  # a replica may be asked too

    def connect() -> Any:
        secret = address.password if secrets is None else secrets.read()
        login: dict[str, Any] = {} if secret is None else {"password": secret.reveal()}
        return psycopg.connect(**parameters, **login)

    return connect
