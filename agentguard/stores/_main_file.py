"""What stands in a store's file itself, without the log beside it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from enum import Enum, auto
from time import monotonic, sleep
from typing import NamedTuple
from urllib.parse import quote

__all__ = ["CopiedWrites", "Finding"]

TICK = 0.03
"""Seconds within which a second change of a file may have the same time as the first one."""
LOOKS = 4  # at a file that a checkpoint may be changing
PAUSE = 0.05  # seconds between them
REST = 1.0  # seconds until a file that makes no sense without its log is looked into again
_ROW = "SELECT key, write_number FROM calls WHERE id = '~'"
_UNREADABLE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class MainFile(NamedTuple):
    """The identity of the file, the number of the last write that was copied to it, and its schema's cookie.

    SQLite changes the cookie with the tables, and when it arranges the pages anew, as VACUUM does.
    """

    identity: str
    number: int
    cookie: int


def _read(path: str) -> MainFile | None:
    """Read the file as if it had no log. Return None if that makes no sense.

    That is so while the file is new and all is in the log, and where the file is cut or is another's. A
    checkpoint that is under way may have copied some pages and not others: then it is so for a moment, or an
    older page is read. SQLite itself opens the file, since closing any other descriptor of it would drop the
    locks of this process. It takes no lock for this.

    Raises:
        sqlite3.Error: The file cannot be opened or read.
    """
    uri = f"file:{quote(os.path.abspath(path))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            (cookie,) = connection.execute("PRAGMA schema_version").fetchone()
            identity, number = connection.execute(_ROW).fetchone() or ("", None)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNREADABLE:
            return None
        raise
    return None if number is None else MainFile(identity, number, cookie)


class Finding(Enum):
    """What the file itself tells."""

    SOUND = auto()
    OVERWRITTEN = auto()
    """It is another store's, or lacks a write that was in it before."""
    UNCLEAR = auto()
    """It makes no sense without its log, or its pages were arranged anew: all of it has to be looked into."""


class CopiedWrites:
    """Which writes are known to stand in the file itself, since a checkpoint has copied them from the log.

    No checkpoint makes their number smaller. A copy of the file that is written into it beside its log does,
    if it is older than the last checkpoint; the log would hide that. A younger copy of the same pages changes
    nothing, since the log has all that was written after the checkpoint. So the file is read after each
    change of it, and once more when the clock of the file system has moved on.

    `number` is that of the last write that is known to be in the file. It is 0 while none is.
    """

    def __init__(self, path: str) -> None:
        self._path, self.number = path, 0
        self._changed_at = self._cookie = 0
        self._settles_at = self._rests_until = 0.0
        self._changes, self._read_changes = 1, 0

    @property
    def is_unread(self) -> bool:
        """Whether the file has changed since it was read."""
        return self._changes != self._read_changes

    def unread(self) -> None:
        """Have the file read again."""
        self._changes += 1

    def is_as_it_was(self, status: os.stat_result) -> bool:
        """Return whether nobody has written to the file since the last call of `note`."""
        return status.st_ctime_ns == self._changed_at and not self._settles_at

    def note(self, status: os.stat_result) -> bool:
        """Note and return whether somebody has written to the file, which a checkpoint does too."""
        has_changed = status.st_ctime_ns != self._changed_at
        if has_changed:
            self._changed_at, self._settles_at = status.st_ctime_ns, monotonic() + TICK
            self._changes += 1
        elif self._settles_at and monotonic() >= self._settles_at:
            self._settles_at = 0.0
            self._changes += 1
        return has_changed

    def learn(self, identity: str) -> None:
        """Read the number after a write of this process, which may have made a checkpoint; judge nothing.

        The file may be copied over before anybody uses the store again.
        """
        try:
            main = _read(self._path)
        except sqlite3.Error:  # whoever uses the store next reads it again
            return
        if main is not None and main.identity == identity and main.number > self.number:
            self.number = main.number

    def read(self, identity: str, copied: int, cookie: int) -> Finding:
        """Read the file, which has this *identity*, and in which the write of the number *copied* stands.

        *cookie* is that of a VACUUM of ours, after which nobody has to look into all of the file. One that
        makes no sense without its log is read again after a second, and is unread for so long.

        Raises:
            sqlite3.Error: The file cannot be opened or read.
        """
        least, changes, main = max(copied, self.number), self._changes, None
        if monotonic() < self._rests_until:
            return Finding.SOUND
        for look in range(LOOKS):
            if look:
                sleep(PAUSE)
            main = _read(self._path)
            if main is None and not least:
                self._read_changes = changes
                return Finding.SOUND
            if main is not None and main.identity == identity and main.number >= least:
                break
        else:
            if main is not None:
                return Finding.OVERWRITTEN
            self._rests_until = monotonic() + REST
            return Finding.UNCLEAR
        self.number, self._read_changes = main.number, changes
        before, self._cookie = self._cookie, main.cookie
        return Finding.SOUND if main.cookie in (before or main.cookie, cookie) else Finding.UNCLEAR
