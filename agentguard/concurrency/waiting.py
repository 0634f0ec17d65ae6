"""How threads and processes wait for what others have, so that nobody is passed by for long."""

from __future__ import annotations

from math import inf
from queue import SimpleQueue
from random import SystemRandom
from time import monotonic, sleep

__all__ = ["LOOK", "PATIENCE", "Waiter", "pause"]

_random = SystemRandom()  # forked children would else wait alike, and threads would change the application's
LOOK = 0.05  # seconds after which one who waits looks whether the owner still runs
PATIENCE = 0.01  # seconds for which others may go first
SHORTEST, LONGEST = 0.0005, 0.002
"""Seconds between two attempts at a file's lock. If they grew, who waits long would meet the fewest gaps."""


class Waiter:
    """Since when one waits, and how it is told to look again."""

    __slots__ = ("news", "since")

    def __init__(self) -> None:
        self.news, self.since = SimpleQueue[None](), monotonic()

    @property
    def is_impatient(self) -> bool:
        """Whether it has waited so long that nobody who came later may go first."""
        return monotonic() - self.since >= PATIENCE


def pause(most: float = inf) -> None:
    """Wait until the next attempt at the lock of a file, at most so many seconds."""
    sleep(min(_random.uniform(SHORTEST, LONGEST), most))
