"""A lock with a time-out that is not lost with an owner whom an exception has ended."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import get_ident
from types import FrameType

from agentguard.concurrency.fork import ProcessLock
from agentguard.concurrency.running import is_running

__all__ = ["OwnedLock", "Owner", "owner_here"]

LOOK = 0.05  # seconds after which one who waits looks whether the owner still runs
Owner = tuple[FrameType, int]
"""A function that runs, and its thread. The function must not keep it when it has released the lock."""


def owner_here() -> Owner:
    """Return the function that calls this, as the owner of a lock."""
    return sys._getframe(1), get_ident()


class OwnedLock:
    """A lock between threads. To take it and to say whose it is are one operation of a dict, which is atomic.

    So whoever waits knows the owner, and takes the lock from one that runs no more, as after Ctrl-C. A
    forked child makes one of its own. It is not re-entrant: code that runs within its own thread's block,
    such as a signal's handler, does not get it, and does not wait for it.
    """

    __slots__ = ("_owners", "_stealing", "_waiting")

    def __init__(self) -> None:
        self._owners: dict[None, Owner] = {}
        self._stealing = ProcessLock()
        self._waiting: deque[SimpleQueue[None]] = deque()

    def acquire(self, owner: Owner, seconds: Callable[[], float]) -> bool:
        """Give *owner* the lock, and return True; return False if that took longer than *seconds* says."""
        return self._owners.setdefault(None, owner) is owner or self._wait(owner, seconds)

    def release(self) -> None:
        """Take the lock back from the owner, who calls this."""
        self._owners.pop(None, None)
        if self._waiting:
            self._wake()

    def _wait(self, owner: Owner, seconds: Callable[[], float]) -> bool:
        news = SimpleQueue[None]()
        while True:
            self._waiting.append(news)
            first = self._owners.setdefault(None, owner)
            if first is owner:
                return True
            remaining, (frame, thread) = seconds(), first
            if remaining <= 0 or (thread == get_ident() and is_running(frame, thread)):
                return False
            try:
                news.get(timeout=min(remaining, LOOK))
            except Empty:
                if not is_running(frame, thread):
                    self._take_from(first)

    def _take_from(self, owner: Owner) -> None:
        with self._stealing:
            if self._owners.get(None) is owner:
                self._owners.pop(None, None)

    def _wake(self) -> None:
        while self._waiting:
            try:
                self._waiting.popleft().put(None)
            except IndexError:
                return
