"""A connection to a SQLite file that gets its turn although others write all the time."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from time import monotonic
from typing import Any

from agentguard.concurrency.owned_lock import OwnedLock, owner_here
from agentguard.concurrency.waiting import pause

__all__ = ["Connection", "connect"]

CHECKPOINT = 4096  # pages in the log after which they are copied back: 4 MiB
_execute = sqlite3.Connection.execute  # by this name it costs a statement less than by `super`


class Connection(sqlite3.Connection):
    """A connection whose statements wait for the file, if others hold it, for at most *patience* seconds.

    SQLite's own waiting looks again after ever longer pauses of up to 0.1 seconds, so that a writer who has
    waited for long meets fewer gaps than those who come anew: among writers without a pause one waited for
    2.8 seconds. Here each pause is short and random, and one thread of a process looks, so that all
    processes have the same chance.
    """

    patience: float
    turn: OwnedLock
    write = _execute
    """Executes a statement of a write transaction, which has the file: it waits for nobody."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Execute a statement; only the first one of a transaction can meet a file that others hold."""
        try:
            return _execute(self, sql, parameters)
        except sqlite3.OperationalError as error:
            if self.in_transaction or not _is_busy(error):
                raise
            deadline = monotonic() + self.patience
            if not self.turn.acquire(owner_here(), lambda: deadline - monotonic()):
                raise
        try:
            return self._look_again(sql, parameters, deadline)
        finally:
            self.turn.release()

    def _look_again(self, sql: str, parameters: Any, deadline: float) -> sqlite3.Cursor:
        while True:
            is_last = monotonic() > deadline
            try:
                return _execute(self, sql, parameters)
            except sqlite3.OperationalError as error:
                if is_last or not _is_busy(error):
                    raise
            pause()


def connect(path: Path, patience: float, turn: OwnedLock) -> Connection:
    """Open a connection in autocommit mode, for any thread, that waits *patience* seconds for others.

    *turn* is the lock of those threads of this process that wait for the file.
    """
    connection = sqlite3.connect(
        path, timeout=0, isolation_level=None, check_same_thread=False, factory=Connection
    )
    connection.patience, connection.turn = patience, turn
    if not hasattr(connection, "write"):  # what traces SQLite may give its own class of connections
        connection.write = connection.execute  # type: ignore[method-assign]  # it is not our class
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
    except BaseException:
        connection.close()
        raise
    return connection


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
