"""The audit log in PostgreSQL without a server: what a writer keeps and drops, and what a check finds.

The table is a stand-in here, so that it fails at the moment that a test says. The real one is tested in
`tests.real.test_audit_postgres`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest

from agentguard.audit.chain import GENESIS, Head, seal
from agentguard.audit.postgres import writer as writers
from agentguard.audit.postgres.checking import LogReport, verify_log
from agentguard.audit.postgres.rows import Row, Rows, Sealed, family_of
from agentguard.audit.postgres.writer import Entry, Writer
from agentguard.errors import AuditError
from agentguard.postgres.address import Address
from agentguard.postgres.connector import Connector

PROMISE = pytest.mark.promise("audit-log-in-postgres")


class Table(Rows):
    """The rows in memory. `fail` is called before records are added, and `lose` after."""

    def __init__(self) -> None:
        self.rows = list[Row]()
        self.fail: Callable[[], None] = lambda: None
        self.lose: Callable[[], None] = lambda: None

    def add(self, writer: str, batch: Sequence[Sealed]) -> bool:
        self.fail()
        present = {(row.writer, row.seq): row.hash for row in self.rows}
        for sealed in batch:
            if present.setdefault((writer, sealed.head.seq), sealed.head.hash) != sealed.head.hash:
                return False
        known = {(row.writer, row.seq) for row in self.rows}
        for sealed in batch:
            if (writer, sealed.head.seq) not in known:
                place = (len(self.rows) + 1, writer, sealed.head.seq, sealed.head.hash)
                self.rows.append(Row(*place, sealed.line, 100.0, sealed.family))
        self.lose()
        return True

    def newest_heads(self) -> list[str]:
        heads = {row.writer: f"{row.writer} {Head(row.seq, row.hash)}" for row in self.rows}
        return list(heads.values())


class TableWriter(Writer):
    """A writer of such a table. While it `is_away`, nothing is sent."""

    def __init__(self, table: Table) -> None:
        async def check(*_: object) -> None: ...

        connector = Connector(Address("postgresql://127.0.0.1:1/a", timeout=1.0), None, check)
        super().__init__(connector, "audit", 1.0, lambda: "2026-01-01T00:00:00Z")
        self.table, self.is_away = table, False

    def _rows(self) -> Rows:
        if self.is_away:
            down()
        return self.table


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def writer(table: Table, monkeypatch: pytest.MonkeyPatch) -> Iterator[TableWriter]:
    monkeypatch.setattr(writers, "_PAUSE", 0.01)
    writer = TableWriter(table)
    yield writer
    writer.close()


def down() -> None:
    raise psycopg.OperationalError("the server is away")


def require(value: bool) -> None:
    assert value


def permit(call: str) -> dict[str, Any]:
    return {"at": "2026-01-01T00:00:00Z", "event": "decision", "effect": "permit", "call": call, "task": "t"}


def outcome(call: str) -> dict[str, Any]:
    return {"at": "2026-01-01T00:00:00Z", "event": "outcome", "call": call}


def written(table: Table) -> list[tuple[str, Any]]:
    records = [json.loads(row.line) for row in table.rows]
    return [(record["event"], record.get("call", record.get("records"))) for record in records]


def append(writer: Writer, record: dict[str, Any], *, permits: bool = False) -> None:
    entry = Entry(record, permits)
    writer.submit(entry)
    entry.answer.result(5)


def wait_until(is_so: Callable[[], bool]) -> None:
    ends = time.monotonic() + 5.0
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.005)


# --- what a writer keeps and drops


@PROMISE
def test_what_has_happened_is_written_when_the_server_is_back_and_a_permit_that_failed_is_not(
    table: Table, writer: TableWriter
) -> None:
    append(writer, permit("1"), permits=True)
    writer.is_away = True
    with pytest.raises(AuditError, match="away"):
        append(writer, permit("2"), permits=True)
    with pytest.raises(AuditError, match="away"):
        append(writer, outcome("1"))
    assert writer.waiting == 1
    writer.is_away = False
    wait_until(lambda: not writer.waiting)
    append(writer, permit("3"), permits=True)
    assert written(table)[1:] == [("decision", "1"), ("outcome", "1"), ("decision", "3")]


@PROMISE
@pytest.mark.parametrize("arrives", [True, False])
def test_what_was_under_way_when_the_connection_broke_is_sent_again_and_stands_there_once(
    table: Table, writer: TableWriter, arrives: bool
) -> None:
    append(writer, permit("1"), permits=True)
    if arrives:
        table.lose = down
    else:
        table.fail = down
    with pytest.raises(AuditError, match="may have been done or not"):
        append(writer, permit("2"), permits=True)
    table.lose = table.fail = lambda: None
    append(writer, outcome("2"))
    assert written(table)[1:] == [("decision", "1"), ("decision", "2"), ("outcome", "2")]
    assert verify_log(table.rows).sound


def test_a_permit_that_was_given_up_before_it_was_under_way_is_not_written(
    table: Table, writer: TableWriter
) -> None:
    goes_on = threading.Event()
    table.fail = lambda: require(goes_on.wait(5))
    writer.submit(Entry(outcome("1"), permits=False))
    wait_until(lambda: writer._queue.empty())
    late, kept = Entry(permit("2"), permits=True), Entry(outcome("2"), permits=False)
    for entry in (late, kept):
        entry.given_up = True
        writer.submit(entry)
    goes_on.set()
    kept.answer.result(5)
    assert written(table)[1:] == [("outcome", "1"), ("outcome", "2")]
    assert not late.answer.done()


def test_of_more_records_than_may_wait_the_number_is_written(
    table: Table, writer: TableWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "OWED", 3)
    writer.is_away = True
    for number in range(8):
        with pytest.raises(AuditError):
            append(writer, outcome(f"{number}"))
    assert writer.waiting == 8
    writer.is_away = False
    wait_until(lambda: not writer.waiting)
    assert written(table)[1:] == [("outcome", "0"), ("outcome", "1"), ("outcome", "2"), ("lost", 5)]
    assert sum(report.lost for report in verify_log(table.rows).chains.values()) == 5


def test_a_record_that_is_told_again_if_it_fails_is_not_written_later(
    table: Table, writer: TableWriter
) -> None:
    writer.is_away = True
    with pytest.raises(AuditError):
        append(writer, {"at": "2026-01-01T00:00:00Z", "event": "words"})
    assert writer.waiting == 0
    writer.is_away = False
    append(writer, outcome("1"))
    assert written(table)[1:] == [("outcome", "1")]


@PROMISE
def test_a_writer_whose_chain_another_one_has_continued_goes_on_in_a_chain_of_its_own(
    table: Table, writer: TableWriter
) -> None:
    append(writer, permit("1"), permits=True)
    line, head = seal({"event": "forged"}, Head(2, table.rows[-1].hash))
    table.add(writer.name, [Sealed(head, [], line.decode().rstrip("\n"))])
    name = writer.name
    with pytest.raises(AuditError, match=f"another process has written as {name}"):
        append(writer, permit("2"), permits=True)
    append(writer, permit("3"), permits=True)
    assert writer.name != name
    report = verify_log(table.rows)
    assert report.sound
    assert len(report.chains) == 2


# --- what a check finds


def log_of(*names: str, number: int = 4) -> list[Row]:
    """Return a log of these writers, which have written in turns after each one has seen the others begin."""
    heads = dict.fromkeys(names, GENESIS)
    rows = list[Row]()

    def add(name: str, record: dict[str, Any]) -> None:
        line, heads[name] = seal(record, heads[name])
        rows.append(
            Row(len(rows) + 1, name, *heads[name], line.decode().rstrip("\n"), 100.0, family_of(record))
        )

    for name in names:
        others_heads = [f"{other} {head}" for other, head in heads.items() if head != GENESIS]
        add(name, {"event": "begun", "writer": name, "witnessed": others_heads})
        for n in range(number):
            add(name, permit(f"{name}{n}"))
    for n in range(number):
        for name in names:
            add(name, outcome(f"{name}{n}"))
    return rows


def written_anew(name: str, number: int = 12) -> list[Row]:
    """Return a sound chain of a writer with other records than it has written."""
    head = GENESIS
    rows = list[Row]()
    for n in range(number):
        record = {"event": "begun", "writer": name, "witnessed": []} if not n else outcome(f"forged{n}")
        line, head = seal(record, head)
        rows.append(Row(100 + n, name, *head, line.decode().rstrip("\n"), 100.0, family_of(record)))
    return rows


def kinds(report: LogReport) -> set[str]:
    faults = [*report.faults, *(fault for chain in report.chains.values() for fault in chain.faults)]
    return {fault.kind for fault in faults}


def test_a_log_of_several_writers_is_sound_and_its_head_is_that_of_its_settled_records() -> None:
    rows = log_of("a", "b", "c")
    report = verify_log(rows)
    assert (report.sound, report.records, report.unfinished) == (True, 27, [])
    assert report.head.seq == 27
    for length in (1, 10, 26):
        part = verify_log(rows[:length])
        assert part.head.seq == length
        assert verify_log(rows, part.head).sound
    young = [row._replace(seconds=1.0) if row.n > 20 else row for row in rows]
    assert verify_log(young).head == verify_log(rows[:20]).head


@PROMISE
@pytest.mark.parametrize(
    ("alter", "expected"),
    [
        (lambda rows: [row for row in rows if row.n != 8], {"removed"}),
        (lambda rows: [row for row in rows if row.writer != "a"], {"removed"}),
        (lambda rows: [row for row in rows if row.writer != "a" or row.seq < 3], {"removed"}),
        (lambda rows: [row._replace(line=row.line.replace("a1", "x1")) for row in rows], {"changed"}),
        (lambda rows: [row._replace(hash="0" * 64) if row.n == 8 else row for row in rows], {"changed"}),
        (lambda rows: [row._replace(writer="d") if row.writer == "c" else row for row in rows], {"changed"}),
        (lambda rows: [*rows[:8], rows[3], *rows[8:]], {"inserted"}),
        (lambda rows: [row._replace(family=[]) if row.n == 8 else row for row in rows], {"changed"}),
        (lambda rows: [row._replace(seconds=-1e9) if row.n == 8 else row for row in rows], {"changed"}),
        (lambda rows: sorted(rows, key=lambda row: (row.writer == "a", row.n)), {"reordered"}),
        (lambda rows: [*(row for row in rows if row.writer != "a"), *written_anew("a")], {"changed"}),
    ],
)
def test_each_alteration_of_the_rows_is_found(
    alter: Callable[[list[Row]], list[Row]], expected: set[str]
) -> None:
    assert expected <= kinds(verify_log(alter(log_of("a", "b", "c"))))


@PROMISE
def test_records_that_are_missing_at_the_end_are_found_by_a_head_that_was_kept_elsewhere() -> None:
    rows = log_of("a", "b")
    head = verify_log(rows).head
    for missing in (rows[:-1], rows[:5], [row for row in rows if row.n != 12], []):
        assert "cut" in kinds(verify_log(missing, head))
    assert kinds(verify_log(rows, replace_hash(head))) == {"cut"}
    assert verify_log(rows, head).sound


def replace_hash(head: Head) -> Head:
    return Head(head.seq, "0" * 64)


def test_a_permit_whose_outcome_another_process_has_written_is_finished() -> None:
    heads = {"a": GENESIS, "b": GENESIS}
    rows = list[Row]()
    for name, record in (("a", permit("1")), ("a", permit("2")), ("b", outcome("1"))):
        line, heads[name] = seal(record, heads[name])
        rows.append(
            Row(len(rows) + 1, name, *heads[name], line.decode().rstrip("\n"), 100.0, family_of(record))
        )
    assert verify_log(rows).unfinished == [("a", 2)]


def test_the_tasks_of_a_record_are_kept_whatever_characters_are_in_their_names() -> None:
    assert family_of({"task": "t\x00\ud800", "lineage": ["p", 7]}) == ["t\\u0000\\ud800", "p"]
    assert family_of({"task": None, "lineage": 7}) == []
