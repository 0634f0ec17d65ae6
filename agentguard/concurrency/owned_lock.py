"""A lock with a time-out that is not lost with an owner whom an exception has ended."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from threading import get_ident
from types import FrameType

from agentguard.concurrency.fork import ProcessLock
from agentguard.concurrency.running import is_running
from agentguard.concurrency.waiting import LOOK, Waiter

__all__ = ["OwnedLock", "Owner", "owner_here"]

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

    Who comes while the lock is free gets it, although others wait: a switch of threads for each block would
    cost more than most blocks. But who has waited for `waiting.PATIENCE` seconds is given it by the owner
    that releases it, so that nobody is passed by for long.
    """

    __slots__ = ("_owners", "_queue", "_waiting")

    def __init__(self) -> None:
        self._owners: dict[None, Owner] = {}
        self._queue = ProcessLock()  # of those that wait; without any, nobody takes it
        self._waiting: deque[_Waiter] = deque()

    def acquire(self, owner: Owner, seconds: Callable[[], float]) -> bool:
        """Give *owner* the lock, and return True; return False if that took longer than *seconds* says."""
        return self._owners.setdefault(None, owner) is owner or self._wait(_Waiter(owner), seconds)

    def release(self) -> None:
        """Take the lock back from the owner, who calls this."""
        if self._waiting and self._hand_over():
            return
        self._owners.pop(None, None)
        if self._waiting:
            self._wake()

    def _hand_over(self) -> bool:
        with self._queue:
            if not self._waiting or not self._waiting[0].is_impatient:
                return False
            waiter = self._waiting.popleft()
            self._owners[None] = waiter.owner
        waiter.news.put(None)
        return True

    def _wait(self, waiter: _Waiter, seconds: Callable[[], float]) -> bool:
        self._waiting.append(waiter)
        try:
            self._look_and_wait(waiter, seconds)
        except BaseException:
            if self._leave(waiter):
                self.release()
            raise
        return self._leave(waiter)

    def _look_and_wait(self, waiter: _Waiter, seconds: Callable[[], float]) -> None:
        while (owner := self._owners.setdefault(None, waiter.owner)) is not waiter.owner:
            remaining, (frame, thread) = seconds(), owner
            if remaining <= 0 or (thread == get_ident() and is_running(frame, thread)):
                return
            try:
                waiter.news.get(timeout=min(remaining, LOOK))
            except Empty:
                if not is_running(frame, thread):
                    self._take_from(owner)

    def _leave(self, waiter: _Waiter) -> bool:
        """Leave the queue, and return whether *waiter* has the lock, if only since the last moment."""
        with self._queue:
            with suppress(ValueError):
                self._waiting.remove(waiter)
            return self._owners.get(None) is waiter.owner

    def _take_from(self, owner: Owner) -> None:
        with self._queue:
            if self._owners.get(None) is owner:
                self._owners.pop(None, None)

    def _wake(self) -> None:
        with suppress(IndexError):
            self._waiting[0].news.put(None)


class _Waiter(Waiter):
    """One that waits for the lock, and for which function."""

    __slots__ = ("owner",)

    def __init__(self, owner: Owner) -> None:
        super().__init__()
        self.owner = owner
