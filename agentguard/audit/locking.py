"""The lock of a log's file, which the processes that write it share."""

from __future__ import annotations

import fcntl
from collections.abc import Callable

from agentguard.concurrency.waiting import pause

__all__ = ["LockedTooLong", "lock_file"]


class LockedTooLong(OSError):
    """The log was locked for longer than the record may wait."""

    def __init__(self) -> None:
        super().__init__(None, "the audit log was locked for too long")


def lock_file(file: int, seconds: Callable[[], float]) -> None:
    """Take the lock of a file, which another process may hold, until there are no *seconds* left."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if (remaining := seconds()) <= 0:
                raise LockedTooLong from None
        else:
            return
        pause(remaining)
