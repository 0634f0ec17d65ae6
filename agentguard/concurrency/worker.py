"""A thread of a guard's own, in which an event loop has several blocking operations done in one go.

Each hand-over from an event loop to a thread and back costs some 50 to 100 µs. A call that asks a blocking
store and a blocking log several things in a row pays for one hand-over, if the whole sequence runs in the
thread.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from agentguard.concurrency.deadline import within
from agentguard.concurrency.drive import drive

__all__ = ["Worker", "blocks"]

T = TypeVar("T")


def blocks(port: object, *names: str) -> bool:
    """Return whether these operations of a port may be called in a thread, one after the other.

    That is so where the port answers from memory (`inline`), where its asynchronous methods only hand the
    synchronous ones to a thread (it says ``blocking = True``), and where it has no asynchronous methods.
    """
    if getattr(port, "inline", False) or getattr(port, "blocking", False):
        return True
    return all(hasattr(port, name) and not hasattr(port, f"a{name}") for name in names)


class Worker:
    """Runs coroutines that never suspend in one thread, in the order in which they come.

    After a fork the child has a thread of its own, made when it is first needed.
    """

    def __init__(self, name: str, timeout: float) -> None:
        self._name, self._timeout = name, timeout
        self._executors: dict[int, ThreadPoolExecutor] = {}

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* to its end in the thread, also when the caller is cancelled meanwhile.

        Raises:
            TimeoutError: It was not done in time. The thread goes on with it all the same.
        """
        loop = asyncio.get_running_loop()
        with within(self._timeout):
            context = copy_context()
        future = loop.run_in_executor(self._executor(), context.run, drive, coroutine)
        deadline, cancelled = loop.time() + self._timeout, False
        while not future.done():
            # a waiter and a timer by hand: asyncio.wait costs half as much as the whole hand-over
            waiter = loop.create_future()
            future.add_done_callback(partial(_wake, waiter))
            timer = loop.call_at(deadline, _wake, waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                cancelled = True
            finally:
                timer.cancel()
            if not future.done() and loop.time() >= deadline:
                future.add_done_callback(_retrieve)
                raise TimeoutError(f"not done within {self._timeout} s")
        if cancelled:
            _retrieve(future)
            raise asyncio.CancelledError
        return future.result()

    def _executor(self) -> ThreadPoolExecutor:
        pid = os.getpid()
        executor = self._executors.get(pid)
        return executor or self._executors.setdefault(pid, ThreadPoolExecutor(1, self._name))

    def close(self) -> None:
        """Finish what was handed over, and end this process's thread."""
        if (executor := self._executors.pop(os.getpid(), None)) is not None:
            executor.shutdown()


def _wake(waiter: asyncio.Future[None], _future: object = None) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Look at the failure of a future that nobody waits for any more, or the event loop would log it."""
    if not future.cancelled():
        future.exception()
