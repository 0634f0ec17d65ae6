"""The lock of an audit log's file, which several processes take in turn."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable

__all__ = ["LockedTooLong", "lock_file"]


class LockedTooLong(OSError):
    """The log was locked for longer than the record may wait."""

    def __init__(self) -> None:
        super().__init__(None, "the audit log was locked for too long")


def lock_file(file: int, seconds: Callable[[], float]) -> None:
    """Take the lock of a file, which another process may hold, until there are no *seconds* left."""
    pause = 0.0001
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if (remaining := seconds()) <= 0:
                raise LockedTooLong from None
        else:
            return
        time.sleep(min(pause, remaining))
        pause = min(2 * pause, 0.01)
