"""What an object does when the process forks, and in a child that was forked while other threads used it.

A forked child has one thread. A lock that another thread of the parent held at the fork stays taken in
the child, and what that thread was changing stays half changed. `ProcessLock` and `ProcessSemaphore` are
free in a child. `ForkGate` has a fork wait until no thread uses a thing that a child cannot repair.
`in_child` has an object make its own state new.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from threading import BoundedSemaphore, RLock, get_ident
from typing import Any, Protocol

__all__ = ["ForkGate", "ProcessLock", "ProcessSemaphore", "around_fork", "in_child", "this_process"]

MANY = 256  # users after which those are looked for that were interrupted
LOOK = 0.001  # seconds between two looks of one that waits for a fork, or to fork
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

    It guards single operations on a dict or list, which no fork and no signal's handler finds half done. A
    handler that runs in the thread that holds the lock does not wait for it. A class whose state changes
    in several steps registers `in_child` as well.
    """

    __slots__ = ("_locks", "_owner")

    def __init__(self) -> None:
        self._locks: dict[object, Any] = {_generation: RLock()}
        self._owner = 0

    def __enter__(self) -> None:
        lock = self._locks.get(_generation) or self._locks.setdefault(_generation, RLock())
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


class User(Protocol):
    """What uses a thing behind a `ForkGate`."""

    def is_running(self) -> bool:
        """Return whether it still does; an interrupted one may never have said that it does not."""

    def abandon(self) -> None:
        """Give up what it has; it runs no more."""


class ForkGate:
    """Has a fork wait, at most *seconds*, until no thread uses a thing; a new user waits for the fork.

    `was_in_use` says, in a child, whether some thread used the thing all the same when the child was forked.
    There is no lock: a signal's handler that meets one of its own thread would wait for ever. Each side first
    says what it does, and then looks at what the other has said. The one that waits looks again each
    millisecond.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self.was_in_use = seconds, False
        self._renew()
        around_fork(before=self._close, in_parent=self._open)
        in_child(self._renew_in_child)

    def enter(self, user: User) -> None:
        """Begin to use the thing."""
        if len(self._users) >= MANY:
            self.is_in_use()
        while True:
            self._users[id(user)] = user
            if not self._forks:
                return
            self._users.pop(id(user), None)
            time.sleep(LOOK)

    def leave(self, user: User) -> None:
        """Have used the thing; one who never entered may leave, too, and who entered may leave twice."""
        self._users.pop(id(user), None)

    def is_in_use(self) -> bool:
        """Return whether a thread uses the thing, and have the users that were interrupted give up."""
        for key, user in list(self._users.items()):
            if not user.is_running():
                self._users.pop(key, None)
                user.abandon()
        return bool(self._users)

    def _renew(self) -> None:
        self._users: dict[int, User] = {}
        self._forks: dict[int, None] = {}  # the threads that fork

    def _close(self) -> None:
        self._forks[get_ident()] = None
        end = time.monotonic() + self._seconds
        while self.is_in_use() and time.monotonic() < end:
            time.sleep(LOOK)

    def _open(self) -> None:
        self._forks.pop(get_ident(), None)

    def _renew_in_child(self) -> None:
        self.was_in_use = bool(self._users)
        self._renew()


def _begin_child() -> None:
    global _generation
    _generation = object()
    _child.run()


os.register_at_fork(before=_before.run, after_in_parent=_parent.run, after_in_child=_begin_child)
