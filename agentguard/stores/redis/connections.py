"""The connections of one Redis store: one pool for threads, and one for each event loop."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator
from threading import Lock
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from redis import ConnectionPool
from redis.asyncio import ConnectionPool as AsyncConnectionPool
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry

from agentguard.concurrency.deadline import seconds_left
from agentguard.concurrency.drive import operation_pair
from agentguard.concurrency.fork import in_child
from agentguard.concurrency.places import Places
from agentguard.concurrency.running import Owner
from agentguard.errors import ConfigurationError, IssueError, StoreError
from agentguard.model import Secret
from agentguard.stores.redis.address import Address
from agentguard.stores.redis.wire import Exchange, ServerRefused, Wire, store_errors

__all__ = ["Connections", "PasswordSource"]


class PasswordSource(Protocol):
    """A place that holds the password, such as each of `agentguard.credentials.sources`."""

    def read(self) -> Secret:
        """Return the password that the place holds now."""


class _Constant:
    inline = True

    def __init__(self, password: Secret) -> None:
        self._password = password

    def read(self) -> Secret:
        return self._password


class _Password(CredentialProvider):
    """Reads the password for each new connection, so that another password needs no restart."""

    def __init__(self, password: Secret | PasswordSource, user: str | None, timeout: float) -> None:
        self._user = user
        self._source = _Constant(password) if isinstance(password, Secret) else password
        self._aread = operation_pair(self._source, "read", timeout=timeout).async_

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Read it."""
        try:
            return self._with_user(self._source.read())
        except IssueError as error:
            raise ServerRefused(error) from None

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Read it without holding the event loop."""
        try:
            return self._with_user(await self._aread())
        except IssueError as error:
            raise ServerRefused(error) from None

    def _with_user(self, password: Secret) -> tuple[str] | tuple[str, str]:
        text = password.reveal()
        return (text,) if self._user is None else (self._user, text)


class _LoopPool(NamedTuple):
    pool: Any  # of redis-py, whose methods have no types
    places: asyncio.Semaphore


class Connections:
    """Runs scripts on at most *size* connections for threads, and on as many for each event loop.

    Nothing is sent twice: redis-py's own retry is off. Each waits at most *timeout* seconds for a free
    connection, to connect, and for each part of an answer. A connection that was cut is opened anew. A forked
    child opens connections of its own; it neither uses nor closes those of its parent.
    """

    def __init__(
        self,
        address: Address,
        password: Secret | PasswordSource | None,
        wire: Wire,
        *,
        size: int,
        timeout: float,
    ) -> None:
        self._address, self._wire, self._size, self._timeout = address, wire, size, timeout
        self._options: dict[str, Any] = {
            **address.options,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "max_connections": size,
        }
        if password is not None:
            self._options["credential_provider"] = _Password(password, address.user, timeout)
        elif address.user is not None:
            raise ConfigurationError(
                f"{address} has a user and no password", hint='as in password = "env:REDIS_PASSWORD"'
            )
        self._closed = False
        self._places = Places(size)
        self._of_parents: list[object] = []
        self._begin()
        in_child(self._begin_in_child)

    def _begin(self) -> None:
        self._lock = Lock()
        self._pool: Any = None  # of redis-py, whose methods have no types
        # a connection belongs to the event loop that opened it
        self._closers: WeakKeyDictionary[AbstractEventLoop, AsyncGenerator[_LoopPool]] = WeakKeyDictionary()
        self._loops: WeakKeyDictionary[AbstractEventLoop, _LoopPool] = WeakKeyDictionary()

    def _begin_in_child(self) -> None:
        # referenced, since a pool that is collected closes its connections
        self._of_parents.append((self._pool, self._loops, self._closers))
        self._begin()

    def run(self, exchange: Exchange) -> Any:
        """Run a script once and return its answer.

        Raises:
            StoreError: There is no connection, or no answer; the script may have run.
            ConfigurationError: The server is not configured as we demand.
        """
        owner = Owner()
        if not self._places.acquire(owner, max(0.0, seconds_left(self._timeout))):
            raise self._busy()
        try:
            with store_errors(str(self._address)):
                pool = self._sync_pool()
                connection = pool.get_connection()
                try:
                    replies = self._wire.run(connection, exchange)
                except BaseException:
                    # an answer may still be under way, which is none to the next question
                    connection.disconnect()
                    raise
                finally:
                    pool.release(connection)
                return self._wire.answer(replies)
        finally:
            self._places.release(owner)

    async def arun(self, exchange: Exchange) -> Any:
        """Run a script once on this event loop's connections, as `run` does."""
        pool, places = await self._loop_pool()
        try:
            async with asyncio.timeout(self._timeout):
                await places.acquire()
        except TimeoutError:
            raise self._busy() from None
        try:
            with store_errors(str(self._address)):
                connection = await pool.get_connection()
                try:
                    replies = await self._wire.arun(connection, exchange)
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
                finally:
                    await pool.release(connection)
                return self._wire.answer(replies)
        finally:
            places.release()

    async def aclose(self) -> None:
        """Close the connections of threads and of this event loop."""
        self.close()
        closer = self._closers.get(asyncio.get_running_loop())
        if closer is not None:
            await closer.aclose()

    def close(self) -> None:
        """Close the connections of threads. Those of an event loop are closed when it shuts down."""
        with self._lock:
            pool, self._pool, self._closed = self._pool, None, True
        if pool is not None:
            pool.disconnect()

    def _busy(self) -> StoreError:
        return StoreError(f"{self._address}: all {self._size} connections are in use", hint="raise pool_size")

    def _sync_pool(self) -> Any:
        with self._lock:
            self._require_open()
            if self._pool is None:
                kind = self._address.classes[0]
                self._pool = ConnectionPool(
                    connection_class=kind, redis_connect_func=self._wire.greet, **self._options
                )
            return self._pool

    async def _loop_pool(self) -> _LoopPool:
        self._require_open()
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            closer = self._open_loop_pool()
            self._loops[loop] = await anext(closer)
            self._closers[loop] = closer
        return self._loops[loop]

    async def _open_loop_pool(self) -> AsyncGenerator[_LoopPool]:
        pool = AsyncConnectionPool(
            connection_class=self._address.classes[1], redis_connect_func=self._wire.agreet, **self._options
        )
        # at its end an event loop closes asynchronous generators, and nothing else
        try:
            yield _LoopPool(pool, asyncio.Semaphore(self._size))
        finally:
            # the pool may refer to its loop, which would then stay as long as this object
            for table in (self._loops, self._closers):
                table.pop(asyncio.get_running_loop(), None)
            await pool.disconnect()

    def _require_open(self) -> None:
        if self._closed:
            raise StoreError(f"{self._address}: the store is closed")
