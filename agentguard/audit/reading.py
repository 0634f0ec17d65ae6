"""Reads the records of a log's files: those that somebody looks for, and those that come.

It reads one line after the other, so that memory does not grow with the files.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import Any

from agentguard.audit.chain import Head, parse
from agentguard.audit.files import first_of, history, opened, predecessor

__all__ = ["Selection", "by_time", "follow", "lines_of"]

Record = Mapping[str, Any]
CALLS = 10_000  # calls whose further records are taken too; the oldest is forgotten


@dataclass(slots=True, kw_only=True)
class Selection:
    """Which records somebody looks for; None takes all.

    `task` takes the records of its descendants too. `subject`, `tool`, `decision` (permit or deny) and `code`
    are those of a decision; the outcome of such a call, and what became of its credential, is taken with it.
    `since` and `until` are seconds since the epoch.
    """

    task: str | None = None
    subject: str | None = None
    tool: str | None = None
    decision: str | None = None
    code: str | None = None
    since: float | None = None
    until: float | None = None
    _calls: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def takes(self, record: Record) -> bool:
        """Return whether a record is looked for. Ask about the records in their order."""
        task = self.task
        if task is not None and record.get("task") != task and task not in (record.get("lineage") or ()):
            return False
        return self._is_of_call(record) and self._is_in_time(record)

    def _is_of_call(self, record: Record) -> bool:
        facts = {"subject": self.subject, "tool": self.tool, "effect": self.decision, "code": self.code}
        conditions = {name: value for name, value in facts.items() if value is not None}
        if not conditions:
            return True
        call = record.get("call")
        if record.get("event") != "decision":
            return call in self._calls
        if any(record.get(name) != value for name, value in conditions.items()):
            return False
        if isinstance(call, str):
            self._calls[call] = None
            if len(self._calls) > CALLS:
                self._calls.popitem(last=False)
        return True

    def _is_in_time(self, record: Record) -> bool:
        if self.since is None and self.until is None:
            return True
        at = _seconds(record)
        if at is None:
            return False
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)


def lines_of(paths: Iterable[Path]) -> Iterator[bytes]:
    """Yield the lines of files one after the other; those that end in ``.gz`` are compressed.

    Raises:
        OSError: A file cannot be read.
    """
    for path in paths:
        with opened(path) as file:
            yield from file


def by_time(paths: Iterable[Path]) -> list[Path]:
    """Return files in the order of their first records.

    Raises:
        OSError: A file cannot be read.
    """
    return sorted(paths, key=lambda path: _seconds(first_of(path) or {}) or 0.0)


def follow(
    path: Path, *, pause: Callable[[], bool], on_gap: Callable[[str], None], older: bool = True
) -> Iterator[bytes]:
    """Yield the lines of a log, and then those that come, also after rotations.

    `pause` is called where there is nothing new, and returns False to end. `on_gap` is told where lines may
    be missed. With *older* the rotated files are read first.

    Raises:
        OSError: A file cannot be read.
    """
    if older:
        yield from lines_of(history(path)[:-1])
    yield from _Follower(path, pause, on_gap).lines()


class _Follower:
    """Follows one log from the beginning of the file that is at its path."""

    def __init__(self, path: Path, pause: Callable[[], bool], on_gap: Callable[[str], None]) -> None:
        self._path, self._pause, self._on_gap = path, pause, on_gap
        self._head: Head | None = None

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of this file and of all that follow, until `pause` returns False."""
        file: BufferedReader | None = self._path.open("rb")
        while file is not None:
            with file:
                yield from self._followed(file)
                file = self._next(file)
                if file is not None:
                    yield from self._noted(lines_of(self._between(file)))

    def _followed(self, file: BufferedReader) -> Iterator[bytes]:
        """Yield the lines of a file until another one is at the path, or `pause` returns False."""
        while True:
            yield from self._noted(_complete_lines(file))
            if self._is_replaced(file):
                yield from self._noted(_complete_lines(file))  # what was written before that
                return
            if not self._pause():
                return

    def _is_replaced(self, file: BufferedReader) -> bool:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:  # it was moved, and the next record begins a new one
            return False
        if not os.path.samestat(status, os.fstat(file.fileno())):
            return True
        if status.st_size < file.tell():
            self._on_gap(f"{self._path} was cut, and is read from its beginning")
            file.seek(0)
        return False

    def _next(self, file: BufferedReader) -> BufferedReader | None:
        """Open the file that is at the path now; return None if it is the same one."""
        with suppress(FileNotFoundError):
            newer = self._path.open("rb")
            if not os.path.samestat(os.fstat(newer.fileno()), os.fstat(file.fileno())):
                return newer
            newer.close()
        return None

    def _noted(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        for line in lines:
            if (record := parse(line)) is not None:
                self._head = Head(record["seq"], record["hash"])
            yield line

    def _between(self, newest: BufferedReader) -> Iterator[Path]:
        """Yield the files after the one that was read, and before the newest."""
        follows = False
        for file in history(self._path):
            before = predecessor(first_of(file))
            follows = follows or (before is not None and before.head == self._head)
            if os.path.samestat(os.stat(file), os.fstat(newest.fileno())):
                break
            if follows:
                yield file
        if not follows and self._head is not None:
            self._on_gap(f"{self._path} is another file now, which does not continue the one that was read")


def _complete_lines(file: BufferedReader) -> Iterator[bytes]:
    """Yield the lines up to the end; the part of a line that is not yet written whole is left."""
    while (line := file.readline()).endswith(b"\n"):
        yield line
    file.seek(-len(line), os.SEEK_CUR)


def _seconds(record: Record) -> float | None:
    """Return a record's time in seconds since the epoch."""
    try:
        at = datetime.fromisoformat(record["at"])
    except (KeyError, TypeError, ValueError):
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
