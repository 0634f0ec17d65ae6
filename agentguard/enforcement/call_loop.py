"""The event loop of an asynchronous call, for the thread in which a synchronous tool of it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

__all__ = ["CallLoop"]

PATIENCE = 60.0
"""Seconds that a thread waits for the loop. What runs there has a shorter limit of its own."""


class CallLoop:
    """Runs one thing on the call's loop while a thread waits for it. Without `enter` it runs nothing."""

    __slots__ = ("_loop", "_task")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def enter(self) -> None:
        """Note the running loop as that of the call."""
        self._loop = asyncio.get_running_loop()

    def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have the loop do *work*, and block this thread until it is done.

        It is not done if the loop is closed, or does not get to it in time, or if this is the loop's own
        thread.
        """
        if self._loop is None or self._loop is _running_loop():
            return
        coroutine = self._noted(work)
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # it is closed
            coroutine.close()
            return
        with suppress(TimeoutError, CancelledError):
            future.result(PATIENCE)

    async def rest(self) -> None:
        """Wait on the loop for what it does for the thread: that goes on though the call is cancelled."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _noted(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._task = asyncio.current_task()
        await work()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
