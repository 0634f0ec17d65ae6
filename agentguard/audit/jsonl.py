"""The audit log as one append-only file of JSON lines."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from agentguard.audit.chain import GENESIS, Head, parse, seal
from agentguard.concurrency.fork import in_child
from agentguard.errors import AuditError

__all__ = ["JsonLinesAudit"]

BLOCK = 65_536  # bytes of the file's end that are read at first to find the last record


class _Tail(NamedTuple):
    """The end of a file: its last record, and the torn line that a crash left after it."""

    head: Head
    torn: bytes
    whole: bool  # whether the last line has its newline


class JsonLinesAudit:
    """An `AuditLog` in a file. Any number of threads and processes may append to it.

    Each record is one write under a file lock and is chained to the record before (see `chain`). The
    operating system has the record before `append` returns, so it survives a crash of the process. With
    *fsync* the record is also on the disk, which costs milliseconds. The file is created with mode 0600.
    After a crash or on a full disk, the next record seals a half-written line.

    The lock is `flock`: do not use this on a network file system that does not support it.

    Raises:
        AuditError: The file cannot be opened.
    """

    blocking = True  # `aappend` only hands `append` to a thread

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time, fsync: bool = False
    ) -> None:
        self.path = Path(path).absolute()
        self._clock, self._fsync = clock, fsync
        self._by_process: dict[int, _Appender] = {}
        in_child(self._begin)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._appender().open()
        except OSError as error:
            raise AuditError(f"{self.path}: {error.strerror}") from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; its time (`at`, RFC 3339 in UTC) is added if it has none.

        Raises:
            AuditError: The record was not written or not written completely, or it has no JSON form.
        """
        if "at" not in record:
            record = {"at": _rfc3339(self._clock()), **record}
        try:
            self._appender().append(record, fsync=self._fsync)
        except OSError as error:
            raise AuditError(f"{self.path}: {error.strerror}") from error
        except ValueError as error:
            raise AuditError(f"the record cannot be written as JSON: {error}") from error

    async def aappend(self, record: Mapping[str, Any]) -> None:
        """Write one record on the log's own thread, after all records that were appended before."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._appender().executor, self.append, record)

    def records(self, task_id: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the records in order: those of one task and its descendants, or all.

        The chain is not checked here; `chain.verify` does that.

        Raises:
            AuditError: The file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                for line in file:
                    record = parse(line)
                    if record is not None and _concerns(record, task_id):
                        yield record
        except OSError as error:
            raise AuditError(f"{self.path}: {error.strerror}") from error

    def head(self) -> Head:
        """Return the number and hash of the last record.

        Keep them elsewhere: with them, `chain.verify` notices records that were removed from the end.
        """
        try:
            with self.path.open("rb") as file:
                return _tail(file.fileno(), os.fstat(file.fileno()).st_size).head
        except OSError as error:
            raise AuditError(f"{self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Write the queued records and close the file. A later append opens it again."""
        appender = self._by_process.pop(os.getpid(), None)
        if appender is not None:
            appender.close()

    def _begin(self) -> None:
        # if the parent died, its file that stays open here would keep the lock that the parent held
        for appender in self._by_process.values():
            appender.abandon()
        self._by_process = {}

    def _appender(self) -> _Appender:
        pid = os.getpid()
        # a forked child opens the file again: through an inherited descriptor it shares its parent's lock
        return self._by_process.get(pid) or self._by_process.setdefault(pid, _Appender(self.path))


class _Appender:
    """The open file of one operating-system process, and the end of the file as this process knows it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.executor = ThreadPoolExecutor(1, "agentguard-audit")
        self._lock = Lock()
        self._file: int | None = None
        self._size = -1  # the file's size after this process's last write; if it differs, the end is read
        self._head = GENESIS

    def open(self) -> int:
        if self._file is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(self.path, flags, 0o600)
        return self._file

    def append(self, record: Mapping[str, Any], *, fsync: bool) -> None:
        with self._lock:
            file = self.open()
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                self._append(file, record)
                if fsync:
                    os.fsync(file)
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)

    def abandon(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def close(self) -> None:
        self.executor.shutdown()
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            self._file, self._size = None, -1

    def _append(self, file: int, record: Mapping[str, Any]) -> None:
        status = os.fstat(file)
        if not status.st_nlink:
            raise OSError(None, "the audit log was deleted")
        head, before = self._head, b""
        if status.st_size != self._size:
            head, before = _resume(file, status.st_size, record["at"])
        line, head = seal(record, head)
        line = before + line
        self._size = -1
        if os.write(file, line) != len(line):
            raise OSError(None, "no space left for a whole record")
        self._size, self._head = status.st_size + len(line), head


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


def _concerns(record: Mapping[str, Any], task_id: str | None) -> bool:
    return task_id is None or record.get("task") == task_id or task_id in (record.get("lineage") or ())


def _rfc3339(now: float) -> str:
    second, micros = divmod(int(now * 1_000_000), 1_000_000)
    return f"{_second(second)}.{micros:06d}Z"


@lru_cache(2)
def _second(now: int) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S")
