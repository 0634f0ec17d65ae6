"""Single flight: when several callers need the same thing at the same moment, one of them fetches it for all.

No lock is held during a fetch. Threads wait for threads and coroutines wait for coroutines: a thread
that waited for a coroutine of its own event loop would wait forever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from threading import get_ident
from typing import Any, NamedTuple, TypeVar

from agentguard.concurrency.answer import Answer
from agentguard.concurrency.deadline import seconds_left
from agentguard.concurrency.fork import ProcessLock, in_child

__all__ = ["Share", "ShareOperations", "SingleFlight"]

T = TypeVar("T")
Share = Callable[[Hashable, Callable[[], Awaitable[Any]]], Awaitable[Any]]


class ShareOperations(NamedTuple):
    """`share` for the synchronous and for the asynchronous path."""

    sync: Share
    async_: Share


class SingleFlight:
    """Shares results by key: ``await flight.share.sync(key, fetch)``.

    If the fetch fails, every waiter gets the error. If the fetching caller is cancelled or interrupted, a
    waiter fetches again. *timeout* says how many seconds one caller waits for another.
    """

    def __init__(self, *, timeout: float = 5.0) -> None:
        self._timeout, self._lock = timeout, ProcessLock()
        self._begin()
        in_child(self._begin)
        self.share = ShareOperations(self._share_sync, self._share_async)

    def _begin(self) -> None:
        # a child waits for no fetch of its parent
        self._flights: dict[Hashable, _Flight] = {}

    async def _share_sync(self, key: Hashable, fetch: Callable[[], Awaitable[T]]) -> T:
        async def wait(flight: _Flight) -> Any:
            return flight.answer.wait(seconds_left(self._timeout, of_sequence=False))

        return await self._share(("sync", key), fetch, wait, None)

    async def _share_async(self, key: Hashable, fetch: Callable[[], Awaitable[T]]) -> T:
        async def wait(flight: _Flight) -> Any:
            return await flight.answer.await_(self._timeout)

        return await self._share(("async", key), fetch, wait, asyncio.get_running_loop())

    async def _share(
        self,
        key: Hashable,
        fetch: Callable[[], Awaitable[T]],
        wait: Callable[[_Flight], Awaitable[T]],
        loop: asyncio.AbstractEventLoop | None,
    ) -> T:
        while True:
            flight = _Flight(loop)
            flight.coroutine = coroutine = self._fetch(key, flight, fetch)
            first, value = await coroutine
            if first is flight:
                result: T = value
                return result
            if first.is_around():
                return await fetch()
            try:
                return await wait(first)
            except _FetcherCancelled:
                continue
            except TimeoutError:
                if not first.is_over():
                    raise

    async def _fetch(
        self, key: Hashable, flight: _Flight, fetch: Callable[[], Awaitable[T]]
    ) -> tuple[_Flight, Any]:
        """Fetch for all, unless somebody else does: return whose flight counts, and the value of ours.

        The flight is found by others from here on alone. So it is over when this coroutine is, whichever
        exception has ended it at whichever line.
        """
        with self._lock:
            first = self._flights.get(key)
            if first is None or first.is_over():
                first = self._flights[key] = flight
        if first is not flight:
            return first, None
        error: Exception | None = _FetcherCancelled()
        value = None
        try:
            value, error = await fetch(), None
        except Exception as problem:
            error = problem
            raise
        finally:
            self._remove(key, flight)
            flight.answer.tell(value, error)
        return flight, value

    def _remove(self, key: Hashable, flight: _Flight) -> None:
        with self._lock:
            if self._flights.get(key) is flight:  # a child has dropped what its parent fetched
                del self._flights[key]


class _Flight:
    """A fetch, and those who wait for it."""

    __slots__ = ("_loop", "_thread", "answer", "coroutine")

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop, self._thread = loop, get_ident()
        self.answer = Answer[Any]()
        self.coroutine: Any = None  # its coroutine; the protocol of its type has no state

    def is_over(self) -> bool:
        """Return whether nobody fetches any more; who was interrupted may have told nobody."""
        if self._loop is not None and self._loop.is_closed():
            return True
        return self.coroutine is not None and self.coroutine.cr_frame is None

    def is_around(self) -> bool:
        """Return whether the caller runs within this fetch, as a handler does: it must not wait."""
        running = self.coroutine is not None and self.coroutine.cr_running
        return bool(self._loop is None and running and self._thread == get_ident())


class _FetcherCancelled(Exception):
    """The caller that was fetching was cancelled. The result is still unknown, so a waiter tries again."""
