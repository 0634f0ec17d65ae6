"""The file of an audit log, as one operating-system process holds it: lock it, find its end, write a record.

A log that was renamed or deleted (rotated away) is begun anew at its path. The first record of the new file
holds the head of the old one.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from agentguard.audit.chain import GENESIS, Head, continued, parse, seal

__all__ = ["Appender", "LockedTooLong", "last_head"]

log = logging.getLogger("agentguard")

BLOCK = 65_536  # bytes of the file's end that are read at first to find the last record


class LockedTooLong(OSError):
    """The log was locked for longer than the record may wait."""

    def __init__(self) -> None:
        super().__init__(None, "the audit log was locked for too long")


class _Tail(NamedTuple):
    """The end of a file: its last record, and the torn line that a crash left after it."""

    head: Head
    torn: bytes
    whole: bool  # whether the last line has its newline


class Appender:
    """The open file of one operating-system process, and the end of the file as this process knows it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.executor = ThreadPoolExecutor(1, "agentguard-audit")
        self._lock = Lock()
        self._file: int | None = None
        self._size = -1  # the file's size after this process's last write; if it differs, the end is read
        self._head = GENESIS

    def open(self) -> int:
        """Return the file's descriptor, and open the file first if it is not open."""
        if self._file is None:
            self._file = _open(self.path)
        return self._file

    def append(self, record: Mapping[str, Any], *, fsync: bool, seconds: Callable[[], float]) -> None:
        """Write one record. *seconds* says how long this may still wait; 0 or less is a refusal.

        *seconds* is asked again once the lock is taken. So a record that is appended after its caller has
        given up comes after the record that the caller gave up.

        Raises:
            LockedTooLong: The lock was not free in time, or the caller has given up.
            OSError: The file cannot be written.
        """
        deadline = time.monotonic() + seconds()

        def remaining() -> float:
            return min(deadline - time.monotonic(), seconds())

        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise LockedTooLong
        try:
            file, status = self._locked(remaining, record["at"])
            try:
                if seconds() <= 0:
                    raise LockedTooLong
                self._append(file, status.st_size, record)
                if fsync:
                    os.fsync(file)
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)
        finally:
            self._lock.release()

    def abandon(self) -> None:
        """Close the file at once. Nothing that is queued is waited for."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def close(self) -> None:
        """Write the queued records, then close the file."""
        self.executor.shutdown()
        with self._lock:
            self.abandon()
            self._size = -1

    def _locked(self, remaining: Callable[[], float], at: str) -> tuple[int, os.stat_result]:
        """Return the locked file that is at the path, and its status; move to a new one if need be."""
        file = self.open()
        _lock_file(file, remaining)
        try:
            while not _is_at(self.path, status := os.fstat(file)):
                file = self._move(file, status.st_size, remaining, at)
        except BaseException:
            fcntl.flock(file, fcntl.LOCK_UN)
            raise
        return file, status

    def _move(self, old: int, size: int, remaining: Callable[[], float], at: str) -> int:
        """Continue the log in the file that is at its path now, or in a new one; return that file, locked."""
        head = _tail(old, size).head
        new = _open(self.path)
        try:
            _lock_file(new, remaining)
            new_size = os.fstat(new).st_size
            at_path = _is_at(self.path, os.fstat(new))
            if at_path and head != GENESIS and _first_continued(new) != head:
                self._size = -1
                self._append(new, new_size, {"at": at, "event": "continued", "continues": str(head)})
        except BaseException:
            os.close(new)
            raise
        if not at_path:  # the new file was moved too: the caller tries again, and still knows the old one
            os.close(new)
            return old
        log.warning("%s was moved or deleted; the file there now continues it after %s", self.path, head)
        os.close(old)  # and with it the lock of the old file
        self._file, self._size = new, -1
        return new

    def _append(self, file: int, size: int, record: Mapping[str, Any]) -> None:
        head, before = self._head, b""
        if size != self._size:
            head, before = _resume(file, size, record["at"])
        line, head = seal(record, head)
        line = before + line
        self._size = -1
        if os.write(file, line) != len(line):
            raise OSError(None, "no space left for a whole record")
        self._size, self._head = size + len(line), head


def last_head(path: Path) -> Head:
    """Return the head of the last record of a log.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return _tail(file.fileno(), os.fstat(file.fileno()).st_size).head


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_at(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), status)
    except FileNotFoundError:
        return False


def _first_continued(file: int) -> Head | None:
    record = parse(os.pread(file, BLOCK, 0).partition(b"\n")[0])
    return None if record is None else continued(record)


def _lock_file(file: int, remaining: Callable[[], float]) -> None:
    """Take the lock of a file, which another process may hold, until no seconds are *remaining*."""
    pause = 0.0001
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if (seconds := remaining()) <= 0:
                raise LockedTooLong from None
        else:
            return
        time.sleep(min(pause, seconds))
        pause = min(2 * pause, 0.01)


def _resume(file: int, size: int, at: str) -> tuple[Head, bytes]:
    """Return the head of the next record, and the bytes to write before it to seal a torn line."""
    tail = _tail(file, size)
    if tail.whole and not tail.torn:
        return tail.head, b""
    line, head = seal({"at": at, "event": "torn", "torn": hashlib.sha256(tail.torn).hexdigest()}, tail.head)
    return head, line if tail.whole else b"\n" + line


def _tail(file: int, size: int) -> _Tail:
    block = BLOCK
    while True:
        start = max(0, size - block)
        data = os.pread(file, size - start, start)
        whole = data.endswith(b"\n") or not data
        lines = data.removesuffix(b"\n").split(b"\n")
        # the first line may be the end of a longer one; that never parses, since its quotes do not match
        for index in range(len(lines) - 1, -1, -1):
            record = parse(lines[index])
            if record is not None:
                return _tail_after(record, lines[index:], whole)
        if start == 0:
            return _Tail(GENESIS, data.removesuffix(b"\n"), whole)
        block *= 8


def _tail_after(record: dict[str, Any], lines: list[bytes], whole: bool) -> _Tail:
    head = Head(record["seq"], record["hash"])
    torn = lines[1:] if whole or len(lines) > 1 else lines
    return _Tail(head, b"\n".join(torn), whole)
