"""The file of an audit log, as one operating-system process holds it: lock it, find its end, write a record.

A log that was renamed or deleted (rotated away) is begun anew at its path. The first record of the new file
holds the head of the old one. With a `Rotation` this process does that itself at a limit. A log that was cut
in its place (`copytruncate` of logrotate) goes on with a record `cut`, which holds the last head that this
process had written: it does not verify as sound.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from agentguard.audit.chain import GENESIS, Head, seal
from agentguard.audit.file_end import begins_with, ends_at, resume, tail_of
from agentguard.audit.files import Predecessor, follows, name_of
from agentguard.audit.rotation import Rotation
from agentguard.audit.succession import begun_anew, is_empty, moved, newest_after, tell_moved
from agentguard.concurrency.file_lock import LockedTooLong, lock_file
from agentguard.concurrency.owned_lock import OwnedLock, owner_here

__all__ = ["Appender"]

log = logging.getLogger("agentguard")

T = TypeVar("T")
OWED = 4096  # records that a process keeps in memory until they can be written


class _End(NamedTuple):
    """Where this process's last record ends in the file, and that record."""

    offset: int
    head: Head


class _File(NamedTuple):
    """An open file, and what says whether it is the one at the path."""

    descriptor: int
    device: int
    inode: int

    @classmethod
    def open_at(cls, path: Path) -> _File:
        """Open the file at the path, or make it."""
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        status = os.fstat(descriptor)
        return cls(descriptor, status.st_dev, status.st_ino)

    def size_at(self, path: str) -> int | None:
        """Return the size of this file, if it is the one at the path."""
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
        # an open file keeps its inode: a file with the same one is this file
        return status.st_size if (status.st_ino, status.st_dev) == (self.inode, self.device) else None


