"""A hash chain of JSON lines: `seal` makes the line of a record, `verify` checks a whole file.

A line is the record's canonical form with its hash appended as the last member, then a newline::

    {"at":"…",…,"prev":"<hash of the record before>","seq":7,…,"hash":"<64 hex digits>"}

The canonical form is JSON with sorted keys, without white space, in ASCII. `hash` is the SHA-256 of that
form, and the form is the line itself without ``,"hash":"…"``. So another program can verify a line by
cutting text, without a JSON parser. The first record has seq 1 and a `prev` of zeros. A crash or a full
disk can leave a half-written ("torn") line; the next record then has a member `torn`, the SHA-256 of
that line.

A log that was renamed or deleted is begun anew with seq 1 and a record `continued`. Its member `continues` is
the head of the old file, and `file` its name, where that is known; it has a member `found` if no process had
the old file open then. A record `deleted` has the `head` and the name of a rotated file that was deleted,
since no more files were to be kept. A log that was cut in its place has a record `cut`. Its member `after` is
the last head that the process had written before. Such a log does not verify as sound: what was cut away was
a part of it. A record `lost` has the number of `records` that a process could not write and could not keep.

What the chain alone does not show: somebody who can write the file can remove records from its end, or
write the whole file again. Keep a `Head` elsewhere (another machine, a ticket, a transparency log) and
give it to `verify`; then `verify` reports both.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["GENESIS", "Fault", "Head", "Report", "Walk", "continued", "parse", "seal", "verify"]

Record = Mapping[str, Any]

RESERVED = frozenset({"seq", "prev", "hash"})
SEAL_LENGTH = len(',"hash":""}') + 64
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class Head(NamedTuple):
    """The last record of a chain. Keep ``str(head)`` elsewhere; `of` reads it."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"

    @classmethod
    def of(cls, text: str) -> Head:
        """Read ``seq:hash``.

        Raises:
            ValueError: The text has another form.
        """
        match = re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{64})", text)
        if match is None:
            raise ValueError("a head is a number, a colon, and 64 hexadecimal digits")
        return cls(int(match[1]), match[2])


GENESIS = Head(0, "0" * 64)


class Fault(NamedTuple):
    """One thing that is wrong with a log; `kind` is changed, removed, inserted, reordered, or cut."""

    line: int
    kind: str
    detail: str


