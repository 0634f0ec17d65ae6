"""The numbers of calls in the SQLite store. Each function runs in a transaction of the store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence

from agentguard.model import Addition, Call, CallKey, Cell
from agentguard.stores import _counter_rules

VALUES = (  # of cells as JSON, after what a suspended call has added; one statement sees one moment
    "SELECT 0, (SELECT counted FROM calls"
    " WHERE key = ? AND suspended AND task_id = ? AND tool = ? AND path = ?)"
    " UNION ALL SELECT * FROM (SELECT 1, (SELECT coalesce(sum(value), 0) FROM counters"
    " WHERE owner = json_extract(cell.value, '$[0]') AND name = json_extract(cell.value, '$[1]')"
    " AND bucket >= json_extract(cell.value, '$[2]')) FROM json_each(?) AS cell ORDER BY cell.key)"
)
IN_BUCKET = "SELECT value FROM counters WHERE owner = ? AND name = ? AND bucket = ?"
ADD = (
    "INSERT INTO counters VALUES (?, ?, ?, ?, ?) ON CONFLICT (owner, name, bucket)"
    " DO UPDATE SET value = value + excluded.value, until = max(until, excluded.until)"
)
SUBTRACT = "UPDATE counters SET value = value - ? WHERE owner = ? AND name = ? AND bucket = ?"
DROP = "DELETE FROM counters WHERE owner = ? AND name = ? AND bucket = ? AND value <= 0"
SUSPENDED = "SELECT counted FROM calls WHERE key = ? AND suspended AND task_id = ? AND tool = ? AND path = ?"
RUNNING = "SELECT counted FROM calls WHERE id = ? AND NOT suspended AND write_number IS NULL"


def values(db: sqlite3.Connection, cells: Sequence[Cell], resumes: CallKey | None) -> tuple[int, ...]:
    """Return numbers, without what the suspended call *resumes* has added to them."""
    (_, before), *rows = db.execute(VALUES, (*_row(resumes), json.dumps(cells))).fetchall()
    added = _counter_rules.unpacked(before)
    return tuple(
        value - _counter_rules.added_by(added, cell) for cell, (_, value) in zip(cells, rows, strict=True)
    )


def begin(db: sqlite3.Connection, call: Call) -> None:
    """Add what a call adds, in place of what the suspended call that it resumes has added.

    Raises:
        CountersChanged, CountersFull: The transaction has to be rolled back.
    """
    _counter_rules.require_unchanged(call, values(db, [cell for cell, _ in call.numbers], call.same))
    _subtract(db, _added(db, SUSPENDED, _row(call.same)))
    for addition in call.additions:
        owner, name, bucket, amount, group, until = addition
        present = _in_bucket(db, owner, name, bucket)
        _counter_rules.grown(present, addition)
        if group and not present:
            _counter_rules.within_limit(_in_bucket(db, owner, group, bucket), addition)
            db.execute(ADD, (owner, group, bucket, 1, until))
        db.execute(ADD, (owner, name, bucket, amount, until))


def undo(db: sqlite3.Connection, call_id: str) -> None:
    """Take back what a running call has added."""
    if added := _added(db, RUNNING, (call_id,)):
        _subtract(db, added)
        db.execute("UPDATE calls SET counted = NULL WHERE id = ?", (call_id,))


def _row(same: CallKey | None) -> tuple[str | None, ...]:
    return (None,) * 4 if same is None else (same.key, same.task_id, same.tool, str(same.path))


def _added(db: sqlite3.Connection, query: str, place: tuple[str | None, ...]) -> tuple[Addition, ...]:
    row = db.execute(query, place).fetchone()
    return () if row is None else _counter_rules.unpacked(row[0])


def _in_bucket(db: sqlite3.Connection, owner: str, name: str, bucket: int) -> int:
    row = db.execute(IN_BUCKET, (owner, name, bucket)).fetchone()
    return 0 if row is None else int(row[0])


def _subtract(db: sqlite3.Connection, additions: Iterable[Addition]) -> None:
    for owner, name, bucket, amount, group, _ in additions:
        db.execute(SUBTRACT, (amount, owner, name, bucket))
        if db.execute(DROP, (owner, name, bucket)).rowcount and group:
            db.execute(SUBTRACT, (1, owner, group, bucket))
            db.execute(DROP, (owner, group, bucket))