class Appender:
    """The open file of one operating-system process, and its end as this process knows it.

    Records that could not be written (`owe`) come before the next one. Beyond 4096 a record `lost` counts.
    """

    def __init__(self, path: Path, rotation: Rotation | None = None) -> None:
        self.path, self._path, self._rotation = path, str(path), rotation
        self.executor = ThreadPoolExecutor(1, "agentguard-audit")
        self._lock = OwnedLock()
        self._file: _File | None = None
        self._size = -1  # the file's size after this process's last write; if it differs, the end is read
        self._head = GENESIS
        self._end: _End | None = None
        self._owed: deque[Mapping[str, Any]] = deque()
        self._lost = 0

    def open(self) -> _File:
        """Return the file, and open it first if it is not open."""
        if self._file is None:
            self._file = _File.open_at(self.path)
        return self._file

    def append(self, record: Mapping[str, Any], *, fsync: bool, seconds: Callable[[], float]) -> None:
        """Write one record, after those that are owed. *seconds* says how long this may still wait.

        *seconds* is asked again once the locks are taken; 0 or less is a refusal. So a record that is
        appended after its caller has given up comes after the record that the caller gave up.

        Raises:
            LockedTooLong: The lock was not free in time, or the caller has given up.
            OSError: The file cannot be written.
        """
        self._do_locked(partial(self._write, record, fsync, seconds), seconds, record["at"])

    def _write(
        self, record: Mapping[str, Any], fsync: bool, seconds: Callable[[], float], file: int, size: int
    ) -> None:
        if seconds() <= 0:
            raise LockedTooLong
        if self._owed or self._lost:
            size = self._append_owed(file, size, record["at"])
        self._append(file, size, record)
        if fsync:
            os.fsync(file)

    def owe(self, record: Mapping[str, Any]) -> None:
        """Keep a record that could not be written. It is written before the next one that can be."""
        if len(self._owed) < OWED:
            self._owed.append(record)
        else:
            self._lost += 1

    def count_owed(self) -> int:
        """Return the number of records that could not be written yet."""
        return len(self._owed) + self._lost

    def settle(self, *, fsync: bool, seconds: Callable[[], float]) -> None:
        """Write what is owed.

        Raises:
            LockedTooLong: The lock was not free in time.
            OSError: The file cannot be written.
        """
        if not self._owed:
            return
        at = self._owed[0]["at"]

        def write(file: int, size: int) -> None:
            self._append_owed(file, size, at)
            if fsync:
                os.fsync(file)

        self._do_locked(write, seconds, at)

    def rotate(self, rotation: Rotation, at: str, seconds: Callable[[], float]) -> Path | None:
        """Rotate the file now; return the old file's new name, or None if it has no record.

        Raises:
            LockedTooLong: The lock was not free in time.
            OSError: It was not done.
        """
        return self._do_locked(lambda file, size: rotation.rotate(file, size, at), seconds, at)

    def abandon(self) -> None:
        """Close the file at once. Nothing that is queued is waited for."""
        if self._file is not None:
            os.close(self._file.descriptor)
            self._file = None

    __del__ = abandon  # of a log that nobody has closed: a thread that writes would hold this object

    def close(self, *, fsync: bool) -> None:
        """Write the queued records and those that are owed, then close the file."""
        self.executor.shutdown()
        try:
            self.settle(fsync=fsync, seconds=lambda: 0.0)
        except OSError as error:
            lost = self.count_owed()
            log.error("%s: %d records were never written and are lost: %s", self.path, lost, error.strerror)
        if self._lock.acquire(owner_here(), lambda: inf):
            try:
                self.abandon()
                self._size = -1
            finally:
                self._lock.release()

    def _do_locked(self, work: Callable[[int, int], T], seconds: Callable[[], float], at: str) -> T:
        """Lock this object and the file, in this order, and call *work* with the descriptor and the size.

        Whatever is raised, at whichever line, the file is not locked when this is over: it would be for every
        process. If this object still is, the next one who wants it sees that its owner runs no more.
        """
        owner = owner_here()
        if not self._lock.acquire(owner, seconds):
            raise LockedTooLong
        try:
            file, size = self._locked(seconds, at)
            answer = work(file, size)
            fcntl.flock(file, fcntl.LOCK_UN)
            return answer
        except BaseException:
            try:
                self._unlock_file()
            finally:  # also if the one exception has come in the line above
                self._unlock_file()
            raise
        finally:
            self._lock.release()
            del owner  # it refers to this frame

    def _unlock_file(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file.descriptor, fcntl.LOCK_UN)

    def _locked(self, seconds: Callable[[], float], at: str) -> tuple[int, int]:
        """Lock the file that is at the path, and return it and its size; move to a new one if need be."""
        file = self.open()
        lock_file(file.descriptor, seconds)
        size = file.size_at(self._path)
        if size is not None and self._rotation is not None and self._rotation.is_due(file, size):
            size = None if self._rotation.try_rotate(file.descriptor, size, at) else size
        while size is None:
            file = self._move(file, seconds, at)
            size = file.size_at(self._path)
        return file.descriptor, size

    def _move(self, old: _File, seconds: Callable[[], float], at: str) -> _File:
        """Continue the log in the file that is at its path now, or in a new one; return that file, locked.

        Others may have continued the old file meanwhile, and renamed theirs: a new file continues the newest.
        """
        end, size, file = self._end, os.fstat(old.descriptor).st_size, old.descriptor
        head = tail_of(file, size).head if end is None or ends_at(file, end.offset, end.head) else end.head
        if not is_empty(self.path):
            return self._move_to(old, Predecessor(head, name_of(file)), seconds, at, may_be_empty=False)
        with newest_after(self.path, file, head, seconds) as newest:  # before the new one is locked
            return self._move_to(old, newest, seconds, at, may_be_empty=True)

    def _move_to(
        self,
        old: _File,
        newest: Predecessor,
        seconds: Callable[[], float],
        at: str,
        *,
        may_be_empty: bool,
    ) -> _File:
        size, file, head = os.fstat(old.descriptor).st_size, old.descriptor, newest.head
        new, copy = _File.open_at(self.path), False
        try:
            lock_file(new.descriptor, seconds)
            new_size = new.size_at(self._path)
            if new_size == 0 and not may_be_empty:
                new_size = None  # what was there was moved, too
            continues = head == GENESIS or follows(self.path, new.descriptor, head)
            if new_size is not None and not continues:
                self._size, self._end = -1, None
                copy = 0 < new_size < size and begins_with(old.descriptor, new.descriptor, new_size)
                self._append(new.descriptor, new_size, moved(at, newest, copy=copy))
            if new_size is not None:
                fcntl.flock(file, fcntl.LOCK_UN)  # first: whoever waits for it finds that it was moved
                self._file, self._size, self._end = new, -1, None
        except BaseException:
            if self._file is not new:
                os.close(new.descriptor)
            raise
        if new_size is None:  # it was moved too: the caller tries again, and still knows the old one
            os.close(new.descriptor)
            return old
        if not continues:
            tell_moved(self.path, head, copy=copy)
        os.close(file)
        return new

    def _append_owed(self, file: int, size: int, at: str) -> int:
        """Write the records that are owed; return the file's size."""
        while self._owed:
            try:
                size = self._append(file, size, self._owed[0])
            except ValueError as error:
                log.error("%s: a record is lost, as it has no JSON form: %s", self.path, error)
            self._owed.popleft()
        if self._lost:
            record = {"at": at, "event": "lost", "records": self._lost}
            size, self._lost = self._append(file, size, record), 0
        return size

    def _append(self, file: int, size: int, record: Mapping[str, Any]) -> int:
        head, before = (self._head, b"") if size == self._size else self._find_head(file, size, record)
        line, head = seal(record, head)
        line = before + line
        self._size = -1
        if os.write(file, line) != len(line):
            raise OSError(None, "no space left for a whole record")
        self._size, self._head = size + len(line), head
        self._end = _End(self._size, head)
        return self._size

    def _find_head(self, file: int, size: int, record: Mapping[str, Any]) -> tuple[Head, bytes]:
        """Do as `resume` in a file that somebody else has changed or renamed; say so if it was cut."""
        at, end = record["at"], self._end
        head, before = resume(file, size, at)
        if end is not None and not ends_at(file, end.offset, end.head):
            log.error("%s was cut under this process, which had written up to %s", self.path, end.head)
            line, head = seal({"at": at, "event": "cut", "after": str(end.head)}, head)
            before += line
        elif not size and record.get("event") != "continued" and (first := begun_anew(at, self.path)):
            before, head = seal(first, GENESIS)
        return head, before