@dataclass(slots=True)
class Report:
    """The result of `verify`: the number of intact records, the faults, and the numbers of torn lines.

    A torn line is one that a crash or a full disk left half-written. It is not a fault. `continues` are the
    heads of the files that this file continues, since they were renamed or deleted. Verify each of them with
    its head. `unfinished` are the lines of permits whose call has no outcome in this file: the call still
    runs, its process died, its outcome is in the next file, or the call was denied by a process that died
    before it could write that. `lost` is the number of records that were never written.

    For the check of several files: `first` is the head after the first record. `watched` are the heads that
    were to be watched and were passed. `calls` has the lines of unfinished permits by their calls. `earlier`
    are calls whose outcome is here and whose permit is not. `deleted` has names of files by their heads.
    """

    records: int = 0
    head: Head = GENESIS
    faults: list[Fault] = field(default_factory=list)
    torn: list[int] = field(default_factory=list)
    continues: list[Head] = field(default_factory=list)
    unfinished: list[int] = field(default_factory=list)
    lost: int = 0
    first: Head = GENESIS
    watched: set[Head] = field(default_factory=set)
    calls: dict[str, int] = field(default_factory=dict)
    earlier: set[str] = field(default_factory=set)
    deleted: dict[str, str] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether no record was altered."""
        return not self.faults


def seal(record: Record, head: Head) -> tuple[bytes, Head]:
    """Return the line of *record* after *head*, and the new head.

    Raises:
        ValueError: A key is reserved, or a value has no JSON form.
    """
    if not RESERVED.isdisjoint(record):
        raise ValueError("seq, prev and hash are reserved for the chain; use other names")
    try:
        body = _encode({**record, "seq": head.seq + 1, "prev": head.hash})
    except TypeError as error:
        raise ValueError(str(error)) from None
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{body[:-1]},"hash":"{digest}"}}\n'.encode(), Head(head.seq + 1, digest)


def parse(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line, with or without its newline; None if the line is not a record."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("seq")) is not int:
        return None
    return record if isinstance(record.get("hash"), str) else None


def continued(record: Record) -> Head | None:
    """Return the head of the file that a file continues, as this *record* says; None if it does not."""
    text = record.get("continues")
    if record.get("event") != "continued" or not isinstance(text, str):
        return None
    try:
        return Head.of(text)
    except ValueError:
        return None


def verify(
    lines: Iterable[bytes], head: Head | None = None, *, watch: Collection[Head] = frozenset()
) -> Report:
    """Verify a chain; *lines* can be a file that is opened in binary mode.

    *head* is one that was kept elsewhere. Without it, records that were removed from the end are not
    noticed. *watch* are heads that may be passed on the way.
    """
    walk = Walk(head, watch)
    for line in lines:
        walk.take(line)
    return walk.finish()


class Walk:
    """One pass over a chain. While the chain is sound, only its head is kept in memory."""

    def __init__(self, anchor: Head | None, watch: Collection[Head]) -> None:
        self.report, self.watch = Report(), watch
        self.anchor = None if anchor == GENESIS else anchor
        self.line = 0
        self.at = 0  # the line of the head
        self.last = b""
        self.suspect = False  # whether the line before this one is already reported as a fault
        self.unreadable: list[tuple[int, bytes]] = []  # lines that are no records; torn, or a fault
        self.gaps: list[tuple[int, int, int]] = []  # line, first and last seq that are missing before it
        self.strays: list[tuple[int, int]] = []  # line and seq of records that come too late

    def take(self, line: bytes) -> None:
        """Take the next line."""
        self.line += 1
        record = parse(line)
        if record is None:
            self.unreadable.append((self.line, line))
            return
        intact = _intact(line.removesuffix(b"\n"), record["hash"])
        if intact and "torn" in record:
            self._accept_torn(record["torn"])
        self._link(record, intact, self._report_unreadable())
        if intact:
            self._read(record)
        self.last = line

    def _read(self, record: Record) -> None:
        """Note what an intact record says of the log and of its calls."""
        report, call, event = self.report, record.get("call"), record.get("event")
        report.records += 1
        if (head := continued(record)) is not None:
            report.continues.append(head)
        elif event == "cut":
            detail = f"the file was cut under its writer, which had written up to {record.get('after')}"
            self._fault(self.line, "cut", detail)
        elif event == "lost" and isinstance(record.get("records"), int):
            report.lost += record["records"]
        elif event == "decision" and record.get("effect") == "permit" and isinstance(call, str):
            report.calls[call] = self.line
        elif event == "outcome" and isinstance(call, str):
            if report.calls.pop(call, None) is None:
                report.earlier.add(call)
        elif event == "deleted":
            report.deleted[str(record.get("head"))] = str(record.get("file"))

    def finish(self) -> Report:
        """Return what was found."""
        report = self.report
        report.unfinished = sorted(report.calls.values())
        if any(_is_json(line) for _, line in self.unreadable):
            self._report_unreadable()
        if self.unreadable:
            report.torn.extend(number for number, _ in self.unreadable)
        elif self.last and not self.last.endswith(b"\n"):
            report.torn.append(self.line)
        late = {seq for _, seq in self.strays}
        for line, first, last in self.gaps:
            moved = late.issuperset(range(first, last + 1))
            self._fault(
                line,
                "reordered" if moved else "removed",
                f"records {first} to {last} are missing before this line",
            )
        for line, seq in self.strays:
            moved = any(first <= seq <= last for _, first, last in self.gaps)
            self._fault(line, "reordered" if moved else "inserted", f"record {seq} is out of order")
        if self.anchor is not None:
            self._fault(self.line, "cut", f"record {self.anchor.seq}, whose head was given, is missing")
        report.faults.sort()
        return report

    def _link(self, record: Record, intact: bool, unreadable: int) -> None:
        """Link a record to the head; *unreadable* lines before it may have been records."""
        head, seq, claimed = self.report.head, record["seq"], Head(record["seq"], record["hash"])
        first, last = head.seq + 1, head.seq + 1 + unreadable
        if not intact:
            number = seq if first <= seq <= last else first
            self._fault(self.line, "changed", f"record {number} does not match its hash")
            self._advance(Head(number, record["hash"]), suspect=True)
        elif seq < first:
            self.strays.append((self.line, seq))
        else:
            if seq > last:
                self.gaps.append((self.line, first, seq - 1))
            elif seq == first and record.get("prev") != head.hash and not self.suspect:
                self._fault(self.at or self.line, "changed", f"record {seq} was linked to another record")
            self._advance(claimed, suspect=False)

    def _advance(self, head: Head, *, suspect: bool) -> None:
        self.report.head, self.suspect, self.at = head, suspect, self.line
        if self.report.first == GENESIS:
            self.report.first = head
        if head == self.anchor and not suspect:
            self.anchor = None
        if head in self.watch and not suspect:
            self.report.watched.add(head)

    def _accept_torn(self, torn: object) -> None:
        """Count the lines before this record as torn, if *torn* is their digest."""
        if self.unreadable:
            remains = b"".join(line for _, line in self.unreadable).removesuffix(b"\n")
            if _digest(remains) == torn and not any(_is_json(line) for _, line in self.unreadable):
                self.report.torn.extend(number for number, _ in self.unreadable)
                self.unreadable = []
        elif _digest(self.last.removesuffix(b"\n")) == torn:
            self.report.torn.append(self.line - 1)

    def _report_unreadable(self) -> int:
        """Report the lines that are no records and were not torn; return their number."""
        lines, self.unreadable = self.unreadable, []
        for number, _ in lines:
            self._fault(number, "changed", "this line is not a record")
        return len(lines)

    def _fault(self, line: int, kind: str, detail: str) -> None:
        self.report.faults.append(Fault(line, kind, detail))


def _intact(bare: bytes, claimed: str) -> bool:
    suffix = f',"hash":"{claimed}"}}'.encode()
    if len(suffix) != SEAL_LENGTH or not bare.endswith(suffix):
        return False
    return _digest(bare[:-SEAL_LENGTH] + b"}") == claimed


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
