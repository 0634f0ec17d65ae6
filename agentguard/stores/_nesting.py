"""Code that runs within other code of its thread: a signal's handler, or what the garbage collector calls.

Such code may meet an operation of a store half done. Waiting for it would be for ever. An operation that an
exception has ended, such as that of Ctrl-C, looks the same, but its frame runs no more.
"""

from __future__ import annotations

import sys
from threading import get_ident
from types import FrameType

from agentguard.concurrency.running import is_running
from agentguard.errors import StoreError

__all__ = ["Change", "nested"]


def nested() -> StoreError:
    """Return the error of an operation that runs within another one."""
    return StoreError(
        "this thread is within another operation of the store",
        hint="use no store in a signal's handler, and end tasks before their objects are collected",
    )


class Change:
    """A block that changes state in several steps, which no other such block of the thread may run within.

    Raises:
        StoreError: This block runs within another.
    """

    __slots__ = ("_frame",)

    def __init__(self) -> None:
        self._frame: FrameType | None = None

    def __enter__(self) -> None:
        if self._frame is not None and is_running(self._frame, get_ident()):
            raise nested()
        self._frame = sys._getframe(1)

    def __exit__(self, *_: object) -> None:
        self._frame = None
