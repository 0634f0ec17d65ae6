"""Single flight: when several callers need the same thing at the same moment, one of them fetches it for all.

No lock is held during a fetch. Threads wait for threads and coroutines wait for coroutines: a thread
that waited for a coroutine of its own event loop would wait forever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Any, NamedTuple, TypeVar

from agentguard.concurrency.drive import Operation, lift
from agentguard.concurrency.fork import in_child

__all__ = ["Share", "ShareOperations", "SingleFlight"]

T = TypeVar("T")
Share = Callable[[Hashable, Callable[[], Awaitable[Any]]], Awaitable[Any]]


class ShareOperations(NamedTuple):
    """`share` for the synchronous and for the asynchronous path."""

    sync: Share
    async_: Share


class SingleFlight:
    """Shares results by key: ``await flight.share.sync(key, fetch)``.

    If the fetch fails, every waiter gets the error. If the fetching caller is cancelled, a waiter
    fetches again. *timeout* says how many seconds one caller waits for another.
    """

    def __init__(self, *, timeout: float = 5.0) -> None:
        self._begin()
        in_child(self._begin)

        async def wait(result: Future[Any]) -> Any:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(result)

        self.share = ShareOperations(
            self._sharing("sync", lift(lambda result: result.result(timeout))), self._sharing("async", wait)
        )

    def _begin(self) -> None:
        # a child waits for no fetch of its parent
        self._results: dict[Hashable, Future[Any]] = {}
        self._lock = Lock()

    def _sharing(self, path: str, wait: Operation) -> Share:
        async def share(key: Hashable, fetch: Callable[[], Awaitable[Any]]) -> Any:
            while True:
                with self._lock:
                    pending = self._results.get((path, key))
                    if pending is None:
                        result = self._results[path, key] = Future()
                        # as running: a waiter that is cancelled must not cancel what the others wait for
                        result.set_running_or_notify_cancel()
                if pending is None:
                    return await self._fetch((path, key), result, fetch)
                try:
                    return await wait(pending)
                except _FetcherCancelled:
                    continue

        return share

    async def _fetch(self, key: Hashable, result: Future[Any], fetch: Callable[[], Awaitable[T]]) -> T:
        try:
            value = await fetch()
        except Exception as error:
            self._remove(key)
            result.set_exception(error)
            raise
        except BaseException:
            self._remove(key)
            result.set_exception(_FetcherCancelled())
            raise
        self._remove(key)
        result.set_result(value)
        return value

    def _remove(self, key: Hashable) -> None:
        with self._lock:
            self._results.pop(key, None)  # a child has dropped what its parent fetched


class _FetcherCancelled(Exception):
    """The caller that was fetching was cancelled. The result is still unknown, so a waiter tries again."""
