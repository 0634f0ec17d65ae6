"""The lock of a file or a directory (`flock`), which the processes that change it share."""

from __future__ import annotations

import fcntl
from collections.abc import Callable

from agentguard.concurrency.waiting import pause

__all__ = ["LockedTooLong", "lock_file"]


class LockedTooLong(OSError):
    """A file was locked for longer than its caller may wait."""

    def __init__(self) -> None:
        super().__init__(None, "it was locked for too long")


def lock_file(file: int, seconds: Callable[[], float]) -> None:
    """Take the lock of an open file, which another process may hold; to close the file ends it too.

    Raises:
        LockedTooLong: It was not free before there were no *seconds* left.
        OSError: The file system has no such locks.
    """
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if (remaining := seconds()) <= 0:
                raise LockedTooLong from None
        else:
            return
        pause(remaining)
