"""The end of an audit log's file: its last record, and the torn line that a crash left after it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from agentguard.audit.chain import GENESIS, Head, parse

__all__ = ["BLOCK", "Tail", "last_head", "tail_of"]

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
