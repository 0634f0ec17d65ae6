"""The approvals of the SQLite store. Each function runs in a transaction of the store."""

from __future__ import annotations

import sqlite3

from agentguard.model import Approval
from agentguard.stores import _rows, _rules

ASK = (
    "INSERT INTO approvals (id, call_key, task_id, tool, digest, policy_version, expires_at, status,"
    " approver, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
APPROVAL = (
    "SELECT id, call_key, task_id, tool, digest, policy_version, expires_at, status, approver, reason"
    " FROM approvals WHERE id = ?"
)
NEWEST = (
    "SELECT id, call_key, task_id, tool, digest, policy_version, expires_at, status, approver, reason"
    " FROM approvals WHERE call_key = ? ORDER BY n DESC LIMIT 1"
)


def save(db: sqlite3.Connection, approval: Approval) -> Approval:
    """Record a pending approval, unless one with its id exists; return the recorded one."""
    recorded = by_id(db, approval.id)
    if recorded is None:
        recorded = _rules.pending(approval)
        db.execute(ASK, _rows.approval_row(recorded))
    return recorded


def answer(db: sqlite3.Connection, reply: Approval, now: float) -> None:
    """Record a person's answer to a pending approval."""
    answered = _rules.answer(by_id(db, reply.id), reply, now)
    db.execute(
        "UPDATE approvals SET status = ?, approver = ?, reason = ? WHERE id = ?",
        (str(answered.status), answered.approver, answered.reason, answered.id),
    )


def use(db: sqlite3.Connection, approval: Approval) -> None:
    """Record that an approval is used."""
    db.execute("UPDATE approvals SET status = 'used' WHERE id = ?", (approval.id,))


def by_id(db: sqlite3.Connection, approval_id: str) -> Approval | None:
    """Return an approval, or None."""
    return _one(db, APPROVAL, approval_id)


def newest(db: sqlite3.Connection, call_key: str) -> Approval | None:
    """Return the newest approval for this call, or None."""
    return _one(db, NEWEST, call_key)


def _one(db: sqlite3.Connection, query: str, *values: str) -> Approval | None:
    row = db.execute(query, values).fetchone()
    return None if row is None else _rows.approval(row)
