"""A hash chain of JSON lines: how a record is sealed, and how a file of them is verified.

A line is the record's canonical form with its hash appended as the last member, then a newline::

    {"at":"…",…,"prev":"<hash of the record before>","seq":7,…,"hash":"<64 hex digits>"}

The canonical form is JSON with sorted keys, without white space, in ASCII; `hash` is the SHA-256 of
that form, which is the line itself without ``,"hash":"…"``. So any other program verifies it by
cutting text. The first record has seq 1 and a `prev` of zeros. A record with a member `torn`, the
SHA-256 of a half-written line before it, marks where a crash was survived.

What a chain cannot show: whoever may write the file may cut records off its end, or write all of it
anew. Keep a `Head` elsewhere (another machine, a ticket, a transparency log) and give it to `verify`:
then both are found.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["GENESIS", "Fault", "Head", "Report", "parse", "seal", "verify"]

Record = Mapping[str, Any]

RESERVED = frozenset({"seq", "prev", "hash"})
CUT = len(',"hash":""}') + 64
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class Head(NamedTuple):
    """The last record of a chain; ``str(head)`` is what to keep elsewhere, `of` reads it."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"

    @classmethod
    def of(cls, text: str) -> Head:
        """Read ``seq:hash``; anything else is a ValueError."""
        match = re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{64})", text)
        if match is None:
            raise ValueError("a head is a number, a colon, and 64 hexadecimal digits")
        return cls(int(match[1]), match[2])


GENESIS = Head(0, "0" * 64)


class Fault(NamedTuple):
    """One thing that is wrong: `kind` is changed, removed, inserted, reordered, or cut."""

    line: int
    kind: str
    detail: str


@dataclass(slots=True)
class Report:
    """What `verify` found: the number of sound records, the faults, and the torn lines.

    A torn line is what a crash or a full disk leaves behind, and no fault.
    """

    records: int = 0
    head: Head = GENESIS
    faults: list[Fault] = field(default_factory=list)
    torn: list[int] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was altered."""
        return not self.faults


def seal(record: Record, head: Head) -> tuple[bytes, Head]:
    """Return the line of *record* after *head*, and the new head.

    Raises:
        ValueError: A key is reserved, or a value has no JSON form.
    """
    if not RESERVED.isdisjoint(record):
        raise ValueError("seq, prev and hash belong to the chain")
    try:
        body = _encode({**record, "seq": head.seq + 1, "prev": head.hash})
    except TypeError as error:
        raise ValueError(str(error)) from None
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{body[:-1]},"hash":"{digest}"}}\n'.encode(), Head(head.seq + 1, digest)


def parse(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line with or without its newline, or None where it is no record."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("seq")) is not int:
        return None
    return record if isinstance(record.get("hash"), str) else None


def verify(lines: Iterable[bytes], head: Head | None = None) -> Report:
    """Verify a chain, line by line as a file opened in binary mode gives them.

    *head* is one that was kept elsewhere: without it, records cut off the end are not missed.
    """
    walk = _Walk(head)
    for line in lines:
        walk.take(line)
    return walk.finish()


class _Walk:
    """One pass over a chain; it keeps nothing of a sound one but its head."""

    def __init__(self, anchor: Head | None) -> None:
        self.report = Report()
        self.anchor = None if anchor == GENESIS else anchor
        self.line = 0
        self.at = 0  # the line of the head
        self.last = b""
        self.suspect = False  # whether the line before this one is a fault already
        self.odd: list[tuple[int, bytes]] = []  # lines that are no record, not yet known to be torn
        self.gaps: list[tuple[int, int, int]] = []  # line, first and last seq that are missing before it
        self.strays: list[tuple[int, int]] = []  # line and seq of records that come too late

    def take(self, line: bytes) -> None:
        self.line += 1
        record = parse(line)
        if record is None:
            self.odd.append((self.line, line))
            return
        intact = _intact(line.removesuffix(b"\n"), record["hash"])
        if intact and "torn" in record:
            self._forgive(record["torn"])
        self._link(record, intact, self._blame())
        if intact:
            self.report.records += 1
        self.last = line

    def finish(self) -> Report:
        report = self.report
        if any(_is_json(line) for _, line in self.odd):
            self._blame()
        if self.odd:
            report.torn.extend(number for number, _ in self.odd)
        elif self.last and not self.last.endswith(b"\n"):
            report.torn.append(self.line)
        late = {seq for _, seq in self.strays}
        for line, first, last in self.gaps:
            moved = late.issuperset(range(first, last + 1))
            self._fault(
                line, "reordered" if moved else "removed", f"records {first} to {last} are not before it"
            )
        for line, seq in self.strays:
            moved = any(first <= seq <= last for _, first, last in self.gaps)
            self._fault(line, "reordered" if moved else "inserted", f"record {seq} is out of its place")
        if self.anchor is not None:
            self._fault(self.line, "cut", f"record {self.anchor.seq} of the head that was kept is not here")
        report.faults.sort()
        return report

    def _link(self, record: Record, intact: bool, lost: int) -> None:
        """Place a record after the head; *lost* lines before it may have been records."""
        head, seq, claimed = self.report.head, record["seq"], Head(record["seq"], record["hash"])
        first, last = head.seq + 1, head.seq + 1 + lost
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
                self._fault(self.at or self.line, "changed", f"record {seq} was written after another")
            self._advance(claimed, suspect=False)

    def _advance(self, head: Head, *, suspect: bool) -> None:
        self.report.head, self.suspect, self.at = head, suspect, self.line
        if head == self.anchor and not suspect:
            self.anchor = None

    def _forgive(self, torn: object) -> None:
        """Take what a crash left before this record off the suspects."""
        if self.odd:
            left = b"".join(line for _, line in self.odd).removesuffix(b"\n")
            if _digest(left) == torn and not any(_is_json(line) for _, line in self.odd):
                self.report.torn.extend(number for number, _ in self.odd)
                self.odd = []
        elif _digest(self.last.removesuffix(b"\n")) == torn:
            self.report.torn.append(self.line - 1)

    def _blame(self) -> int:
        """Report lines that are no records and were not torn; returns how many there are."""
        lost, self.odd = self.odd, []
        for number, _ in lost:
            self._fault(number, "changed", "this is no record")
        return len(lost)

    def _fault(self, line: int, kind: str, detail: str) -> None:
        self.report.faults.append(Fault(line, kind, detail))


def _intact(bare: bytes, claimed: str) -> bool:
    suffix = f',"hash":"{claimed}"}}'.encode()
    return bare.endswith(suffix) and len(suffix) == CUT and _digest(bare[:-CUT] + b"}") == claimed


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
