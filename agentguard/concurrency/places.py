"""A bounded number of places, none of which is lost with an owner that an exception has ended."""

from __future__ import annotations

import time
from collections import deque
from queue import Empty, SimpleQueue

from agentguard.concurrency.fork import ProcessLock, in_child
from agentguard.concurrency.running import Owner

__all__ = ["Places"]

LOOK = 0.05  # seconds after which one who waits looks whether the owners still run


class Places:
    """Places for the threads of one process. A forked child has all of them."""

    def __init__(self, number: int) -> None:
        self._number, self._lock = number, ProcessLock()
        self._begin()
        in_child(self._begin)

    def _begin(self) -> None:
        self._owners: dict[Owner, None] = {}
        self._waiting: deque[SimpleQueue[None]] = deque()

    def acquire(self, owner: Owner, timeout: float) -> bool:
        """Give *owner* a place, and return True; return False if there was none, after *timeout* seconds."""
        end, news = time.monotonic() + timeout, SimpleQueue[None]()
        while not self._enter(owner, news):
            if (remaining := end - time.monotonic()) <= 0:
                owner.forget()
                return False
            try:
                news.get(timeout=min(remaining, LOOK))
            except Empty:
                self._forget_dead()
        return True

    def release(self, owner: Owner) -> None:
        """Take the owner's place back; who has none may say so, too."""
        with self._lock:
            self._owners.pop(owner, None)
            owner.forget()
            if self._waiting:
                self._waiting.popleft().put(None)

    def _enter(self, owner: Owner, news: SimpleQueue[None]) -> bool:
        with self._lock:
            if len(self._owners) < self._number:
                self._owners[owner] = None
                return True
            if news not in self._waiting:
                self._waiting.append(news)
            return False

    def _forget_dead(self) -> None:
        for owner in list(self._owners):
            if not owner.is_running():
                self.release(owner)
