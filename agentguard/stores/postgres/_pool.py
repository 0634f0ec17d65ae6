"""Bounded pools of connections to PostgreSQL: one for the threads of a process, and one for each event loop.

psycopg has a pool of its own (psycopg_pool, by psycopg's author, LGPL too). It is not used: it opens
connections in threads, so that an operator would read "no connection in time" and not why there is none; it
asks the server before each use whether a connection still lives, which is one more round trip; and it knows
neither a fork nor a second event loop.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import psycopg

from agentguard.errors import StoreError
from agentguard.postgres.connector import Connector
from agentguard.postgres.links import Link
from agentguard.stores._rows import Row

__all__ = ["LoopPool", "Pool", "ThreadPool"]


class Pool(Protocol):
    """A pool on one of the two paths. On the path of threads no method suspends."""

    async def take(self, ends: float) -> Link:
        """Return a connection that nobody else uses, within the time.

        Raises:
            StoreError: All are in use, or the server cannot be reached.
            ConfigurationError: The server or the store is not what is demanded.
        """

    def give(self, link: Link) -> None:
        """Take a connection back; one that is not usable any more is closed."""

    async def execute(self, link: Link, text: str, values: tuple[Any, ...], ends: float) -> Sequence[Row]:
        """Run a statement, and return its rows."""

    async def pause(self, seconds: float) -> None:
        """Wait before another attempt."""


class _Links:
    """The connections of one pool. The idle one that was used last is used next."""

    def __init__(self) -> None:
        self._idle: deque[Link] = deque()
        self._open = weakref.WeakSet[Link]()  # one in use belongs to its user, who may be interrupted
        self._closed = False

    def add(self, link: Link) -> Link:
        """Note a new connection, which is in use."""
        self._open.add(link)
        return link

    def take(self) -> Link | None:
        """Return an idle connection that the server has not ended, or None."""
        while self._idle:
            link = self._idle.pop()
            if not link.notices_end():
                return link
            self._close(link)
        return None

    def give(self, link: Link) -> None:
        """Take a connection back, or close it."""
        if self._closed or not link.is_usable:
            self._close(link)
        else:
            self._idle.append(link)

    def close(self) -> None:
        """Close the idle connections, and each other one when it is given back."""
        self._closed = True
        with suppress(IndexError):  # several threads may close
            while True:
                self._close(self._idle.pop())

    def leave_to_parent(self) -> None:
        """Close this child's descriptors of the parent's connections, and say nothing to the server."""
        for link in list(self._open):
            with suppress(psycopg.Error, OSError):
                os.close(link.connection.pgconn.socket)

    def _close(self, link: Link) -> None:
        self._open.discard(link)
        link.close()


def _full(size: int) -> StoreError:
    return StoreError(
        f"all {size} connections to the store are in use",
        hint="raise pool_size in [store], or let fewer calls run at once",
    )


class _Place:
    """The right to use one connection. When nobody holds it any more, there is such a place again.

    So a place comes back also from a user whom an interrupt has ended at any point, such as that of Ctrl-C.
    """

    __slots__ = ("_places",)

    def __init__(self, places: weakref.ref[SimpleQueue[_Place]]) -> None:
        self._places = places

    def __del__(self) -> None:
        places = self._places()
        if places is not None:
            places.put(_Place(self._places))


class ThreadPool:
    """The connections of a process's threads."""

    def __init__(self, connector: Connector, size: int) -> None:
        self._connector, self._size = connector, size
        self.links = _Links()
        # a queue, since a signal's handler may wait for a place while its own thread is taking one
        self._places: SimpleQueue[_Place] = SimpleQueue()
        for _ in range(size):
            self._places.put(_Place(weakref.ref(self._places)))

    async def take(self, ends: float) -> Link:
        """Return a connection (see `Pool`)."""
        try:
            place: _Place | None = self._places.get(timeout=max(0.0, ends - time.monotonic()))
        except Empty:
            raise _full(self._size) from None
        try:
            link = self.links.take() or self.links.add(Link(self._connector.open(ends)))
            link.place = place
        finally:
            place = None  # an error that somebody keeps has no place
        return link

    def give(self, link: Link) -> None:
        """Take a connection back."""
        place, link.place = link.place, None  # first, as an idle connection has no place
        self.links.give(link)
        del place

    async def execute(self, link: Link, text: str, values: tuple[Any, ...], ends: float) -> Sequence[Row]:
        """Run a statement."""
        link.connection.ends = ends
        rows: Sequence[Row] = link.connection.execute(text, values).fetchall()
        return rows

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)  # noqa: ASYNC251  this is the path of threads


class LoopPool:
    """The connections of one event loop. It is made and used on this loop alone."""

    def __init__(self, connector: Connector, size: int) -> None:
        self._connector, self._size = connector, size
        self.links = _Links()
        self._places = asyncio.Semaphore(size)

    async def take(self, ends: float) -> Link:
        """Return a connection (see `Pool`)."""
        try:
            async with asyncio.timeout(ends - time.monotonic()):
                await self._places.acquire()
        except TimeoutError:
            raise _full(self._size) from None
        try:
            return self.links.take() or self.links.add(Link(await self._connector.aopen(ends)))
        except BaseException:
            self._places.release()
            raise

    def give(self, link: Link) -> None:
        """Take a connection back."""
        self.links.give(link)
        self._places.release()

    async def execute(self, link: Link, text: str, values: tuple[Any, ...], ends: float) -> Sequence[Row]:
        """Run a statement."""
        link.connection.ends = ends
        cursor = await link.connection.execute(text, values)
        rows: Sequence[Row] = await cursor.fetchall()
        return rows

    async def pause(self, seconds: float) -> None:
        """Let other tasks run meanwhile."""
        await asyncio.sleep(seconds)
