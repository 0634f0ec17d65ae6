"""A daemon thread that begins when it is woken, and ends when there is nothing left to do."""

from __future__ import annotations

import logging
from queue import Empty, SimpleQueue
from threading import Thread, current_thread

from agentguard.concurrency.fork import ProcessLock, in_child

__all__ = ["WokenThread"]

log = logging.getLogger("agentguard")


class WokenThread:
    """Works whenever it is woken, in a thread of its own; `_work_off` says what it does.

    It is woken by a queue, which is C, for an interrupt in an `Event` would leave its lock with the thread
    that was interrupted. A forked child has none of the threads, and nothing to do yet.
    """

    def __init__(self, name: str) -> None:
        self._name, self._closed, self._lock = name, False, ProcessLock()
        self._begin()
        in_child(self._begin)

    def _begin(self) -> None:
        self._thread: Thread | None = None
        self._news: SimpleQueue[None] = SimpleQueue()

    def wake(self) -> bool:
        """Work now; return whether there is a thread that will, unless it is closed."""
        self._news.put(None)
        with self._lock:
            if self._closed or (self._thread is not None and self._thread.is_alive()):
                return True
        try:
            Thread(target=self._run, name=self._name, daemon=True).start()
        except RuntimeError as error:  # there are no more threads, or the interpreter shuts down
            log.error("the outbox has no thread, until it is woken again: %s", error)
            return False
        return True

    @property
    def runs(self) -> bool:
        """Whether the thread runs, or is about to, since something is left."""
        return self._thread is not None or not self._news.empty()

    def close(self, seconds: float) -> None:
        """Stop the thread, and wait for it at most *seconds*."""
        self._closed = True
        self._news.put(None)
        thread = self._thread
        if thread is not None and thread is not current_thread():  # what it asks may close the guard
            thread.join(timeout=seconds)

    def _work_off(self) -> None:
        """Work until nothing is left to do, or the thread is closed. It raises nothing."""
        raise NotImplementedError

    def _run(self) -> None:
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return  # another one was quicker
            self._thread = current_thread()
        while self._goes_on():
            self._work_off()

    def _goes_on(self) -> bool:
        """Return whether there is news; if not, this is the thread no more, before anybody brings some."""
        with self._lock:
            if self._closed or self._news.empty():
                self._thread = None
                return False
            return True

    def _pause(self, seconds: float) -> None:
        """Wait until there is news, which is kept, and at most *seconds*."""
        try:
            self._news.get(timeout=seconds)
        except Empty:
            return
        self._news.put(None)

    def _take_news(self) -> None:
        try:
            while True:
                self._news.get_nowait()
        except Empty:
            pass
