"""The files of one log: the one that is written, and those that were rotated away.

The first record of a file holds the head of the file before it, and mostly its name. So the files are found
from the newest to the oldest, whatever they are called now. A file that was compressed (``.gz``) is read too.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from agentguard.audit.chain import GENESIS, Head, continued, parse
from agentguard.audit.file_end import BLOCK, first_record, last_head

__all__ = [
    "READ_ERRORS",
    "SUFFIX",
    "Predecessor",
    "first_of",
    "follows",
    "history",
    "name_of",
    "opened",
    "predecessor",
    "predecessors",
    "siblings",
    "tail_of_packed",
]

FILES = 100_000  # of one log are read, at most
FEW = 64  # files that a writer looks back through, which holds the lock meanwhile
SUFFIX = re.compile(r"\.([0-9]{8}T[0-9]{6}Z)(?:\.([0-9]{1,9}))?(?:\.gz)?$")
"""The time and the number that a rotation of ours puts behind the name of the log."""
_DAMAGED = (EOFError, zlib.error)  # gzip raises them too
READ_ERRORS = (OSError, *_DAMAGED)


class Predecessor(NamedTuple):
    """The file that a file continues: its head, and its name at that time if that is known."""

    head: Head
    name: str | None


@contextmanager
def opened(path: Path) -> Iterator[gzip.GzipFile | BufferedReader]:
    """Open a file of a log to read its lines, also one that was compressed by gzip.

    Raises:
        OSError: The file cannot be read, or is damaged.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except _DAMAGED as error:
        raise OSError(None, str(error)) from error


def predecessor(record: Mapping[str, Any] | None) -> Predecessor | None:
    """Return what the first record of a file says of the file before."""
    head = None if record is None else continued(record)
    if record is None or head is None:
        return None
    name = record.get("file")
    return Predecessor(head, name if isinstance(name, str) and name == os.path.basename(name) else None)


def first_of(path: Path) -> dict[str, Any] | None:
    """Return the first record of a file.

    Raises:
        OSError: The file cannot be read.
    """
    with opened(path) as file:
        return parse(file.readline(BLOCK))


def name_of(descriptor: int) -> str | None:
    """Return the present name of an open file, without its directory; None if it has none or nobody knows."""
    try:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
    except OSError:
        return None
    return None if name.endswith(" (deleted)") else name


def predecessors(
    path: Path, descriptor: int, *, compressed: bool, by_find: bool = True
) -> Iterator[tuple[Path, Head]]:
    """Yield the files before the one that is open, and their heads; the newest comes first.

    *path* is that of the log. It ends at a file that is not beside the log, has another head than the next
    file says, or is compressed, where those are not asked for. With *by_find* false it ends also at one that
    was only found beside the log, and that no process of this log is known to have written.
    """
    record, real = first_record(descriptor), Path(os.path.realpath(path))
    heads = set[Head]()
    while (before := predecessor(record)) is not None and before.head not in heads and len(heads) < FILES:
        heads.add(before.head)
        if record is not None and record.get("found") and not by_find:
            return
        if (file := _find(real, before, compressed=compressed)) is None:
            return
        yield file, before.head
        try:
            record = first_of(file)
        except READ_ERRORS:
            return


def follows(path: Path, descriptor: int, head: Head) -> bool:
    """Return whether an open file of the log continues *head*, directly or by files between."""
    before = predecessor(first_record(descriptor))
    if before is None or before.head == head:
        return before is not None
    files = islice(predecessors(path, descriptor, compressed=False), FEW)
    return any((older := predecessor(first_of(file))) is not None and older.head == head for file, _ in files)


def history(path: Path) -> list[Path]:
    """Return the files of a log that are there, in their order; *path*, which is written now, is the last.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        files = [older for older, _ in predecessors(path, file.fileno(), compressed=True)]
    return [*reversed(files), path]


def siblings(path: Path) -> list[Path]:
    """Return the files whose name begins with that of the log and a dot or a dash; the last name is first."""
    names = (path.name + ".", path.name + "-")
    with os.scandir(path.parent) as entries:
        files = [entry.name for entry in entries if entry.name.startswith(names) and entry.is_file()]
    return [path.with_name(name) for name in sorted(files, reverse=True)]


def _find(path: Path, before: Predecessor, *, compressed: bool) -> Path | None:
    """Return the file beside *path* whose last record has the head that the next file continues."""
    if before.head == GENESIS:
        return None
    if before.name is not None:
        file = path.with_name(before.name)
        if file != path and _ends_in(file, before.head):
            return file
        if compressed and (packed := path.with_name(f"{before.name}.gz")).is_file():
            return packed
    for file in siblings(path):
        # a rotation of ours has told its name, and to look for the end of a compressed file takes long
        if file.suffix == ".gz" and (not compressed or SUFFIX.search(file.name)):
            continue
        if _ends_in(file, before.head):
            return file
    return None


def _ends_in(path: Path, head: Head) -> bool:
    try:
        if path.suffix != ".gz":
            return path.is_file() and last_head(path) == head
        return tail_of_packed(path) == head
    except READ_ERRORS:
        return False


def tail_of_packed(path: Path) -> Head | None:
    """Return the head of the last record of a compressed file, or None.

    Raises:
        OSError: The file cannot be read, or is damaged.
    """
    status = path.stat()
    return _last_compressed(path, status.st_mtime_ns, status.st_size)


@lru_cache(1024)
def _last_compressed(path: Path, _time: int, _size: int) -> Head | None:
    """Return the head of a compressed file, which is read once while its time and size stay the same."""
    last = b""
    with opened(path) as file:
        for line in file:
            last = line if _may_be_record(line) else last
    record = parse(last)
    return None if record is None else Head(record["seq"], record["hash"])


def _may_be_record(line: bytes) -> bool:
    """Return whether a line may be a record, without reading all of it."""
    return line.startswith(b"{") and line.rstrip().endswith(b'"}')
