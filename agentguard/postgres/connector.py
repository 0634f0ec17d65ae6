"""Opens connections to PostgreSQL. Nothing is written by one before the server was looked at."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import psycopg

from agentguard.concurrency.drive import drive, lift, operation_pair
from agentguard.errors import IssueError
from agentguard.model import Secret
from agentguard.postgres.address import Address
from agentguard.postgres.durability import Rows, Run
from agentguard.postgres.errors import is_refused_login, unreachable
from agentguard.postgres.links import AsyncConnection, BlockingConnection

__all__ = ["Connector", "PasswordSource"]

Prepare = Callable[[Run, str], Coroutine[Any, Any, None]]


class PasswordSource(Protocol):
    """Where the password is; `agentguard.credentials.sources` has such. `aread` may be its async form."""

    def read(self) -> Secret:
        """Return the password that the place holds now."""


class Connector:
    """Opens connections, and has *check* look at the server by each before it is used.

    The password is read at the first one, and again when the server refuses it.
    """

    def __init__(self, address: Address, password: Secret | PasswordSource | None, check: Prepare) -> None:
        source = _Known(password) if isinstance(password, Secret) else password
        self.address, self._check = address, check
        self._read = None if source is None else operation_pair(source, "read")
        self._source = source
        self._password = address.password

    def open(self, ends: float, *, prepare: Prepare | None = None) -> BlockingConnection:
        """Open a connection for threads, and have *prepare* look at the server by it.

        Raises:
            StoreError: There is none until *ends*, a time of `time.monotonic`.
            ConfigurationError: The server or the store is not what is demanded.
        """
        with self._errors():
            connection = self._connect(ends)
        connection.ends = ends

        def run(text: str, values: tuple[Any, ...] | None = None) -> Rows:
            cursor = connection.execute(text.encode(), values, prepare=False)
            return cursor.fetchall() if cursor.description else []

        try:
            with self._errors():
                drive((prepare or self._check)(lift(run), self.address.name))
        except BaseException:
            connection.pgconn.finish()
            raise
        return connection

    async def aopen(self, ends: float) -> AsyncConnection:
        """Open a connection for the running event loop, as `open`."""
        with self._errors():
            async with asyncio.timeout(ends - time.monotonic()):
                connection = await self._aconnect(ends)
        connection.ends = ends

        async def run(text: str, values: tuple[Any, ...] | None = None) -> Rows:
            cursor = await connection.execute(text.encode(), values, prepare=False)
            return await cursor.fetchall() if cursor.description else []

        try:
            with self._errors():
                await self._check(run, self.address.name)
        except BaseException:
            connection.pgconn.finish()
            raise
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.Error, OSError, IssueError) as error:
            raise unreachable(self.address.name, error) from error

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


class _Known:
    """A source of a password that is known."""

    inline = True

    def __init__(self, password: Secret) -> None:
        self._password = password

    def read(self) -> Secret:
        """Return it."""
        return self._password
