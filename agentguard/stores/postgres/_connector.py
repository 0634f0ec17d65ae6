"""Opens connections to PostgreSQL, and checks what the server promises before anything is written to it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import psycopg

from agentguard.concurrency.drive import operation_pair
from agentguard.errors import ConfigurationError, IssueError
from agentguard.model import Secret
from agentguard.stores import _rules
from agentguard.stores.postgres._address import Address
from agentguard.stores.postgres._errors import is_refused_login, unreachable, wrong_version
from agentguard.stores.postgres._links import AsyncConnection, BlockingConnection
from agentguard.stores.postgres._tables import VERSION

__all__ = ["Connector", "Demands", "Durability", "PasswordSource"]

Durability = Literal["checked", "lossy"]
_log = logging.getLogger(__name__)
SKEW = 60.0
"""Seconds by which the clocks of this host and of the server may differ before an operator is told."""

# a session that would not wait for the disk is told to; what an administrator has made stricter stays
_CHECK = """
SELECT current_setting('fsync'), current_setting('full_page_writes'),
    CASE current_setting('synchronous_commit') WHEN 'off'
        THEN set_config('synchronous_commit', 'on', false) ELSE current_setting('synchronous_commit') END,
    extract(epoch FROM clock_timestamp())::double precision, to_regclass($1) IS NOT NULL"""


class PasswordSource(Protocol):
    """Where the password is; `agentguard.credentials.sources` has such. `aread` may be its async form."""

    def read(self) -> Secret:
        """Return the password that the place holds now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What is demanded of the server: durability, unless "lossy", and the store's version in *schema*."""

    schema: str
    durability: Durability = "checked"

    @property
    def version(self) -> str:
        """Return the query of the store's version."""
        return f"SELECT number FROM {self.schema}.version"  # noqa: S608  a checked name

    def check_server(self, place: str, row: Sequence[Any]) -> None:
        """Check the server's answer to `_CHECK`.

        Raises:
            ConfigurationError: The server may lose what it has acknowledged, or has no store.
        """
        fsync, full_page_writes, _commit, server_now, has_store = row
        unsafe = [
            f"{name} = off"
            for name, value in (("fsync", fsync), ("full_page_writes", full_page_writes))
            if value == "off"
        ]
        if unsafe and self.durability != "lossy":
            raise ConfigurationError(
                f"{place}: the server runs with {' and '.join(unsafe)}, and may lose a revocation that it has"
                " acknowledged",
                hint="correct the server's settings; for a test, say durability = 'lossy'",
            )
        if abs(time.time() - server_now) > SKEW:
            _log.warning(
                "%s: the clocks of the server and of this host differ by %.0f s; synchronize them (NTP). Keys"
                " and ended tasks are kept until both say that their time is over, and %.0f s more.",
                *(place, time.time() - server_now, _rules.KEEP_KEYS),
            )
        if not has_store:
            raise ConfigurationError(
                f"{place}: there is no store in the schema {self.schema}",
                hint="run: agentguard store migrate",
            )

    def check_version(self, place: str, rows: Sequence[Sequence[Any]]) -> None:
        """Check the version of the store.

        Raises:
            ConfigurationError: It is another one.
        """
        present = rows[0][0] if rows else 0
        if present != VERSION:
            raise wrong_version(place, self.schema, present, VERSION)


class Connector:
    """Opens connections. The password is read at the first one, and again when the server refuses it."""

    def __init__(self, address: Address, password: PasswordSource | None, demands: Demands) -> None:
        self.address, self._demands = address, demands
        self._read = None if password is None else operation_pair(password, "read")
        self._source = password
        self._password = address.password

    def open(self, ends: float, *, check: bool = True) -> BlockingConnection:
        """Open a connection for threads.

        Raises:
            StoreError: There is none until *ends*, a time of `time.monotonic`.
            ConfigurationError: The server or the store is not what is demanded.
        """
        try:
            connection = self._connect(ends)
        except (psycopg.Error, OSError, IssueError) as error:
            raise unreachable(self.address.name, error) from error
        connection.ends = ends
        try:
            if check:
                row = connection.execute(_CHECK, (f"{self._demands.schema}.version",)).fetchone()
                self._demands.check_server(self.address.name, row or ())
                rows = connection.execute(self._demands.version).fetchall()
                self._demands.check_version(self.address.name, rows)
        except (psycopg.Error, OSError) as error:
            connection.pgconn.finish()
            raise unreachable(self.address.name, error) from error
        except BaseException:
            connection.pgconn.finish()
            raise
        return connection

    async def aopen(self, ends: float) -> AsyncConnection:
        """Open a connection for the running event loop, as `open`."""
        try:
            async with asyncio.timeout(ends - time.monotonic()):
                connection = await self._aconnect(ends)
        except (psycopg.Error, OSError, IssueError) as error:
            raise unreachable(self.address.name, error) from error
        connection.ends = ends
        try:
            cursor = await connection.execute(_CHECK, (f"{self._demands.schema}.version",))
            self._demands.check_server(self.address.name, await cursor.fetchone() or ())
            cursor = await connection.execute(self._demands.version)
            self._demands.check_version(self.address.name, await cursor.fetchall())
        except (psycopg.Error, OSError) as error:
            connection.pgconn.finish()
            raise unreachable(self.address.name, error) from error
        except BaseException:
            connection.pgconn.finish()
            raise
        return connection

    def _connect(self, ends: float) -> BlockingConnection:
        if self._password is None and self._source is not None:
            self._password = self._source.read()
        try:
            return BlockingConnection.connect(**self._arguments(ends), cursor_factory=psycopg.RawCursor)
        except psycopg.Error as error:
            if self._source is None or not is_refused_login(error):
                raise
        self._password = self._source.read()  # it was changed
        return BlockingConnection.connect(**self._arguments(ends), cursor_factory=psycopg.RawCursor)

    async def _aconnect(self, ends: float) -> AsyncConnection:
        if self._password is None and self._read is not None:
            self._password = await self._read.async_()
        try:
            return await AsyncConnection.connect(
                **self._arguments(ends), cursor_factory=psycopg.AsyncRawCursor
            )
        except psycopg.Error as error:
            if self._read is None or not is_refused_login(error):
                raise
        self._password = await self._read.async_()
        return await AsyncConnection.connect(**self._arguments(ends), cursor_factory=psycopg.AsyncRawCursor)

    def _arguments(self, ends: float) -> dict[str, Any]:
        arguments = {**self.address.parameters, "autocommit": True, "prepare_threshold": 0}
        arguments["connect_timeout"] = max(2, math.ceil(ends - time.monotonic()))  # libpq waits 2 s at least
        if self._password is not None:
            arguments["password"] = self._password.reveal()
        return arguments
