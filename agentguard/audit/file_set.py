"""The check of all files of one log: each by itself, and how they are linked.

A file's first record holds the head of the file before it. So the order is found by the heads, and not by
names. A file that is missing, that was cut or extended after its rotation, or that is there twice is found.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

from agentguard.audit.chain import GENESIS, Head, Report, verify
from agentguard.audit.files import SUFFIX, Predecessor, first_of, opened, predecessor

__all__ = ["LogFile", "Problem", "SetReport", "verify_files"]

T = TypeVar("T")


class Problem(NamedTuple):
    """What is wrong between files; `kind` is missing, cut, extended, doubled, forked, reordered or apart."""

    kind: str
    detail: str


@dataclass(slots=True, eq=False)
class LogFile:
    """One file, what its check has found, and the file that it continues."""

    path: Path
    before: Predecessor | None
    at: str
    report: Report
    parent: LogFile | None = None
    was_found: bool = False  # the file that this one continues, when no process knew of it

    @property
    def link(self) -> Predecessor | None:
        """What this file continues: as its first record says, or else a later one."""
        if self.before is None and self.report.continues:
            return Predecessor(self.report.continues[0], None)
        return self.before


@dataclass(slots=True)
class SetReport:
    """The result of `verify_files`: the files in their order, and what is wrong between them.

    `deleted` are names of files that are missing and that the log itself says were deleted by its settings.
    `aliases` are second names of a file, as a rotation that was killed leaves one. `begun_anew` are files
    that were begun while no process had the file before open: nobody knows whether more was written between.
    `unfinished` are the file and line of permits without an outcome in any file.
    """

    files: list[LogFile] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    aliases: list[Path] = field(default_factory=list)
    begun_anew: list[Path] = field(default_factory=list)
    unfinished: list[tuple[Path, int]] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether no record was altered, and no file is missing."""
        return not self.problems and all(file.report.sound for file in self.files)

    @property
    def records(self) -> int:
        """The number of intact records."""
        return sum(file.report.records for file in self.files)

    @property
    def head(self) -> Head:
        """The head of the last file."""
        return self.files[-1].report.head if self.files else GENESIS


def verify_files(paths: Iterable[Path], head: Head | None = None) -> SetReport:
    """Verify the files of one log, in whatever order they are named; *head* was kept elsewhere.

    Files end in ``.gz`` if they are compressed. The work is one pass over each file. Of each file the memory
    holds the calls without an outcome, and the faults.

    Raises:
        OSError: A file cannot be read; `filename` says which.
    """
    report = SetReport()
    files = _Links(_read(_distinct(paths, report), head), report)
    files.drop_copies()
    files.find_parents()
    files.arrange()
    files.compare_names()
    files.find_unfinished()
    report.begun_anew = [file.path for file in report.files if file.was_found and file.parent is not None]
    if head is not None and head != GENESIS and not any(head in file.report.watched for file in report.files):
        report.problems.append(
            Problem("cut", f"record {head.seq}, whose head was given, is in none of the files")
        )
    return report


def _distinct(paths: Iterable[Path], report: SetReport) -> list[Path]:
    """Return the paths, without further names of one file."""
    files = dict[tuple[int, int], Path]()
    for path in sorted(paths):
        status = os.stat(path)
        if files.setdefault((status.st_dev, status.st_ino), path) != path:
            report.aliases.append(path)
    return list(files.values())


def _read(paths: list[Path], head: Head | None) -> list[LogFile]:
    """Check each file by itself; one that is empty is left out."""
    firsts = {path: _named(path, first_of) for path in paths}
    before = {path: predecessor(record) for path, record in firsts.items()}
    watch = {link.head for link in before.values() if link is not None} | ({head} if head else set())
    files = []
    for path in paths:
        report = _named(path, lambda path: _verify(path, watch))
        if report.records or report.faults or report.torn:
            first = firsts[path] or {}
            at, was_found = str(first.get("at", "")), first.get("found") is True
            files.append(LogFile(path, before[path], at, report, was_found=was_found))
    return files


def _verify(path: Path, watch: set[Head]) -> Report:
    with opened(path) as lines:
        return verify(lines, watch=watch)


