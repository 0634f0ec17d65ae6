"""A thread of a guard's own, in which an event loop has several blocking operations done in one go.

Each hand-over from an event loop to a thread and back costs some 30 to 60 µs; by an executor of
`concurrent.futures` it costs twice as much. A call that asks a blocking store and a blocking log several
things in a row pays for one hand-over, if the whole sequence runs in the thread.
"""

from __future__ import annotations

import asyncio
import atexit
import os
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar
from weakref import WeakSet, finalize

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

    After a fork the child has a thread of its own, made when it is first needed. When the interpreter ends,
    what was handed over is finished first.
    """

    def __init__(self, name: str, timeout: float) -> None:
        self._name, self._timeout = name, timeout
        self._lanes: dict[int, _Lane] = {}

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* to its end in the thread, also when the caller is cancelled meanwhile.

        Raises:
            TimeoutError: It was not done in time. The thread goes on with it all the same. The `__cause__` is
                the CancelledError of a caller that was cancelled meanwhile.
        """
        loop = asyncio.get_running_loop()
        with within(self._timeout):
            errand = _Errand(loop, copy_context(), coroutine)
        self._lane().put(errand)
        timer = loop.call_later(self._timeout, errand.give_up)
        cancelled: asyncio.CancelledError | None = None
        try:
            while not errand.done:
                try:
                    await errand.news()
                except asyncio.CancelledError as error:
                    cancelled = error
                if errand.late and not errand.done:
                    raise TimeoutError(f"not done within {self._timeout} s") from cancelled
        finally:
            timer.cancel()
        if cancelled is not None:
            raise cancelled
        result: T = errand.result()
        return result

    def _lane(self) -> _Lane:
        pid = os.getpid()
        if (lane := self._lanes.get(pid)) is None:
            new = _Lane(f"{self._name}_0")
            finalize(self, new.put, None).atexit = False
            if (lane := self._lanes.setdefault(pid, new)) is not new:  # another thread was quicker
                new.put(None)
        return lane

    def close(self) -> None:
        """Finish what was handed over, and end this process's thread."""
        if (lane := self._lanes.pop(os.getpid(), None)) is not None:
            lane.close()


class _Errand:
    """A coroutine on its way through the thread, and the caller on the event loop that waits for it.

    `late` says that the caller's time is over. The caller waits by a future of its own and a timer:
    `asyncio.wait` costs half as much as the whole hand-over.
    """

    __slots__ = ("_answer", "_context", "_coroutine", "_loop", "_waiter", "done", "late")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, context: Context, coroutine: Coroutine[Any, Any, Any]
    ) -> None:
        self._loop, self._context, self._coroutine = loop, context, coroutine
        self._answer: tuple[Any, BaseException | None] = None, None
        self._waiter: asyncio.Future[None] | None = None
        self.done = self.late = False

    def run(self) -> None:
        """Run the coroutine to its end; called in the thread."""
        self._answer = _answer_of(self._context, self._coroutine)
        self.done = True
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._wake)

    def news(self) -> asyncio.Future[None]:
        """Return a future that is done when the coroutine is, or when its time is over."""
        self._waiter = self._loop.create_future()
        return self._waiter

    def give_up(self) -> None:
        """Let the caller wait no longer."""
        self.late = True
        self._wake()

    def result(self) -> Any:
        """Return what the coroutine has returned, or raise what it has raised; once."""
        (result, error), self._answer = self._answer, (None, None)
        if error is None:
            return result
        try:
            raise error
        finally:
            error = None  # its traceback holds this frame, which must not hold it

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _answer_of(context: Context, coroutine: Coroutine[Any, Any, T]) -> tuple[T | None, BaseException | None]:
    try:
        return context.run(drive, coroutine), None
    except BaseException as error:  # noqa: BLE001  an exit too: the caller, in another thread, gets it
        return None, error


class _Lane:
    """One thread, and the errands that wait for it. It ends at the first None."""

    def __init__(self, name: str) -> None:
        self._errands: SimpleQueue[_Errand | None] = SimpleQueue()
        self.put = self._errands.put
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()
        _lanes.add(self)

    def close(self) -> None:
        """Finish what was put before, and end the thread."""
        self.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (errand := self._errands.get()) is not None:
            errand.run()
            del errand  # while this waits for the next one, it must not keep the call


_lanes: WeakSet[_Lane] = WeakSet()


@atexit.register
def _finish_all() -> None:
    """Finish what was handed over before the interpreter ends, which waits for no daemon thread."""
    for lane in list(_lanes):
        lane.close()
