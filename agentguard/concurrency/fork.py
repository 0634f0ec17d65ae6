"""What an object does when the process forks, and in a child that was forked while other threads used it.

A forked child has one thread. A lock that another thread of the parent held at the fork stays taken in
the child, and what that thread was changing stays half changed. `ProcessLock` and `ProcessSemaphore` are
free in a child. `ForkGate` has a fork wait until no thread uses a thing that a child cannot repair.
`in_child` has an object make its own state new.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Hashable
from contextlib import suppress
from threading import BoundedSemaphore, Condition, Lock, get_ident
from typing import Any

__all__ = ["ForkGate", "ProcessLock", "ProcessSemaphore", "around_fork", "in_child", "this_process"]

Hook = Callable[[], Any]


class _Hooks:
    """Bound methods that are called as long as their objects live.

    Each is kept as its object and its function: a `WeakMethod` with a callback writes an error to stderr
    when the interpreter ends.
    """

    def __init__(self) -> None:
        self._methods: dict[int, tuple[weakref.ref[Any], Callable[[Any], Any]]] = {}

    def add(self, method: Hook) -> None:
        bound: Any = method
        reference = weakref.ref(bound.__self__, self._forget)
        self._methods[id(reference)] = reference, bound.__func__

    def _forget(self, reference: weakref.ref[Any]) -> None:
        self._methods.pop(id(reference), None)

    def run(self) -> None:
        for reference, function in list(self._methods.values()):
            if (target := reference()) is not None:
                function(target)


_before, _parent, _child = _Hooks(), _Hooks(), _Hooks()
_generation: object = object()  # another one in each process


def this_process() -> object:
    """Return an object that stands for this process. A forked child has another one."""
    return _generation


def in_child(method: Hook) -> None:
    """Call a bound method in each forked child, as long as its object lives.

    It must not wait for a lock: the thread that holds the lock does not exist in the child.
    """
    _child.add(method)


def around_fork(*, before: Hook, in_parent: Hook | None = None) -> None:
    """Call bound methods in the parent before each fork and after it, as long as their object lives."""
    _before.add(before)
    if in_parent is not None:
        _parent.add(in_parent)


class ProcessLock:
    """A lock between the threads of one process. In a forked child it is free, whoever held it at the fork.

    It guards single operations on a dict or list, which no fork finds half done. A class whose state changes
    in several steps registers `in_child` as well.
    """

    __slots__ = ("_locks", "_owner")

    def __init__(self) -> None:
        self._locks: dict[object, Lock] = {_generation: Lock()}
        self._owner = 0

    def __enter__(self) -> None:
        lock = self._locks.get(_generation) or self._locks.setdefault(_generation, Lock())
        lock.acquire()
        self._owner = get_ident()

    def __exit__(self, *_: object) -> None:
        lock = self._locks.get(_generation)
        # a thread that forked inside the block holds nothing in the child
        if lock is not None and self._owner == get_ident():
            lock.release()


class ProcessSemaphore:
    """A bounded semaphore between the threads of one process. A forked child has all of its places."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._renew()
        in_child(self._renew)

    def _renew(self) -> None:
        self._semaphore = BoundedSemaphore(self._places)

    def acquire(self, *, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take a place; return False if there was none, after *timeout* seconds."""
        return self._semaphore.acquire(blocking, timeout)

    def release(self) -> None:
        """Give a place back. In a child, a place that was taken in the parent is no place."""
        with suppress(ValueError):
            self._semaphore.release()


class ForkGate:
    """Has a fork wait, at most *seconds*, until no thread uses a thing; a new user waits for the fork.

    `was_in_use` says, in a child, whether some thread used the thing all the same when the child was forked.
    The thread that forks must not itself be using it: the fork would wait for it in vain.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self.was_in_use = seconds, False
        self._renew()
        around_fork(before=self._close, in_parent=self._open)
        in_child(self._renew_in_child)

    def enter(self, user: Hashable) -> None:
        """Begin to use the thing."""
        with self._lock:
            while self._forks:
                self._changed.wait()
            self._users.add(user)

    def leave(self, user: Hashable) -> None:
        """Have used the thing; one who never entered may leave, too, and who entered may leave twice."""
        with self._lock:
            self._users.discard(user)
            if self._forks:
                self._changed.notify_all()

    def _renew(self) -> None:
        self._lock = Lock()
        self._changed = Condition(self._lock)
        self._users, self._forks = set[Hashable](), 0

    def _close(self) -> None:
        with self._lock:
            self._forks += 1
            self._changed.wait_for(lambda: not self._users, self._seconds)

    def _open(self) -> None:
        with self._lock:
            self._forks -= 1
            self._changed.notify_all()

    def _renew_in_child(self) -> None:
        self.was_in_use = bool(self._users)
        self._renew()


def _begin_child() -> None:
    global _generation
    _generation = object()
    _child.run()


os.register_at_fork(before=_before.run, after_in_parent=_parent.run, after_in_child=_begin_child)
