"""What an object does in a child that was forked while other threads of the parent used it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["in_child"]

_children: list[weakref.WeakMethod[Callable[[], Any]]] = []


def in_child(method: Callable[[], Any]) -> None:
    """Call a bound method in each forked child, as long as its object lives.

    It must not wait for a lock: the thread that holds the lock does not exist in the child.
    """
    _children.append(weakref.WeakMethod(method, _forget))


def _forget(method: weakref.WeakMethod[Callable[[], Any]]) -> None:
    with suppress(ValueError):
        _children.remove(method)


def _run() -> None:
    for reference in _children:
        if (method := reference()) is not None:
            method()


os.register_at_fork(after_in_child=_run)
