"""Threads that are used again: to start one takes some 100 µs.

Each function gets an idle thread, or a new one if none is idle. So a function that hangs holds its own thread
alone, and no other function waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread

from agentguard.concurrency.fork import in_child

__all__ = ["ReusedThreads"]

IDLE = 10.0  # seconds after which a thread ends for which nobody has a function
MOST_IDLE = 16
Function = Callable[[], object]


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
        self._idle: deque[SimpleQueue[Function]] = deque()

    def start(self, function: Function) -> None:
        """Run a function, which may raise nothing, in a thread of its own.

        Raises:
            RuntimeError: The system gives no more threads.
        """
        try:
            functions = self._idle.pop()  # that of the thread which was used last: the others may end
        except IndexError:
            functions = SimpleQueue()
            Thread(target=self._work, args=(functions,), name=self._name, daemon=True).start()
        functions.put(function)

    def _work(self, functions: SimpleQueue[Function]) -> None:
        while (function := self._next(functions)) is not None:
            function()
            del function  # while this waits for the next one, it must not keep what the function holds
            self._idle.append(functions)
            if len(self._idle) > MOST_IDLE and self._retire(functions):
                return

    def _next(self, functions: SimpleQueue[Function]) -> Function | None:
        """Return the next function of a thread, or None if it is to end."""
        try:
            return functions.get(timeout=IDLE)
        except Empty:
            return None if self._retire(functions) else functions.get()

    def _retire(self, functions: SimpleQueue[Function]) -> bool:
        """Take a thread out of the idle ones; return False if it was given a function meanwhile."""
        try:
            self._idle.remove(functions)
        except ValueError:
            return False
        return True
