"""What the SQLite store forgets: a bounded part of it each time, so that no call waits for all of it."""

from __future__ import annotations

import sqlite3

from agentguard.stores import _counter_rules, _rules

KEYS, TASKS, ROWS = 4096, 512, 5000
"""The most keys that one round looks at, and the most tasks; with so many rows of tasks it stops early."""

APPROVALS_OVER = (  # a rejection stays as long as its family
    "DELETE FROM approvals WHERE n IN (SELECT n FROM approvals WHERE expires_at <= ?"
    " AND (status != 'denied' OR NOT EXISTS (SELECT 1 FROM tasks WHERE id = family))"
    " ORDER BY expires_at LIMIT ?)"
)
TASKS_OVER = (  # a task with a live credential stays
    "SELECT id FROM tasks WHERE over <= ?"
    " AND NOT EXISTS (SELECT 1 FROM credentials WHERE task_id = tasks.id) ORDER BY over LIMIT ?"
)
OF_TASK = (
    "DELETE FROM labels WHERE family = ?",
    "DELETE FROM lineage WHERE ancestor = ?",
    "DELETE FROM lineage WHERE task_id = ?",
    "DELETE FROM counters WHERE owner = 'task ' || ?",
    "DELETE FROM tasks WHERE id = ?",
)


class _Sweep:
    """Deletes what is over from a table, one slice a round, in the order of its primary key.

    An index by time would find what is over at once, but each call would have to write it. *column* is the
    first of the primary key.
    """

    def __init__(self, table: str, column: str, condition: str) -> None:
        self._end = f"SELECT {column} FROM {table} WHERE {column} > ? ORDER BY {column} LIMIT 1 OFFSET ?"  # noqa: S608  constants alone
        self._rest = f"DELETE FROM {table} WHERE {column} > ? AND {condition}"  # noqa: S608  constants alone
        self._slice = f"{self._rest} AND {column} <= ?"
        self._from, self.passes = "", 0

    def run(self, db: sqlite3.Connection, size: int, *values: float) -> None:
        """Go through the next *size* rows; *values* are those of the condition."""
        row = db.execute(self._end, (self._from, size - 1)).fetchone()
        if row is None:
            db.execute(self._rest, (self._from, *values))
            self.passes += 1
        else:
            db.execute(self._slice, (self._from, *values, row[0]))
        self._from = "" if row is None else row[0]


class Pruning:
    """Drops what has been over for long enough. Each process that has the file open goes through it."""

    def __init__(self, retention: _rules.Retention) -> None:
        self._retention = retention
        self._keys = _Sweep("keys", "key", "until <= ?")
        self._credentials = _Sweep("credentials", "call_id", "expires_at <= ?")
        without_task = "write_number IS NULL AND NOT EXISTS (SELECT 1 FROM tasks WHERE id = calls.task_id)"
        self._calls = _Sweep("calls", "id", without_task)
        self._counters = _Sweep("counters", "owner", "until > 0 AND until <= ?")

    @property
    def passes(self) -> int:
        """How many times each table was gone through completely, at least."""
        return min(sweep.passes for sweep in (self._keys, self._credentials, self._calls, self._counters))

    def prune(self, db: sqlite3.Connection, now: float) -> None:
        """Drop a part of what was over at the time *now*; a few rounds drop all of it."""
        old = self._retention.over_before(now)
        self._keys.run(db, KEYS, now - _rules.KEEP_KEYS)
        self._credentials.run(db, TASKS, old)
        rows = 0
        for (task_id,) in db.execute(TASKS_OVER, (old, TASKS)).fetchall():
            rows += sum(db.execute(statement, (task_id,)).rowcount for statement in OF_TASK)
            if rows > ROWS:
                break
        self._calls.run(db, TASKS)
        self._counters.run(db, TASKS, now - _counter_rules.KEEP_BUCKETS)
        db.execute(APPROVALS_OVER, (old, TASKS))
