"""Which file is the newest of a log, where it was renamed and this process has not written meanwhile.

Others have written since, or no process ran.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from agentguard.audit.chain import GENESIS, Head
from agentguard.audit.file_end import last_head, tail_of
from agentguard.audit.files import (
    READ_ERRORS,
    Predecessor,
    first_of,
    name_of,
    predecessor,
    siblings,
    tail_of_packed,
)
from agentguard.concurrency.file_lock import lock_file

__all__ = ["begun_anew", "is_empty", "moved", "newest_after", "tell_moved"]

log = logging.getLogger("agentguard")

FEW = 64  # files beside a new log that are looked at
_LAST_RECORD = 0.25  # seconds for the last record of a file that was renamed
# what logrotate and people put behind the name of a log; another log may have a word there
_RENAMED = re.compile(r"[.-](?:[0-9][0-9TZ:._-]*|old|bak)(?:\.gz)?")


def is_empty(path: Path) -> bool:
    """Return whether no record is at the path, or no file."""
    try:
        return path.stat().st_size == 0
    except FileNotFoundError:
        return True


def moved(at: str, newest: Predecessor, *, copy: bool) -> dict[str, Any]:
    """Return what to write in the file that is now at the path: it continues another, or is a copy of it.

    The name of the *newest* file before it is None if it was deleted. An older copy of the log (a backup that
    was restored) lacks what was written since: that is a cut.
    """
    if copy:
        return {"at": at, "event": "cut", "after": str(newest.head)}
    record = {"at": at, "event": "continued", "continues": str(newest.head)}
    return record if newest.name is None else record | {"file": newest.name}


def begun_anew(at: str, path: Path) -> dict[str, Any] | None:
    """Return what to write first in a new log, whose file was renamed while no process had it open.

    It continues the newest file beside it that has the name of a renamed one and that no other file
    continues. The member `found` says that nobody knows whether more was written between the two.
    """
    real = Path(os.path.realpath(path))
    try:
        files = [file for file in siblings(real) if _RENAMED.fullmatch(file.name, len(real.name))]
    except OSError:  # the folder can be written and not read
        return None
    ends, continued_heads = list[Predecessor](), set[Head]()
    for file in sorted(files, key=_changed_at, reverse=True)[:FEW]:
        try:
            head = tail_of_packed(file) if file.suffix == ".gz" else last_head(file)
            before = predecessor(first_of(file))
        except READ_ERRORS:
            continue
        if before is not None:
            continued_heads.add(before.head)
        if head is not None and head != GENESIS:
            ends.append(Predecessor(head, file.name.removesuffix(".gz")))
    newest = next((end for end in ends if end.head not in continued_heads), None)
    if newest is None:
        return None
    newest = _settled(real, newest)
    log.warning("%s is begun anew; it continues %s, which was found beside it", path, newest.name)
    return {**moved(at, newest, copy=False), "found": True}


def _settled(path: Path, newest: Predecessor) -> Predecessor:
    """Return the end of a renamed file once nobody writes to it any more.

    A process that had it open at the rename may be at its last record there. After that it finds the new
    file. Who waits for the new one instead, which is locked here, has written its last record.
    """
    end = time.monotonic() + _LAST_RECORD
    with suppress(*READ_ERRORS), ExitStack() as stack:
        file = path.with_name(str(newest.name))
        return _end_of(file, lambda: end - time.monotonic(), stack) or newest
    return newest


def _changed_at(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def tell_moved(path: Path, head: Head, *, copy: bool) -> None:
    """Log that a file was moved, and that the file at its path continues the log, or is an older copy."""
    if copy:
        log.error("%s was replaced by an older copy, which lacks what was written up to %s", path, head)
    else:
        log.warning("%s was moved or deleted; the file there now continues it after %s", path, head)


@contextmanager
def newest_after(
    path: Path, descriptor: int, head: Head, seconds: Callable[[], float]
) -> Iterator[Predecessor]:
    """Yield the newest file of a log, which the file at *path* is to continue.

    It is the open one, whose *head* is given and which the caller has locked, or a file beside the log that
    continues it, directly or by files between. Nobody else writes to these files until the block ends.

    Raises:
        LockedTooLong: One of the files was locked for longer than *seconds* say.
        OSError: A file beside the log cannot be read.
    """
    newest, since = Predecessor(head, name_of(descriptor)), os.fstat(descriptor).st_mtime_ns
    real, heads = Path(os.path.realpath(path)), {GENESIS}
    with ExitStack() as stack:
        while newest.head not in heads:
            heads.add(newest.head)
            if (file := _successor(real, newest.head, since)) is not None:
                newest = _end_of(file, seconds, stack) or newest
        yield newest


def _successor(path: Path, head: Head, since: int) -> Path | None:
    """Return the file beside the log whose first record continues *head*, and that was written *since*."""
    for file in siblings(path):
        try:
            if file.stat().st_mtime_ns >= since and _continues(file, head):
                return file
        except READ_ERRORS:  # another one may be it
            continue
    return None


def _continues(file: Path, head: Head) -> bool:
    before = predecessor(first_of(file))
    return before is not None and before.head == head


def _end_of(path: Path, seconds: Callable[[], float], stack: ExitStack) -> Predecessor | None:
    """Return the last head of a file and its name; it stays locked until the stack is closed."""
    if path.suffix == ".gz":
        last = tail_of_packed(path)
        return None if last is None else Predecessor(last, path.name.removesuffix(".gz"))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)  # which unlocks it
    lock_file(descriptor, seconds)
    last = tail_of(descriptor, os.fstat(descriptor).st_size).head
    return Predecessor(last, name_of(descriptor))
