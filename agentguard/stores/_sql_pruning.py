"""What the SQLite store forgets: a bounded part of it each time, so that no call waits for all of it."""

from __future__ import annotations

import sqlite3

from agentguard.stores import _rules

KEYS, TASKS, ROWS = 4096, 512, 5000
"""The most keys, and the most tasks, that one round drops; with so many rows of tasks it stops early."""

KEYS_OVER = "DELETE FROM keys WHERE key IN (SELECT key FROM keys WHERE until <= ? ORDER BY until LIMIT ?)"
APPROVALS_OVER = (  # a rejection stays as long as its family
    "DELETE FROM approvals WHERE n IN (SELECT n FROM approvals WHERE expires_at <= ?"
    " AND (status != 'denied' OR NOT EXISTS (SELECT 1 FROM tasks WHERE id = family))"
    " ORDER BY expires_at LIMIT ?)"
)
CREDENTIALS_OVER = (
    "DELETE FROM credentials WHERE (call_id, broker, handle) IN ("
    "SELECT call_id, broker, handle FROM credentials WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)"
)
TASKS_OVER = (  # a task with a live credential stays
    "SELECT id FROM tasks WHERE over <= ?"
    " AND NOT EXISTS (SELECT 1 FROM credentials WHERE task_id = tasks.id) ORDER BY over LIMIT ?"
)
OF_TASK = (
    "DELETE FROM labels WHERE family = ?",
    "DELETE FROM lineage WHERE ancestor = ?",
    "DELETE FROM lineage WHERE task_id = ?",
    "DELETE FROM calls WHERE task_id = ?",
    "DELETE FROM tasks WHERE id = ?",
)


def prune(db: sqlite3.Connection, now: float) -> None:
    """Drop what has been over for long enough by the time *now*."""
    old = now - _rules.KEEP
    db.execute(KEYS_OVER, (now - _rules.KEEP_KEYS, KEYS))
    db.execute(CREDENTIALS_OVER, (old, TASKS))
    rows = 0
    for (task_id,) in db.execute(TASKS_OVER, (old, TASKS)).fetchall():
        rows += sum(db.execute(statement, (task_id,)).rowcount for statement in OF_TASK)
        if rows > ROWS:
            break
    db.execute(APPROVALS_OVER, (old, TASKS))
