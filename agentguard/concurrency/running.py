"""Who still runs: the next user of a thing tells an owner at work from one that an exception has ended.

An exception, such as that of Ctrl-C, may come at any line, also between taking a thing and the block that
would give it back. The owner's frame may then live on in a traceback, but it runs no more.
"""

from __future__ import annotations

import asyncio
import sys
from inspect import CO_COROUTINE
from threading import get_ident
from types import FrameType

__all__ = ["Owner", "is_running"]


def is_running(frame: FrameType, thread: int) -> bool:
    """Return whether a function of that thread is still running."""
    running = sys._current_frames().get(thread)
    while running is not None:
        if running is frame:
            return True
        running = running.f_back
    return False


class Owner:
    """The function that has something: the one that makes this object, or its task if it is a coroutine's."""

    __slots__ = ("_frame", "_task", "_thread")

    def __init__(self, *, depth: int = 1) -> None:
        self._frame, self._thread = sys._getframe(depth), get_ident()
        self._task = asyncio.current_task() if self._frame.f_code.co_flags & CO_COROUTINE else None

    def is_running(self) -> bool:
        """Return whether the function still runs, or waits on an event loop that does."""
        if self._task is not None:
            return not (self._task.done() or self._task.get_loop().is_closed())
        return is_running(self._frame, self._thread)
