"""Both ends of an audit log's file: its first record, its last one, and the torn line that a crash left."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

from agentguard.audit.chain import GENESIS, Head, parse, seal

__all__ = [
    "BLOCK",
    "Tail",
    "begins_with",
    "ends_at",
    "first_record",
    "last_head",
    "resume",
    "tail_of",
]

BLOCK = 65_536  # bytes of the file's end that are read at first to find the last record


class Tail(NamedTuple):
    """The end of a file: its last record, and the torn line that a crash left after it."""

    head: Head
    torn: bytes
    whole: bool  # whether the last line has its newline


def last_head(path: Path) -> Head:
    """Return the head of the last record of a log.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return tail_of(file.fileno(), os.fstat(file.fileno()).st_size).head


def tail_of(file: int, size: int) -> Tail:
    """Return the end of an open file of *size* bytes."""
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
            return Tail(GENESIS, data.removesuffix(b"\n"), whole)
        block *= 8


def _tail_after(record: dict[str, Any], lines: list[bytes], whole: bool) -> Tail:
    head = Head(record["seq"], record["hash"])
    torn = lines[1:] if whole or len(lines) > 1 else lines
    return Tail(head, b"\n".join(torn), whole)


def resume(file: int, size: int, at: str) -> tuple[Head, bytes]:
    """Return the head of the next record, and the bytes to write before it to seal a torn line."""
    tail = tail_of(file, size)
    if tail.whole and not tail.torn:
        return tail.head, b""
    line, head = seal({"at": at, "event": "torn", "torn": hashlib.sha256(tail.torn).hexdigest()}, tail.head)
    return head, line if tail.whole else b"\n" + line


def ends_at(file: int, offset: int, head: Head) -> bool:
    """Return whether the record of this *head* still ends at this offset in bytes."""
    tail = f'"hash":"{head.hash}"}}\n'.encode()
    return os.pread(file, len(tail), max(0, offset - len(tail))) == tail


def begins_with(file: int, other: int, size: int) -> bool:
    """Return whether the first *size* bytes of two files are the same."""
    return all(
        os.pread(file, BLOCK, at)[: size - at] == os.pread(other, min(BLOCK, size - at), at)
        for at in range(0, size, BLOCK)
    )


def first_record(file: int) -> dict[str, Any] | None:
    """Return the record in the first line of an open file; None if that is no record."""
    return parse(os.pread(file, BLOCK, 0).partition(b"\n")[0])
