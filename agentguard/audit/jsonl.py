"""The audit log as one append-only file of JSON lines."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

from agentguard.audit.appending import Appender
from agentguard.audit.chain import Head, parse
from agentguard.audit.file_end import last_head
from agentguard.audit.files import history, opened
from agentguard.audit.records import is_told_once, permits, rfc3339
from agentguard.audit.rotation import NO_LIMITS, Limits, Rotation
from agentguard.concurrency.deadline import seconds_left
from agentguard.concurrency.file_lock import LockedTooLong
from agentguard.concurrency.fork import in_child
from agentguard.errors import AuditError
from agentguard.files import make_private_folder

__all__ = ["JsonLinesAudit"]

log = logging.getLogger("agentguard")

LATE = 60.0  # seconds for which the log's own thread waits for the lock with what is owed
LEAST_SPACE = 65_536  # bytes of the disk below which the log counts as full


class JsonLinesAudit:
    """An `AuditLog` in a file. Any number of threads and processes may append to it.

    Each record is one write under a file lock and is chained to the record before (see `chain`). The
    operating system has the record before `append` returns, so it survives a crash of the process. With
    *fsync* the record is also on the disk, which costs milliseconds. The file is created with mode 0600.
    After a crash or on a full disk, the next record seals a half-written line.

    A record waits for the lock at most *timeout* seconds, and no longer than its caller does. A record
    without which a call may not run (a permit) is not written once its caller has given up, since the call is
    then denied. Each other record of a guard that cannot be written (a locked log, a full disk) is kept in
    memory and written before the next record that can be, or when the log is closed. For 60 seconds the log's
    own thread waits for the lock with it. So the log does not end with a permit of a call that was denied,
    unless the process dies before it can write again; `verify` then names the permit as one without an
    outcome. After a failed *fsync* a record may stand in the log twice.

    If the file is renamed or deleted, the next record goes to a new file at the same path. The first record
    of that file (`event` is `continued`) holds the head of the old one, and a warning is logged. With
    *limits* the process that writes the first record beyond a limit rotates the log so; `rotate` does it at
    once. Never rotate by cutting the file (`copytruncate`): a cut log does not verify as sound.

    The lock is `flock`: do not use this on a network file system that does not support it.

    Raises:
        AuditError: The file cannot be opened.
    """

    blocking = True  # `aappend` only hands `append` to a thread

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], float] = time.time,
        fsync: bool = False,
        timeout: float = 5.0,
        limits: Limits = NO_LIMITS,
    ) -> None:
        self.path = Path(path).absolute()
        self._limits = limits
        self._clock, self._fsync, self._timeout = clock, fsync, timeout
        self._by_process: dict[int, Appender] = {}
        in_child(self._begin)
        try:
            make_private_folder(self.path.parent)
            self._appender().open()
        except OSError as error:
            raise AuditError(f"{self.path}: {error.strerror}") from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; its time (`at`, RFC 3339 in UTC) is added if it has none.

        Raises:
            AuditError: The record was not written or not written completely, or it has no JSON form. A record
                that is no permit is written later, if that becomes possible.
        """
        end = time.monotonic() + seconds_left(self._timeout, of_sequence=permits(record))
        self._write(self._appender(), self._dated(record), lambda: end - time.monotonic())

    async def aappend(self, record: Mapping[str, Any]) -> None:
        """Write one record on the log's own thread, after all records that were appended before."""
        record, appender, given_up = self._dated(record), self._appender(), Event()
        is_permit = permits(record)
        end = time.monotonic() + (self._timeout if is_permit else LATE)

        def seconds() -> float:
            return 0.0 if is_permit and given_up.is_set() else end - time.monotonic()

        future = appender.executor.submit(self._write, appender, record, seconds)
        try:
            await _done(future)
        except asyncio.CancelledError:
            given_up.set()
            raise
        future.result()

    def _dated(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        return record if "at" in record else {"at": rfc3339(self._clock()), **record}

    def _write(self, appender: Appender, record: Mapping[str, Any], seconds: Callable[[], float]) -> None:
        try:
            appender.append(record, fsync=self._fsync, seconds=seconds)
        except OSError as error:
            locked = isinstance(error, LockedTooLong)
            if not permits(record) and (locked or is_told_once(record)):
                appender.owe(record)
                if locked:
                    with suppress(RuntimeError):  # the log is being closed, which writes what is owed
                        appender.executor.submit(self._settle, appender, time.monotonic() + LATE)
            raise AuditError(f"{self.path}: {error.strerror}") from error
        except ValueError as error:
            raise AuditError(f"the record cannot be written as JSON: {error}") from error

    def _settle(self, appender: Appender, end: float) -> None:
        try:
            appender.settle(fsync=self._fsync, seconds=lambda: end - time.monotonic())
        except OSError as error:
            log.error("%s: records wait to be written: %s", self.path, error.strerror)

    def records(self, task_id: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the records in order: those of one task and its descendants, or all.

        Rotated files that are still beside the log are read too. The chain is not checked here;
        `chain.verify` does that.

        Raises:
            AuditError: A file cannot be read.
        """
        name = b"" if task_id is None else json.dumps(task_id)[1:-1].encode()
        try:
            for path in history(self.path):
                with opened(path) as file:
                    for line in file:
                        record = parse(line) if name in line else None
                        if record is not None and _concerns(record, task_id):
                            yield record
        except OSError as error:
            raise AuditError(f"{self.path}: {error.strerror}") from error

    def head(self) -> Head:
        """Return the number and hash of the last record.

        Keep them elsewhere: with them, `chain.verify` notices records that were removed from the end.
        """
        try:
            return last_head(self.path)
        except OSError as error:
            raise AuditError(f"{self.path}: {error.strerror}") from error

    def rotate(self) -> Path | None:
        """Give the file a name with the time in UTC, and go on in a new one; return the old file's new name.

        Other processes may write meanwhile. A file without a record is left as it is, and None is returned.

        Raises:
            AuditError: It was not done, and the log goes on in the old file.
        """
        end = time.monotonic() + self._timeout
        at = rfc3339(self._clock())
        try:
            return self._appender().rotate(self._rotation(), at, lambda: end - time.monotonic())
        except OSError as error:
            raise AuditError(f"{self.path}: {error.strerror or error}") from error

    def health(self) -> None:
        """Look whether a record could be written now. Nothing is written.

        Raises:
            AuditError: The file cannot be opened for writing, its disk is full, or records wait to be
            written.
        """
        if waiting := self._appender().count_owed():
            raise AuditError(f"{self.path}: {waiting} records wait to be written")
        try:
            with suppress(FileNotFoundError):  # the next record begins it anew
                os.close(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
            space = os.statvfs(self.path.parent)
        except OSError as error:
            raise AuditError(f"{self.path}: {error.strerror}") from error
        if space.f_bavail * space.f_frsize < LEAST_SPACE:
            raise AuditError(f"{self.path}: the disk is full")

    def close(self) -> None:
        """Write the queued records and close the file. A later append opens it again."""
        appender = self._by_process.pop(os.getpid(), None)
        if appender is not None:
            appender.close(fsync=self._fsync)

    def _begin(self) -> None:
        # if the parent died, its file that stays open here would keep the lock that the parent held
        for appender in self._by_process.values():
            appender.abandon()
        self._by_process = {}

    def _appender(self) -> Appender:
        pid = os.getpid()
        # a forked child opens the file again: through an inherited descriptor it shares its parent's lock
        if (appender := self._by_process.get(pid)) is None:
            rotation = None if self._limits == NO_LIMITS else self._rotation()
            appender = self._by_process.setdefault(pid, Appender(self.path, rotation))
        return appender

    def _rotation(self) -> Rotation:
        return Rotation(self.path, self._limits, fsync=self._fsync, clock=self._clock)


async def _done(future: Future[None]) -> None:
    """Wait for a record's thread. If the caller is cancelled, a record that is still queued is written."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def wake(_future: object) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(lambda: None if waiter.done() else waiter.set_result(None))

    future.add_done_callback(wake)
    await waiter


def _concerns(record: Mapping[str, Any], task_id: str | None) -> bool:
    return task_id is None or record.get("task") == task_id or task_id in (record.get("lineage") or ())
