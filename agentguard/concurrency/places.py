"""A bounded number of places, none of which is lost with an owner that an exception has ended."""

from __future__ import annotations

import time
from queue import Empty

from agentguard.concurrency.fork import ProcessLock, in_child
from agentguard.concurrency.running import Owner
from agentguard.concurrency.waiting import LOOK, Waiter

__all__ = ["Places"]


class Places:
    """Places for the threads of one process. A forked child has all of them.

    Who has waited for `waiting.PATIENCE` seconds is given the next place that is released, so that those
    who come later do not pass by for long.
    """

    def __init__(self, number: int) -> None:
        self._number, self._lock = number, ProcessLock()
        self._begin()
        in_child(self._begin)

    def _begin(self) -> None:
        self._owners: dict[Owner, None] = {}
        self._waiting: dict[Owner, Waiter] = {}  # in the order in which they came

    def acquire(self, owner: Owner, timeout: float) -> bool:
        """Give *owner* a place, and return True; return False if there was none, after *timeout* seconds."""
        waiter = Waiter()
        try:
            while not self._enter(owner, waiter):
                if (remaining := waiter.since + timeout - time.monotonic()) <= 0:
                    break
                try:
                    waiter.news.get(timeout=min(remaining, LOOK))
                except Empty:
                    self._forget_dead()
        except BaseException:
            self.release(owner)
            raise
        finally:
            has_place = self._leave(owner)
        if not has_place:
            owner.forget()
        return has_place

    def _leave(self, owner: Owner) -> bool:
        """Wait no more, and return whether *owner* has a place; it may be given one at the last moment."""
        with self._lock:
            self._waiting.pop(owner, None)
            if self._waiting and len(self._owners) < self._number:  # two were released for one that was told
                next(iter(self._waiting.values())).news.put(None)
            return owner in self._owners

    def release(self, owner: Owner) -> None:
        """Take the owner's place back; who has none may say so, too."""
        with self._lock:
            had_place = owner in self._owners
            self._owners.pop(owner, None)
            owner.forget()
            if not had_place or not self._waiting:
                return
            first, waiter = next(iter(self._waiting.items()))
            if waiter.is_impatient:
                self._owners[first] = None
                del self._waiting[first]
        waiter.news.put(None)

    def _enter(self, owner: Owner, waiter: Waiter) -> bool:
        with self._lock:
            if owner in self._owners or len(self._owners) < self._number:
                self._owners[owner] = None
                return True
            self._waiting.setdefault(owner, waiter)
            return False

    def _forget_dead(self) -> None:
        for owner in list(self._owners):
            if not owner.is_running():
                self.release(owner)