def _named(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


class _Links:
    """The files while they are put into their order."""

    def __init__(self, files: list[LogFile], report: SetReport) -> None:
        self.files, self.report = files, report

    def drop_copies(self) -> None:
        """Of files that begin with the same record, keep the one with the most records."""
        longest = dict[Head, LogFile]()
        for file in sorted(self.files, key=lambda file: -file.report.head.seq):
            if file.report.first == GENESIS:
                continue
            other = longest.setdefault(file.report.first, file)
            if other is not file:
                count, whole = file.report.head.seq, other.report.head.seq
                self._problem("doubled", f"{file.path} holds {count} of the {whole} records of {other.path}")
                self.files.remove(file)

    def find_parents(self) -> None:
        """Find the file that each file continues, or say what is wrong with it."""
        links = [(file, link) for file in self.files if (link := file.link) is not None]
        missing = [(file, link) for file, link in links if not self._has_parent(file, link)]
        ends = [file for file in self.files if not any(other.parent is file for other in self.files)]
        for file, link in missing:
            if (name := self._deleted.get(str(link.head))) is not None:
                self.report.deleted.append(name)
                continue
            cut = [end for end in ends if end.report.head.seq < link.head.seq and not _descends(end, file)]
            if link.name is None and len(missing) == len(cut) == 1:
                self._cut(cut[0], file, link)
                continue
            older = f"the file {link.name}" if link.name else "a file"
            detail = f"{file.path} continues {older} with {link.head.seq} records, which is not here"
            self._problem("missing", f"{detail} (head {link.head})")

    def _has_parent(self, file: LogFile, link: Predecessor) -> bool:
        """Set the file's parent, if it is here; say if it was cut or extended since."""
        rest = [other for other in self.files if other is not file]
        for other in rest:
            if other.report.head == link.head:
                file.parent = other
                return True
        for other in rest:
            if link.head in other.report.watched:
                file.parent = other
                more = other.report.head.seq - link.head.seq
                detail = (
                    f"{other.path} has {more} records after the {link.head.seq} that {file.path} continues"
                )
                self._problem("extended", detail)
                return True
        for other in rest:
            is_named = link.name is not None and other.path.name in (link.name, f"{link.name}.gz")
            if is_named and other.report.head.seq < link.head.seq and not _descends(other, file):
                self._cut(other, file, link)
                return True
        return False

    def _cut(self, older: LogFile, newer: LogFile, link: Predecessor) -> None:
        newer.parent = older
        count, whole = older.report.head.seq, link.head.seq
        self._problem("cut", f"{older.path} has {count} of the {whole} records that {newer.path} continues")

    def arrange(self) -> None:
        """Put the files into their order."""
        children = dict[LogFile | None, list[LogFile]]()
        for file in sorted(self.files, key=lambda file: file.at):
            children.setdefault(file.parent, []).append(file)
        for parent, several in children.items():
            if parent is not None and len(several) > 1:
                names = " and ".join(str(file.path) for file in several)
                self._problem("forked", f"{names} continue {parent.path}")
        beginnings = [file for file in children.get(None, []) if file.link is None]
        for file in beginnings[1:]:
            detail = f"{file.path} with {file.report.head.seq} records continues no file"
            self._problem("apart", f"{detail}: it is another log, or its first record was removed")
        waiting = children.get(None, [])[::-1]
        while waiting:
            file = waiting.pop()
            self.report.files.append(file)
            waiting.extend(children.pop(file, [])[::-1])
        for file in self.files:
            if file not in self.report.files:  # only forged heads lead in a circle
                self._problem("apart", f"{file.path} continues a file that continues it")
                self.report.files.append(file)

    def compare_names(self) -> None:
        """Say where the names contradict the order by the heads: by their times, and as the log's own name.

        A name that somebody else has given says nothing.
        """
        names = [file.path.name for file in self.report.files]
        logs = {SUFFIX.sub("", name) for name in names if SUFFIX.search(name)}
        for older, newer in pairwise(self.report.files):
            before, after = _place(older.path, logs), _place(newer.path, logs)
            if newer.parent is older and before is not None and after is not None and before > after:
                self._problem(
                    "reordered",
                    f"{newer.path} continues {older.path}, although its name is that of an older file",
                )

    def find_unfinished(self) -> None:
        """Find the permits whose outcome is in no file."""
        calls = dict[str, tuple[Path, int]]()
        for file in self.report.files:
            for call in file.report.earlier:
                calls.pop(call, None)
            calls |= {call: (file.path, line) for call, line in file.report.calls.items()}
        self.report.unfinished = list(calls.values())

    @cached_property
    def _deleted(self) -> dict[str, str]:
        return {head: name for file in self.files for head, name in file.report.deleted.items()}

    def _problem(self, kind: str, detail: str) -> None:
        self.report.problems.append(Problem(kind, detail))


def _descends(file: LogFile, ancestor: LogFile) -> bool:
    step, passed = file, {file}
    while step is not ancestor and step.parent is not None and step.parent not in passed:
        step = step.parent
        passed.add(step)
    return step is ancestor


def _place(path: Path, logs: Collection[str]) -> tuple[str, int] | None:
    """Return the time and the number that a rotation has put into a name, or None if it has none.

    The name of a log itself, which is one of *logs*, is that of the newest file.
    """
    match = SUFFIX.search(path.name)
    if match is None:
        return ("~", 0) if path.name in logs else None
    return match[1], int(match[2] or 0)
