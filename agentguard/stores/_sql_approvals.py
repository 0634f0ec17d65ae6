"""The approvals of the SQLite store. Each function runs in a transaction of the store."""

from __future__ import annotations

import sqlite3

from agentguard.model import Approval
from agentguard.stores import _rows, _rules

COLUMNS = (
    "id, call_key, task_id, tool, digest, policy_version, expires_at, status, approver, reason,"
    " path, purpose, display, shown_digest"
)
ASK = f"INSERT INTO approvals ({COLUMNS}, family) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  constants alone
BY_ID = f"SELECT {COLUMNS} FROM approvals WHERE id = ?"  # noqa: S608  constants alone
NEWEST = f"SELECT {COLUMNS} FROM approvals WHERE call_key = ? ORDER BY n DESC LIMIT 1"  # noqa: S608  constants alone
REJECTION = (
    f"SELECT {COLUMNS} FROM approvals"  # noqa: S608  constants alone
    " WHERE family = ? AND tool = ? AND shown_digest = ? AND status = 'denied' ORDER BY n LIMIT 1"
)


def save(db: sqlite3.Connection, approval: Approval, family: _rules.Family, now: float) -> None:
    """Record a new question, and count it for each task of *family*: the approval's task and its lineage."""
    root = family[-1][0]
    states = _rules.ask(approval, family, rejection(db, root, approval.tool, approval.shown_digest), now)
    db.executemany("UPDATE tasks SET questions = questions + 1 WHERE id = ?", [(s.id,) for s in states])
    db.execute(ASK, _rows.approval_row(approval, root))


def answer(db: sqlite3.Connection, reply: Approval, now: float) -> None:
    """Record a person's answer to a pending approval."""
    row = db.execute("SELECT family FROM approvals WHERE id = ?", (reply.id,)).fetchone()
    before = None if row is None else rejection(db, row[0], reply.tool, reply.shown_digest)
    answered = _rules.answer(by_id(db, reply.id), reply, before, now)
    db.execute(
        "UPDATE approvals SET status = ?, approver = ?, reason = ? WHERE id = ?",
        (str(answered.status), answered.approver, answered.reason, answered.id),
    )


def use(db: sqlite3.Connection, approval: Approval) -> None:
    """Record that an approval is used."""
    db.execute("UPDATE approvals SET status = 'used' WHERE id = ?", (approval.id,))


def by_id(db: sqlite3.Connection, approval_id: str) -> Approval | None:
    """Return an approval, or None."""
    return _one(db, BY_ID, approval_id)


def newest(db: sqlite3.Connection, call_key: str) -> Approval | None:
    """Return the newest approval for this call, or None."""
    return _one(db, NEWEST, call_key)


def rejection(db: sqlite3.Connection, family: str, tool: str, shown_digest: str) -> Approval | None:
    """Return a rejection of such a call in a family of tasks, or None."""
    return _one(db, REJECTION, family, tool, shown_digest)


def _one(db: sqlite3.Connection, query: str, *values: str) -> Approval | None:
    row = db.execute(query, values).fetchone()
    return None if row is None else _rows.approval(row)
