"""What goes wrong with the file of a store: errors of SQLite, and a file that is not the same any more."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from time import monotonic

from agentguard.errors import StoreError

__all__ = ["FileWatch", "store_error"]

INTERVAL = 0.005
"""Seconds for which a file counts as sound once it was looked at: the transactions of one call look once."""

HINTS = {  # by SQLite's primary result code
    sqlite3.SQLITE_BUSY: "another process holds the file: end it, or wait until it is done",
    sqlite3.SQLITE_LOCKED: "another process holds the file: end it, or wait until it is done",
    sqlite3.SQLITE_FULL: "make room on the disk",
    sqlite3.SQLITE_IOERR: "look after the disk: SQLite cannot read or write it",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: move it away, or put a copy of it back",
    sqlite3.SQLITE_NOTADB: "the file is no store of agentguard: name another file, or move this one away",
    sqlite3.SQLITE_READONLY: "let this process write to the file and to its directory",
    sqlite3.SQLITE_CANTOPEN: "correct the path, or the permissions of its directory",
}

_NUMBER = "SELECT key, write_number FROM calls WHERE id = '~'"
_NEXT = "UPDATE calls SET write_number = ? WHERE id = '~' AND write_number = ? AND key = ?"


def store_error(path: Path, error: sqlite3.Error) -> StoreError:
    """Return what went wrong in SQLite's words, and what an operator can do about it."""
    code = getattr(error, "sqlite_errorcode", None)  # an error of Python's own module has none
    return StoreError(f"{path}: {error}", hint="" if code is None else HINTS.get(code & 0xFF, ""))


class FileWatch:
    """Notices that the file, or its log, was removed, emptied or replaced, or rolled back to an older copy.

    SQLite itself goes on in a file that nobody else can open any more. Each write has a number in the file,
    which only grows; a copy that is older has a smaller one. Once noticed, a fault is reported by each use.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._log = os.fspath(path), f"{path}-wal"
        self._file: tuple[int, int] | None = None
        self._sound_until = 0.0
        self._identity, self._last, self._fault = "", 0, ""

    def begin(self, connection: sqlite3.Connection) -> None:
        """Watch the file from now on, of which this is a connection."""
        self._identity, self._last = connection.execute(_NUMBER).fetchone()
        self._file = self._file_id()

    def check(self, log: int | None) -> None:
        """Refuse a file that is not the same any more, and a *log* that is not the one of a connection.

        While a connection is open, nobody may remove its log. A connection that is new has none.

        Raises:
            StoreError: File or log was removed, emptied or replaced.
        """
        if self._fault:
            raise self._error(self._fault)
        now = monotonic()
        if log is not None and now < self._sound_until:
            return
        if self._file is not None and self._file_id() != self._file:
            raise self._error("the file was removed or replaced under this process")
        if log is not None:
            if self.log_id() != log:
                raise self._error("its write-ahead log was removed or replaced under this process")
            self._sound_until = now + INTERVAL

    def log_id(self) -> int | None:
        """Return what names the log, or None if there is none."""
        try:
            return os.stat(self._log).st_ino
        except OSError:
            return None

    def next_number(self, connection: sqlite3.Connection) -> int:
        """Return the number of a write transaction that has begun, which is the next of this file.

        Raises:
            StoreError: It is not greater than those before: the file is another, or an older copy.
        """
        number = self._last + 1
        if not connection.execute(_NEXT, (number, self._last, self._identity)).rowcount:
            # another thread or process has written since: look for the number
            identity, before = connection.execute(_NUMBER).fetchone()
            if identity != self._identity or before < self._last:
                raise self._error("the file was replaced, or rolled back to an older copy")
            number = before + 1
            connection.execute(_NEXT, (number, before, identity))
        return number

    def committed(self, number: int) -> None:
        """Note the number of a write that is in the file."""
        self._last = max(self._last, number)

    def _file_id(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return (status.st_dev, status.st_ino) if status.st_size else None

    def _error(self, fault: str) -> StoreError:
        self._fault = fault  # for good: a new connection would see a sound file, without what was lost
        hint = "what this process has recorded may be lost: end it, look for the file, and start it anew"
        return StoreError(f"{self._path}: {fault}", hint=hint)
