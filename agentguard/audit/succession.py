"""Which file is the newest of a log, where a process has not written while others did and it was renamed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from agentguard.audit.chain import GENESIS, Head
from agentguard.audit.file_end import tail_of
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

__all__ = ["is_empty", "moved", "newest_after", "tell_moved"]

log = logging.getLogger("agentguard")


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
