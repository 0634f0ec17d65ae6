"""What an object does when the process forks, and in a child that was forked while other threads used it.

A forked child has one thread. A lock that another thread of the parent held at the fork stays taken in
the child, and what that thread was changing stays half changed. `ProcessLock` is free in
a child. `ForkGate` has a fork wait until no thread uses a thing that a child cannot repair.
`in_child` has an object make its own state new.
"""

from __future__ import annotations

import os
import sys
import time
import weakref
from _thread import RLock
from collections.abc import Callable
from threading import get_ident
from types import FrameType
from typing import Any, Protocol

from agentguard.concurrency.running import is_running

__all__ = ["ForkGate", "ProcessLock", "around_fork", "in_child", "this_process"]

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
        """Call each of them, although another one raises; then raise the first error.

        One that Ctrl-C has ended is called again. Python writes to stderr what is raised here, and goes on.
        """
        methods = list(self._methods.values())[::-1]
        error: BaseException | None = None
        while methods:
            try:
                while methods:
                    _call(*methods[-1])
                    methods.pop()
            except Exception as problem:  # noqa: BLE001  without the others, users would wait for ever
                error = error or problem
                methods.pop()
            except BaseException as interrupt:  # noqa: BLE001  it is raised when all are called
                error = error or interrupt
        if error is not None:
            raise error


def _call(reference: weakref.ref[Any], function: Callable[[Any], Any]) -> None:
    if (target := reference()) is not None:
        function(target)


_before, _parent, _locks, _child = _Hooks(), _Hooks(), _Hooks(), _Hooks()
_generation: object = object()  # another one in each process


def this_process() -> object:
    """Return an object that stands for this process. A forked child has another one."""
    return _generation


def in_child(method: Hook) -> None:
    """Call a bound method in each forked child, as long as its object lives.

    It must not wait for a lock: the thread that holds the lock does not exist in the child. If Ctrl-C ends
    it half done, it is called again.
    """
    _child.add(method)


def around_fork(*, before: Hook, in_parent: Hook | None = None) -> None:
    """Call bound methods in the parent before each fork and after it, as long as their object lives."""
    _before.add(before)
    if in_parent is not None:
        _parent.add(in_parent)


class ProcessLock(RLock):  # type: ignore[misc]  # final in the stubs alone
    """A lock between the threads of one process. In a forked child it is free, whoever held it at the fork.

    Use it by ``with`` alone: it is entered and left in C, so that no exception, such as that of Ctrl-C, comes
    between the lock and the block. It guards single operations on a dict or list, which no fork and no
    signal's handler finds half done. A handler or a finalizer that runs in the thread that holds the lock
    does not wait for it. A class whose state changes in several steps registers `in_child` as well.
    """

    __slots__ = ()

    def __init__(self) -> None:
        _locks.add(self._begin_in_child)

    def _begin_in_child(self) -> None:
        if not self._is_owned():  # type: ignore[attr-defined]  # not in the stubs
            self._at_fork_reinit()  # type: ignore[attr-defined]  # the same; `threading` itself does so
        # a thread that forked inside the block goes on to its end, and leaves it


class User(Protocol):
    """What uses a thing behind a `ForkGate`."""

    def is_running(self) -> bool:
        """Return whether it still does; an interrupted one may never have said that it does not."""

    def abandon(self) -> None:
        """Give up what it has; it runs no more."""


class _Fork:
    """A fork of this thread: it is under way while the function that forks stands at that call."""

    __slots__ = ("_frame", "_place", "thread")

    def __init__(self) -> None:
        self.thread = get_ident()
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame.f_code.co_filename == __file__:
            frame = frame.f_back
        self._frame, self._place = frame, None if frame is None else frame.f_lasti

    def is_under_way(self) -> bool:
        if self._frame is None:  # a thread that runs nothing but the fork
            return self.thread in sys._current_frames()
        return self._frame.f_lasti == self._place and is_running(self._frame, self.thread)


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
            if not self._forks or not self._others_fork():
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

    def _others_fork(self) -> bool:
        """Return whether another thread forks, and forget the forks that were interrupted.

        A handler that runs in a thread that is about to fork is done before the fork.
        """
        for fork in list(self._forks):
            if not fork.is_under_way():
                self._forks.pop(fork, None)
        return any(fork.thread != get_ident() for fork in list(self._forks))

    def _renew(self) -> None:
        self._users: dict[int, User] = {}
        self._forks: dict[_Fork, None] = {}

    def _close(self) -> None:
        self._forks[_Fork()] = None
        end = time.monotonic() + self._seconds
        while self.is_in_use() and time.monotonic() < end:
            time.sleep(LOOK)

    def _open(self) -> None:
        for fork in list(self._forks):
            if fork.thread == get_ident():
                self._forks.pop(fork, None)

    def _renew_in_child(self) -> None:
        self.was_in_use = self.was_in_use or bool(self._users)  # it may be called again
        self._renew()


def _begin_child() -> None:
    global _generation
    _generation = object()
    try:
        _locks.run()
    finally:
        _child.run()


os.register_at_fork(before=_before.run, after_in_parent=_parent.run, after_in_child=_begin_child)
