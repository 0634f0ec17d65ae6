"""Threads that are used again: to start one takes some 100 µs.

Each function gets an idle thread, or a new one if none is idle. So a function that hangs holds its own thread
alone, and no other function waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from weakref import finalize

from agentguard.concurrency.fork import in_child

__all__ = ["ReusedThreads"]

IDLE = 10.0  # seconds after which a thread ends for which nobody has a function
MOST_IDLE = 16
Function = Callable[[], object]
_Functions = SimpleQueue[Function | None]  # of one thread, which ends at None


class ReusedThreads:
    """Daemon threads, each of which runs one function at a time. A forked child has none of its parent's.

    A function is not told what another one has left in a ContextVar of the thread, if it runs in a context of
    its own. It may find what another one has left in a `threading.local`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin()
        in_child(self._begin)

    def _begin(self) -> None:
        # the queues of idle threads; a thread is taken and put back by calls of a deque, which are atomic
        self._idle: deque[_Functions] = deque()
        finalize(self, _end_all, self._idle).atexit = False

    def start(self, function: Function) -> None:
        """Run a function, which may raise nothing, in a thread of its own.

        Raises:
            RuntimeError: The system gives no more threads.
        """
        try:
            functions = self._idle.pop()  # that of the thread which was used last: the others may end
        except IndexError:
            functions = SimpleQueue()
            Thread(target=_work, args=(functions, self._idle), name=self._name, daemon=True).start()
        functions.put(function)


# The threads hold no `ReusedThreads`: where it is dropped, those that are idle end.


def _work(functions: _Functions, idle: deque[_Functions]) -> None:
    while (function := _next(functions, idle)) is not None:
        function()
        del function  # while this waits for the next one, it must not keep what the function holds
        idle.append(functions)
        if len(idle) > MOST_IDLE and _retire(functions, idle):
            return


def _next(functions: _Functions, idle: deque[_Functions]) -> Function | None:
    """Return the next function of a thread, or None if it is to end."""
    try:
        return functions.get(timeout=IDLE)
    except Empty:
        return None if _retire(functions, idle) else functions.get()


def _retire(functions: _Functions, idle: deque[_Functions]) -> bool:
    """Take a thread out of the idle ones; return False if it was given a function meanwhile."""
    try:
        idle.remove(functions)
    except ValueError:
        return False
    return True


def _end_all(idle: deque[_Functions]) -> None:
    while idle:
        idle.pop().put(None)
