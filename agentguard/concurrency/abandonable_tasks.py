"""Coroutines of the application that may never end, such as one that swallows its cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from agentguard.concurrency.abandonable import HUNG, NoThread

__all__ = ["AbandonableTasks"]

T = TypeVar("T")


class AbandonableTasks:
    """Runs each coroutine in a task of its own, which is cancelled after a time-out.

    A coroutine that swallows its cancellation is left alone. Of one party, `abandonable.HUNG` are left at
    most, and with *running* so many run at the same time on one event loop; more of them wait within their
    time.
    """

    def __init__(self, running: int | None = None) -> None:
        self._running = running
        # by their party; the event loop of a task may be gone before the task is done
        self._uncancelled: WeakKeyDictionary[asyncio.Future[Any], str] = WeakKeyDictionary()
        # a semaphore belongs to the event loop that waits for it
        self._loops: WeakKeyDictionary[
            asyncio.AbstractEventLoop, WeakValueDictionary[str, asyncio.Semaphore]
        ] = WeakKeyDictionary()

    async def run(self, seconds: float, begin: Callable[[], Coroutine[Any, Any, T]], party: str = "") -> T:
        """Return what the coroutine that *begin* makes returns, or raise what it raises.

        Raises:
            TimeoutError: It did neither within *seconds*, or blocked the event loop for so long.
            NoThread: Too many coroutines of this party swallow their cancellation.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        if sum(party == other for other in self._uncancelled.values()) >= HUNG:
            raise NoThread("too many calls of it swallow their cancellation")
        if self._running is None:
            return await self._until(end, begin, party)
        parties = self._loops.setdefault(loop, WeakValueDictionary())
        places = parties.setdefault(party, asyncio.Semaphore(self._running))
        async with asyncio.timeout_at(end):
            await places.acquire()
        try:
            return await self._until(end, begin, party)
        finally:
            places.release()

    async def _until(self, end: float, begin: Callable[[], Coroutine[Any, Any, T]], party: str) -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(begin())
        try:
            # nobody waits for a coroutine that swallows its cancellation
            await asyncio.wait([task], timeout=max(0.0, end - loop.time()))
        finally:
            if not task.done():
                task.cancel()
                self._uncancelled[task] = party
                task.add_done_callback(self._forget)
        if not task.done() or loop.time() >= end:  # a coroutine that blocks the loop is late as well
            self._forget(task)
            raise TimeoutError("no answer in time")
        return task.result()

    def _forget(self, task: asyncio.Future[Any]) -> None:
        if task.done():
            self._uncancelled.pop(task, None)
            if not task.cancelled():
                task.exception()  # retrieved here, so that the loop does not log it as forgotten
