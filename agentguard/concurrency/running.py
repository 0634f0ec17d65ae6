"""Who still runs: the next user of a thing tells an owner at work from one that an exception has ended.

An exception, such as that of Ctrl-C, may come at any line, also between taking a thing and the block that
would give it back. The owner's frame may then live on in a traceback, but it runs no more.
"""

from __future__ import annotations

import asyncio
import sys
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from threading import get_ident
from types import FrameType

__all__ = ["Owner", "is_running"]

_SUSPENDING = CO_COROUTINE | CO_ASYNC_GENERATOR
_RESUMED = _SUSPENDING | CO_GENERATOR
_DRIVE = "agentguard.concurrency.drive"
_WALKS = 1_000


def is_running(frame: FrameType, thread: int) -> bool:
    """Return whether a function of that thread is still running.

    The thread goes on while this looks at its frames. A generator or coroutine that yields meanwhile has no
    caller any more, and one that another thread resumes has a caller there. So a walk that ends at one is
    begun again, and only two walks that miss the function say that it does not run. After `_WALKS` walks the
    function is said to run: nobody may take away what a running function has.
    """
    misses = 0
    for _ in range(_WALKS):
        last, running = None, sys._current_frames().get(thread)
        while running is not None:
            if running is frame:
                return True
            last, running = running, running.f_back
        if last is None:  # the thread is over
            return False
        misses += not last.f_code.co_flags & _RESUMED
        if misses == 2:
            return False
    return True


class Owner:
    """The function that has something: the one that makes this object; of a coroutine, who steps it.

    That is the task of an event loop, or on the synchronous path the function `drive`. An owner that has
    nothing any more is not kept: it refers to the function's frame, and so to all that the function holds.
    """

    __slots__ = ("_frame", "_task", "_thread")

    def __init__(self) -> None:
        frame = caller = sys._getframe(1)
        while frame.f_code.co_flags & _SUSPENDING and frame.f_back is not None:
            frame = frame.f_back
        is_driven = frame is caller or frame.f_globals.get("__name__") == _DRIVE
        self._task = None if is_driven else _task()
        self._frame, self._thread = frame if self._task is None else None, get_ident()

    @property
    def is_of_this_thread(self) -> bool:
        """Whether it was made in the thread that asks."""
        return self._thread == get_ident()

    def forget(self) -> None:
        """Refer to no frame any more: the owner has nothing. From now on it is said not to run."""
        self._frame = self._task = None

    def is_running(self) -> bool:
        """Return whether the function still runs, or waits on an event loop that does."""
        task, frame = self._task, self._frame
        if task is not None:
            return not (task.done() or task.get_loop().is_closed())
        return frame is not None and is_running(frame, self._thread)


def _task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        return None
