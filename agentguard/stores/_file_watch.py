"""What goes wrong with the file of a store: errors of SQLite, and a file that is not the same any more."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

from agentguard.errors import StoreError
from agentguard.stores._connection import Connection
from agentguard.stores._main_file import CopiedWrites, Finding

__all__ = ["INTERVAL", "FileWatch", "LogFiles", "store_error"]

INTERVAL = 0.005
"""Seconds for which a reader believes that a file is sound once it was looked at."""

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

_ROW = (
    "SELECT key, write_number, CAST(path AS INTEGER), CAST(coalesce(approval_id, 0) AS INTEGER), tool"
    " FROM calls WHERE id = '~'"
)
_NEXT = "UPDATE calls SET write_number = ? WHERE id = '~' AND write_number = ? AND key = ? AND tool = ''"
_COPIED = "UPDATE calls SET path = :number WHERE id = '~' AND CAST(path AS INTEGER) < :number"
_FAULT = "UPDATE calls SET tool = ? WHERE id = '~'"
_ANEW = "what this process has recorded may be lost: end it, look for the file, and start it anew"
_RESTORE = "stop all processes, remove the log (-wal, -shm), and then put a sound copy there"
_PASSING = {  # what says nothing of the file
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL,
}  # fmt: skip
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_LOOKS = 5  # at a file that is being overwritten
_PAUSE = 0.02  # seconds between them
_OVERWRITTEN = "the file was rolled back to an older copy, or overwritten by another store, beside its log"


def store_error(path: Path, error: sqlite3.Error) -> StoreError:
    """Return what went wrong in SQLite's words, and what an operator can do about it."""
    code = getattr(error, "sqlite_errorcode", None)  # an error of Python's own module has none
    return StoreError(f"{path}: {error}", hint="" if code is None else HINTS.get(code & 0xFF, ""))


class LogFiles(NamedTuple):
    """What names the write-ahead log of a connection, and the shared memory with the index of the log."""

    log: int
    shared_memory: int


