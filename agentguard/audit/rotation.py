"""Begins the file of an audit log anew when it is large or old, and deletes the oldest files if told to.

The new file is written beside the log before it takes the place of the old one. So there is always a file at
the path, and its first record, `continued`, holds the head and the name of the old one. A record `deleted`
holds the head and the name of a file that was deleted.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agentguard.audit.chain import GENESIS, Head, seal
from agentguard.audit.file_end import first_record, tail_of
from agentguard.audit.files import predecessors, siblings

__all__ = ["NO_LIMITS", "Limits", "Rotation"]

log = logging.getLogger("agentguard")

PAUSE = 60.0  # seconds until a rotation that failed is tried again


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a log is rotated: at `max_size` bytes, or once its first record is `max_age` seconds old.

    `keep_files` is the number of rotated files that stay. None is no limit, so that nothing is deleted.
    """

    max_size: int | None = None
    max_age: float | None = None
    keep_files: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_size", "max_age", "keep_files"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is at least 1, and not {value}")


NO_LIMITS = Limits()


class Rotation:
    """Rotates the log of one process; whoever calls it holds the lock of the file at the path."""

    def __init__(
        self,
        path: Path,
        limits: Limits = NO_LIMITS,
        *,
        fsync: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._limits, self._fsync, self._clock = path, limits, fsync, clock
        self._max_size = float("inf") if limits.max_size is None else limits.max_size
        self._file = -1, -1, -1  # the file whose age is known
        self._old_at = float("inf")
        self._not_before = 0.0

    def is_due(self, file: tuple[int, int, int], size: int) -> bool:
        """Return whether the file has reached a limit. Only the first question about a file reads it.

        *file* is its descriptor, device and inode, and *size* is in bytes.
        """
        if size >= self._max_size:
            return self._clock() >= self._not_before
        if self._limits.max_age is None or size == 0:
            return False
        if file != self._file:
            self._file, self._old_at = file, _begun(file[0]) + self._limits.max_age
        now = self._clock()
        return now >= self._old_at and now >= self._not_before

    def try_rotate(self, descriptor: int, size: int, at: str) -> bool:
        """Rotate the file, and return whether that was done. A failure is logged and tried again later."""
        try:
            return self.rotate(descriptor, size, at) is not None
        except OSError as error:
            self._not_before = self._clock() + PAUSE
            reason = error.strerror or error
            log.error("%s was not rotated, and is written on: %s", self._path, reason)
            return False

    def rotate(self, descriptor: int, size: int, at: str) -> Path | None:
        """Give the file another name, and put a new one in its place; return the name.

        *at* is the time of the new file's first record. It returns None if the file has no record, or is
        no more at the path.

        Raises:
            OSError: It was not done: the directory cannot be written, or the disk is full.
        """
        head = tail_of(descriptor, size).head
        if head == GENESIS:
            return None
        path = Path(os.path.realpath(self._path))
        target = self._target(path, descriptor)
        over = self._over(path, descriptor)
        new = path.with_name(f".{path.name}.next")  # the lock of the old file guards this name too
        try:
            _write(new, os.fstat(descriptor), _beginning(at, head, target, over), fsync=self._fsync)
            if not _link(path, target, descriptor):
                return None
            new.replace(path)
        finally:
            with suppress(FileNotFoundError):
                new.unlink()
        if self._fsync:
            _flush_directory(path.parent)
        log.info("%s was rotated: what was written up to %s is in %s", self._path, head, target.name)
        _delete(over)
        return target

    def _target(self, path: Path, descriptor: int) -> Path:
        """Return a name that no file had before. One that a killed rotation has left is taken again."""
        if os.fstat(descriptor).st_nlink > 1:
            for file in siblings(path):
                if _is_same(descriptor, file):
                    return file
        name = f"{path.name}.{datetime.fromtimestamp(self._clock(), UTC):%Y%m%dT%H%M%SZ}"
        number = max((_number(file, name) for file in siblings(path)), default=-1) + 1
        return path.with_name(f"{name}.{number}" if number else name)

    def _over(self, path: Path, descriptor: int) -> list[tuple[Path, Head]]:
        """Return the files to delete once the open one is rotated, the oldest first.

        The file after each of them holds its head: no other file is found here.
        """
        if (keep := self._limits.keep_files) is None:
            return []
        return list(predecessors(path, descriptor, compressed=False, by_find=False))[keep - 1 :][::-1]


def _number(file: Path, name: str) -> int:
    """Return which file of the second that *name* stands for this is, from 0 on; -1 if of another second."""
    match = re.fullmatch(rf"{re.escape(name)}(?:\.([0-9]{{1,9}}))?(?:\.[a-z0-9]*[a-z])?", file.name)
    return -1 if match is None else int(match[1] or 0)


def _begun(descriptor: int) -> float:
    """Return the time of a file's first record, in seconds since the epoch; infinite if it has none."""
    record = first_record(descriptor)
    try:
        return float("inf") if record is None else datetime.fromisoformat(record["at"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return float("inf")


def _beginning(at: str, head: Head, target: Path, over: Iterable[tuple[Path, Head]]) -> bytes:
    """Return the first lines of a new file: which file it continues, and which ones are deleted now."""
    record = {"at": at, "event": "continued", "continues": str(head), "file": target.name}
    data, last = seal(record, GENESIS)
    for file, its_head in over:
        line, last = seal({"at": at, "event": "deleted", "file": file.name, "head": str(its_head)}, last)
        data += line
    return data


def _write(path: Path, like: os.stat_result, data: bytes, *, fsync: bool) -> None:
    """Write a new file that belongs to the same user and group as another one, with the same mode."""
    with suppress(FileNotFoundError):  # it is left of a rotation that was killed
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        status = os.fstat(descriptor)
        if (status.st_uid, status.st_gid) != (like.st_uid, like.st_gid):
            os.fchown(descriptor, like.st_uid, like.st_gid)  # else a rotation by root would lock guards out
        os.fchmod(descriptor, like.st_mode & 0o777)
        if os.write(descriptor, data) != len(data):
            raise OSError(None, "no space left for the first record of a new file")
        if fsync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(path: Path, target: Path, descriptor: int) -> bool:
    """Give the file at the path a second name; return False if another file is there now."""
    try:
        os.link(path, target)
    except FileExistsError:  # a rotation that was killed has left this name
        return _is_same(descriptor, target)
    if _is_same(descriptor, target):
        return True
    target.unlink()
    return False


def _is_same(descriptor: int, path: Path) -> bool:
    return os.path.samestat(os.fstat(descriptor), path.lstat())


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(files: Iterable[tuple[Path, Head]]) -> None:
    for file, _ in files:
        try:
            file.unlink()
        except OSError as error:
            log.error("%s is over, and was not deleted: %s", file, error.strerror)
