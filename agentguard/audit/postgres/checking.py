"""Verifies the audit log in PostgreSQL: the chain of each writer, and that no chain is missing.

The log's own head is a number of records and a hash over their hashes, in the order of the table. It is kept
elsewhere, as that of a file. Records that are younger than a minute are verified and not counted in it: one
that another process is still adding may come to stand before them.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentguard.audit.chain import GENESIS, Fault, Head, Report, Walk, parse
from agentguard.audit.postgres.rows import NEWEST, Row, family_of

__all__ = ["LogReport", "verify_log"]

SETTLED = 60.0
"""Seconds after which no record comes to stand before another one."""
AHEAD = 3600.0
"""By so many seconds at most the server's clock may have been set back since a record was added."""
_LATEST = 16 * NEWEST


@dataclass(slots=True)
class LogReport:
    """The result of `verify_log`: a report for each writer, the log's head, and what is wrong between chains.

    Lines of a report are numbers in the chain. `unfinished` are the writer and the number of permits without
    an outcome in any chain.
    """

    chains: dict[str, Report] = field(default_factory=dict)
    head: Head = GENESIS
    faults: list[Fault] = field(default_factory=list)
    unfinished: list[tuple[str, int]] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether no record was altered, and none is missing."""
        return not self.faults and all(report.sound for report in self.chains.values())

    @property
    def records(self) -> int:
        """The number of intact records."""
        return sum(report.records for report in self.chains.values())


def verify_log(rows: Iterable[Row], head: Head | None = None, *, settled: float = SETTLED) -> LogReport:
    """Verify all chains; *rows* are those of the table in their order, and *head* was kept elsewhere.

    What is in no line and says where a record is found is verified too: its tasks, and when it was added.

    Memory holds for each writer its head and what is wrong, and the hashes of the latest records.
    """
    log = _Log(settled)
    for row in rows:
        log.take(row, head)
    return log.finish(head)


class _Log:
    def __init__(self, settled: float) -> None:
        self._report, self._settled = LogReport(), settled
        self._walks: dict[str, Walk] = {}
        self._seen: dict[str, int] = {}  # how far others have seen each chain go
        self._absent: dict[tuple[str, int], str] = {}  # the hashes of what others had seen, and was not there
        self._latest: OrderedDict[tuple[str, int], str] = OrderedDict()  # the hashes of the latest records
        self._digest, self._is_settled, self._passed = GENESIS.hash, True, False

    def take(self, row: Row, head: Head | None) -> None:
        walk = self._walks.setdefault(row.writer, Walk(None, frozenset()))
        walk.take(f"{row.line}\n".encode())
        record = parse(row.line.encode())
        if record is None or (record["seq"], record["hash"]) != (row.seq, row.hash):
            self._fault("changed", f"row {row.n} is not the record {row.seq} of {row.writer}")
        else:
            self._read(row, record)
        if row.seconds < -AHEAD:  # no record after it would ever be counted in the head
            self._fault("changed", f"row {row.n} says that it was added later than now")
        if (digest := self._absent.pop((row.writer, row.seq), None)) is not None:
            kind = "reordered" if digest == row.hash else "changed"
            detail = f"record {row.seq} of {row.writer} stands behind the record of one that had seen it"
            self._fault(kind, detail)
        self._latest[row.writer, row.seq] = row.hash
        if len(self._latest) > _LATEST:
            self._latest.popitem(last=False)
        self._count(row, head)

    def _read(self, row: Row, record: Mapping[str, Any]) -> None:
        if row.family != family_of(record):
            self._fault("changed", f"row {row.n} is not kept for the tasks of its record")
        if record.get("event") == "begun":
            self._witness(record.get("witnessed"))
            if record.get("writer") != row.writer:
                self._fault("changed", f"the chain of {row.writer} was begun by {record.get('writer')}")

    def finish(self, head: Head | None) -> LogReport:
        report = self._report
        for writer, walk in self._walks.items():
            report.chains[writer] = walk.finish()
        for writer, last in self._seen.items():
            self._compare(writer, last)
        if head is not None and head != GENESIS and not self._passed:
            self._fault("cut", f"the log has not the head {head}, which was given: records are missing")
        ended = {call for chain in report.chains.values() for call in chain.earlier}
        report.unfinished = [
            (writer, line)
            for writer, chain in report.chains.items()
            for call, line in chain.calls.items()
            if call not in ended
        ]
        return report

    def _witness(self, heads: object) -> None:
        for text in heads if isinstance(heads, list) else ():
            writer, _, head = str(text).partition(" ")
            try:
                seq, digest = Head.of(head)
            except ValueError:
                continue
            self._seen[writer] = max(seq, self._seen.get(writer, 0))
            walk = self._walks.get(writer)
            if walk is None or walk.report.head.seq < seq:
                self._absent[writer, seq] = digest
            if self._latest.get((writer, seq), digest) != digest:
                self._fault("changed", f"record {seq} of {writer} is not the one that others have seen")

    def _compare(self, writer: str, last: int) -> None:
        """Compare how far others have seen a chain go with how far it goes."""
        chain = self._report.chains.get(writer)
        if chain is None:
            self._fault("removed", f"the chain of {writer} is missing, which had {last} records")
        elif chain.head.seq < last:
            detail = f"the chain of {writer} ends with record {chain.head.seq}, and had {last} records"
            self._fault("removed", detail)

    def _count(self, row: Row, head: Head | None) -> None:
        self._is_settled = self._is_settled and row.seconds >= self._settled
        if not self._is_settled:
            return
        self._digest = hashlib.sha256(f"{self._digest}{row.hash}".encode()).hexdigest()
        self._report.head = Head(self._report.head.seq + 1, self._digest)
        self._passed = self._passed or self._report.head == head

    def _fault(self, kind: str, detail: str) -> None:
        self._report.faults.append(Fault(0, kind, detail))