class FileWatch:
    """Notices that the file, or its log, was removed, cut or replaced, or rolled back to an older copy.

    SQLite itself goes on in a file that nobody else can open any more. Each write has a number in the file,
    which only grows; a copy that is older has a smaller one. Once noticed, a fault is reported by each use.

    A copy may also be written into the same file beside its log (``cp backup.db store.db``). Then the number
    is in the log, and what a checkpoint has moved out of the log is lost. So the number in the file itself is
    looked at too (`CopiedWrites`), and each process can read which one that is at least. The log would be
    written over the copy when the last process closes the file, and nobody could tell any more. So this fault
    is written into the file: all processes refuse it, also those that begin later.

    Not noticed is an older copy without a log in which others have written more than this process knows of,
    nor one that comes while a reader keeps a checkpoint from its end: SQLite then copies some pages, and not
    the one with the number.
    To restore a copy, stop all processes, remove the log, and then put the copy there.

    Until `sound_until`, a time of `time.monotonic`, a reader believes that the file is sound.
    """

    def __init__(self, path: Path) -> None:
        real = os.path.realpath(path)  # SQLite names the log after the file that a link leads to
        self._path, self._log, self._shared_memory = os.fspath(path), f"{real}-wal", f"{real}-shm"
        self._file: tuple[int, int] | None = None
        self._file_size = self._log_size = 0
        self.sound_until = 0.0
        self._identity, self._last, self._fault, self._hint = "", 0, "", ""
        self._is_owed = False  # whether the fault is yet to be written into the file
        self._copied, self._copied_on_record = CopiedWrites(real), 0

    def begin(self, connection: sqlite3.Connection) -> None:
        """Watch the file from now on, of which this is a connection."""
        status = os.stat(self._path)
        self._file = status.st_dev, status.st_ino
        self._copied.note(status)
        self._identity = connection.execute(_ROW).fetchone()[0]
        self._require_number(connection, 0)

    def check(self, log: LogFiles | None, connection: sqlite3.Connection) -> None:
        """Do as `look`, at most once in 5 ms, and read the number, for one that will not write it.

        Of a new connection the number is read in any case, once the file has one.

        Raises:
            StoreError: The file is not the same any more.
        """
        if log is None and not self._identity:
            return
        if log is not None and monotonic() < self.sound_until and not self._fault:
            return
        last = self._last  # before it is read: another thread may write meanwhile
        self.look(log)
        self._require_number(connection, last)

    def look(self, log: LogFiles | None) -> None:
        """Refuse a file that is not the same any more, and a *log* that is not the one of a connection.

        While a connection is open, nobody may remove its log. A connection that is new has none. Each write
        looks first. So the usual case, in which all files are the same and none is shorter, comes first.

        Raises:
            StoreError: File or log was removed, cut or replaced.
        """
        if log is not None and not self._fault:
            try:
                file, wal, memory = os.stat(self._path), os.stat(self._log), os.stat(self._shared_memory)
            except OSError:
                return self._look_closer(log)
            size, log_size = file.st_size, wal.st_size
            if (
                size >= self._file_size > 0
                and log_size >= self._log_size
                and wal.st_ino == log.log
                and memory.st_ino == log.shared_memory
                and (file.st_dev, file.st_ino) == self._file
                and self._copied.is_as_it_was(file)
            ):
                self._file_size, self._log_size = size, log_size
                self.sound_until = monotonic() + INTERVAL
                return None
        return self._look_closer(log)

    def _look_closer(self, log: LogFiles | None) -> None:
        if self._fault:
            if self._is_owed:
                self._write_down(self._fault)
            raise self._error(self._fault, self._hint)
        status = _status(self._path)
        if self._file is not None and (status is None or (status.st_dev, status.st_ino) != self._file):
            raise self._error("the file was removed or replaced under this process")
        if self._file is not None and status is not None and not status.st_size:
            raise self._overwritten("the file was emptied, removed or replaced under this process", _ANEW)
        log_status, size = _status(self._log), 0 if status is None else status.st_size
        log_size = 0 if log_status is None else log_status.st_size
        if log is not None and self._named(log_status) != log:
            raise self._error("its write-ahead log was removed or replaced under this process")
        if status is not None:
            self._copied.note(status)
        if size < self._file_size or (log is not None and log_size < self._log_size):
            # of a log that was emptied, the number is gone, unless a checkpoint has copied it
            is_cut = log is not None and 0 < log_size < self._log_size
            self._verify(all_of_it=is_cut, in_place=size < self._file_size)
        self._file_size, self._log_size = size, log_size
        self.sound_until = monotonic() + INTERVAL

    def log_files(self) -> LogFiles | None:
        """Return what names the log and its shared memory, or None if there is none."""
        return self._named(_status(self._log))

    def next_number(self, connection: Connection) -> int:
        """Return the number of a write transaction that has begun, which is the next of this file.

        Raises:
            StoreError: It is not greater than those before: the file is another, or an older copy.
        """
        number, copied = self._last + 1, self._copied
        if (
            copied.is_unread
            or copied.number > self._copied_on_record
            or not connection.write(_NEXT, (number, self._last, self._identity)).rowcount
        ):
            # another thread or process, or a checkpoint, has written since: look for the number
            before = self._require_number(connection, self._last)
            number = before + 1
            connection.write(_NEXT, (number, before, self._identity))
            if copied.number > self._copied_on_record:
                connection.write(_COPIED, {"number": copied.number})
        return number

    def committed(self, number: int, connection: Connection) -> None:
        """Note the number of a write that is in the file, and which one is known to have left the log."""
        self._note_last(number)
        status = _status(self._path)
        if status is None or not self._copied.note(status):
            return
        self._copied.learn(self._identity)
        if self._copied.number > self._copied_on_record:
            with suppress(sqlite3.Error):  # while others write, they or the next write do it
                sqlite3.Connection.execute(connection, _COPIED, {"number": self._copied.number})

    def _note_last(self, number: int) -> None:
        if number > self._last:
            self._last = number

    def _named(self, log: os.stat_result | None) -> LogFiles | None:
        memory = _status(self._shared_memory)
        return None if log is None or memory is None else LogFiles(log.st_ino, memory.st_ino)

    def _require_number(self, connection: sqlite3.Connection, last: int) -> int:
        row = connection.execute(_ROW).fetchone() or ("", 0, 0, 0, "")
        identity, number, self._copied_on_record, cookie, fault = row
        if fault:
            raise self._error(fault, _RESTORE)
        is_older = identity != self._identity or number < last
        if self._copied.is_unread:
            self._require_main_file(connection, last, cookie, is_older=is_older)
        if is_older:
            raise self._error("the file was replaced, or rolled back to an older copy")
        self._note_last(number)
        return int(number)

    def _require_main_file(
        self, connection: sqlite3.Connection, last: int, cookie: int, *, is_older: bool
    ) -> None:
        """Refuse a file that was overwritten beside its log, and write that down for all processes.

        A connection that has read before goes on with the pages that it has. So a new one reads the number
        too: where all of the log was copied, it reads the file.
        """
        finding = self._copied.read(self._identity, self._copied_on_record, cookie)
        if not is_older and finding is not Finding.OVERWRITTEN:
            try:
                with closing(sqlite3.connect(self._path, timeout=1.0)) as new:
                    identity, number, *_ = new.execute(_ROW).fetchone() or ("", 0)
            except sqlite3.Error:
                self._copied.unread()
                raise
            is_older = identity != self._identity or number < last
        if is_older or finding is Finding.OVERWRITTEN:
            connection.rollback()
            raise self._overwritten(_OVERWRITTEN)
        if finding is Finding.UNCLEAR:
            self._verify(all_of_it=True, in_place=True)

    def _verify(self, *, all_of_it: bool, in_place: bool) -> None:
        """Look into a file that is shorter than it was: an operator's VACUUM or checkpoint is no fault.

        With *in_place* the file itself has changed, and not its log alone.
        """
        last, problem = self._last, "ok"
        try:
            with closing(sqlite3.connect(self._path, timeout=1.0, isolation_level=None)) as connection:
                self._require_number(connection, last)
                if all_of_it or self._copied.is_unread:
                    (problem,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _PASSING:
                raise store_error(Path(self._path), error) from error
            problem, in_place = str(error), in_place and code in _DAMAGE
        if problem != "ok":
            text = f"the file or its log was cut under this process: {problem}"
            raise self._overwritten(text, _ANEW) if in_place else self._error(text)

    def _overwritten(self, fault: str, hint: str = _RESTORE) -> StoreError:
        """Note a fault of the file that is at its path, and write it down there.

        Who overwrites it may be at it still. Then each later use tries to write it down.
        """
        error = self._error(fault, hint)
        for _ in range(_LOOKS):
            if self._write_down(fault):
                break
            sleep(_PAUSE)
        return error

    def _write_down(self, fault: str) -> bool:
        """Write a fault into the file, for the processes that begin later; return whether that is done."""
        self._is_owed = True
        status = _status(self._path)
        if status is None or (status.st_dev, status.st_ino) != self._file or not status.st_size:
            return False
        with suppress(sqlite3.Error), closing(sqlite3.connect(self._path, timeout=0.1)) as new, new:
            self._is_owed = not new.execute(_FAULT, (fault,)).rowcount
        return not self._is_owed

    def _error(self, fault: str, hint: str = _ANEW) -> StoreError:
        # for good: a new connection would see a sound file, without what was lost
        self._fault, self._hint = fault, hint
        return StoreError(f"{self._path}: {fault}", hint=hint)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
