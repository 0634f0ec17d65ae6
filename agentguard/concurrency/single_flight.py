"""Single flight: of those who need the same thing at the same moment, one fetches it for all.

No lock is held while it is fetched. Threads wait for threads and coroutines for coroutines, since a
thread that waited for a coroutine of its own event loop would wait for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Any, NamedTuple, TypeVar

from agentguard.concurrency.drive import Operation, lift

__all__ = ["Flights", "Shared", "SingleFlight"]

T = TypeVar("T")
Shared = Callable[[Hashable, Callable[[], Awaitable[Any]]], Awaitable[Any]]


class Flights(NamedTuple):
    """`share` for the synchronous and for the asynchronous path."""

    sync: Shared
    async_: Shared


class SingleFlight:
    """Shares results by key: ``await flight.share.sync(key, make)``.

    A failure is everyone's, but for a cancellation, after which another one fetches. *timeout* is how
    long, in seconds, one waits for another.
    """

    def __init__(self, *, timeout: float = 5.0) -> None:
        self._flights: dict[Hashable, Future[Any]] = {}
        self._lock = Lock()

        async def landed(future: Future[Any]) -> Any:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(future)

        self.share = Flights(
            self._shared("sync", lift(lambda future: future.result(timeout))), self._shared("async", landed)
        )

    def _shared(self, path: str, landed: Operation) -> Shared:
        async def share(key: Hashable, make: Callable[[], Awaitable[Any]]) -> Any:
            while True:
                with self._lock:
                    found = self._flights.get((path, key))
                    if found is None:
                        future = self._flights[path, key] = Future()
                        # running: who waits may be cancelled, and cannot cancel what others wait for
                        future.set_running_or_notify_cancel()
                if found is None:
                    return await self._fly((path, key), future, make)
                try:
                    return await landed(found)
                except _Cancelled:
                    continue

        return share

    async def _fly(self, key: Hashable, future: Future[Any], make: Callable[[], Awaitable[T]]) -> T:
        try:
            result = await make()
        except Exception as error:
            self._land(key)
            future.set_exception(error)
            raise
        except BaseException:
            self._land(key)
            future.set_exception(_Cancelled())
            raise
        self._land(key)
        future.set_result(result)
        return result

    def _land(self, key: Hashable) -> None:
        with self._lock:
            del self._flights[key]


class _Cancelled(Exception):
    """Who fetched was cancelled; it says nothing of the thing."""
