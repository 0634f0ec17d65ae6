"""The tables of the SQLite store, and the statements that it runs."""

from __future__ import annotations

import json

from agentguard.model import Call, LiveCredential, Outcome, TaskState
from agentguard.stores._connection import Connection

VERSION = 8
SCHEMA = """
CREATE TABLE tasks (
    id TEXT PRIMARY KEY, fixed TEXT NOT NULL, deadline REAL NOT NULL, over REAL NOT NULL,
    status TEXT NOT NULL, calls INTEGER NOT NULL, writes INTEGER NOT NULL, history TEXT NOT NULL,
    untrusted INTEGER NOT NULL, sensitivity INTEGER NOT NULL, labels INTEGER NOT NULL,
    questions INTEGER NOT NULL, choice_bits INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX tasks_over ON tasks (over);
CREATE TABLE lineage (
    ancestor TEXT NOT NULL, task_id TEXT NOT NULL, PRIMARY KEY (ancestor, task_id)) STRICT, WITHOUT ROWID;
CREATE TABLE labels (
    family TEXT NOT NULL, digest TEXT NOT NULL, source TEXT NOT NULL, trusted INTEGER NOT NULL,
    sensitivity INTEGER NOT NULL, PRIMARY KEY (family, digest, source)) STRICT, WITHOUT ROWID;
CREATE TABLE calls (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, task_id TEXT NOT NULL, tool TEXT NOT NULL, path TEXT NOT NULL,
    approval_id TEXT, suspended INTEGER NOT NULL DEFAULT 0, write_number INTEGER, counted TEXT)
    STRICT, WITHOUT ROWID;
CREATE INDEX calls_suspended ON calls (key) WHERE suspended;
CREATE TABLE credentials (
    call_id TEXT NOT NULL, task_id TEXT NOT NULL, broker TEXT NOT NULL, handle TEXT NOT NULL,
    expires_at REAL NOT NULL, owner TEXT NOT NULL,
    PRIMARY KEY (call_id, broker, handle)) STRICT, WITHOUT ROWID;
CREATE TABLE keys (key TEXT PRIMARY KEY, until REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE approvals (
    n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, call_key TEXT NOT NULL, task_id TEXT NOT NULL,
    tool TEXT NOT NULL, digest TEXT NOT NULL, policy_version TEXT NOT NULL, expires_at REAL NOT NULL,
    status TEXT NOT NULL, approver TEXT, reason TEXT NOT NULL, path TEXT NOT NULL, purpose TEXT NOT NULL,
    display TEXT NOT NULL, shown_digest TEXT NOT NULL, family TEXT NOT NULL) STRICT;
CREATE INDEX approvals_call ON approvals (call_key);
CREATE INDEX approvals_expiry ON approvals (expires_at);
CREATE INDEX approvals_denied ON approvals (family, tool, shown_digest) WHERE status = 'denied';
CREATE INDEX tasks_active ON tasks (json_extract(fixed, '$.identity[0]')) WHERE status = 'active';
CREATE INDEX tasks_user ON tasks (json_extract(fixed, '$.login[1]'))
    WHERE status = 'active' AND json_extract(fixed, '$.login[1]') IS NOT NULL;
CREATE INDEX tasks_session ON tasks (json_extract(fixed, '$.login[2]'))
    WHERE status = 'active' AND json_extract(fixed, '$.login[2]') IS NOT NULL;
CREATE INDEX tasks_token ON tasks (json_extract(fixed, '$.login[3]'))
    WHERE status = 'active' AND json_extract(fixed, '$.login[3]') IS NOT NULL;
CREATE TABLE counters (
    owner TEXT NOT NULL, name TEXT NOT NULL, bucket INTEGER NOT NULL, value INTEGER NOT NULL,
    until REAL NOT NULL, PRIMARY KEY (owner, name, bucket)) STRICT, WITHOUT ROWID;
CREATE INDEX lineage_task ON lineage (task_id);
CREATE INDEX credentials_task ON credentials (task_id);
INSERT INTO calls VALUES ('~', lower(hex(randomblob(16))), '', '', '', NULL, 0, 0, NULL)"""
# The last row of `calls` is no call. It holds the identity of the file and the number of its last write: a
# write copies each page that it changes to the log, and the page of the calls is one that a call changes
# anyway. Its `path` is the number of a write that stands in the file itself, `approval_id` the cookie of our
# last VACUUM (see `_main_file`), and `tool` what is wrong with the file. For the same reason no index serves
# the pruning alone (see `_sql_pruning`).

TASK_ROW = "INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
TASK = (
    "SELECT fixed, deadline, history, status, calls, writes, untrusted, sensitivity, labels, questions,"
    " choice_bits FROM tasks WHERE id = ?"
)
BEGIN = (  # the task, and the approval that its suspended call of the same key used; one query saves time
    "SELECT fixed, deadline, history, status, calls, writes, untrusted, sensitivity, labels, questions,"
    " choice_bits, (SELECT coalesce(approval_id, '') FROM calls"
    " WHERE key = ? AND suspended AND task_id = ? AND tool = ? AND path = ?) FROM tasks WHERE id = ?"
)
CALL = "INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, 0, NULL, ?)"
RESUME = "DELETE FROM calls WHERE key = ? AND suspended AND task_id = ? AND tool = ? AND path = ?"
COUNT = "UPDATE tasks SET calls = ?, writes = ?, choice_bits = ? WHERE id = ?"
COUNT_UNCHANGED = (  # if the task is still as it was read, and no call of this key is suspended
    "UPDATE tasks SET calls = ?, writes = ?, choice_bits = ? WHERE id = ? AND status = 'active'"
    " AND deadline = ? AND calls = ? AND writes = ? AND fixed = ?"
    " AND NOT EXISTS (SELECT 1 FROM calls WHERE key = ? AND suspended)"
)
COUNT_FIRST = "UPDATE tasks SET calls = ?, writes = ?, choice_bits = ?, history = ? WHERE id = ?"
LIVE = "SELECT call_id, task_id, broker, handle, expires_at, owner FROM credentials"
LIVE_OF = (
    "SELECT call_id, task_id, broker, handle, expires_at, owner FROM credentials WHERE task_id IN"
    " (VALUES (?) UNION ALL SELECT task_id FROM lineage WHERE ancestor = ?)"
)
TRACK = "INSERT OR REPLACE INTO credentials VALUES (?, ?, ?, ?, ?, ?)"
ACTIVE_OF = (
    "SELECT id FROM tasks WHERE status = 'active' AND id IN"
    " (VALUES (?) UNION ALL SELECT task_id FROM lineage WHERE ancestor = ?)"
)
ACTIVE_FOR = (
    "SELECT id FROM tasks WHERE status = 'active' AND deadline > ?"
    " AND json_extract(fixed, '$.identity[0]') = ?"
)
SUBJECTS = "SELECT DISTINCT json_extract(fixed, '$.identity[0]') FROM tasks WHERE status = 'active'"
ACTIVE_IN = (  # by the place of a name in a login: subject, session, token
    "SELECT id FROM tasks WHERE status = 'active' AND deadline > ? AND json_extract(fixed, '$.login[{}]') = ?"
    " AND json_extract(fixed, '$.login[0]') = ? AND ? IN ('', json_extract(fixed, '$.login[1]'))"
    " AND ? IN ('', json_extract(fixed, '$.login[2]')) AND ? IN ('', json_extract(fixed, '$.login[3]'))"
)
PLACES = {"subject": 1, "session": 2, "jti": 3}
ACTIVE_BY = {name: ACTIVE_IN.format(place) for name, place in PLACES.items()}
WITHOUT = {"": ""} | {  # the login of the task lacks a name, or the task has no login
    name: f" AND coalesce(json_extract(fixed, '$.login[{place}]'), '') = ''" for name, place in PLACES.items()
}
FORGET = "DELETE FROM credentials WHERE call_id = ?"
REMEMBER = (
    "INSERT INTO keys VALUES (?, ?) ON CONFLICT (key)"
    " DO UPDATE SET until = max(until, excluded.until) WHERE until <= ?"
)
LABELS = "SELECT digest, source, trusted, sensitivity FROM labels WHERE family = ? AND digest IN ({})"
LABEL = "INSERT OR IGNORE INTO labels VALUES (?, ?, ?, ?, ?)"
LABELLED = (
    "UPDATE tasks SET labels = labels + ? WHERE id = ?"
    " OR id IN (SELECT task_id FROM lineage WHERE ancestor = ?)"
)
READ = "UPDATE tasks SET untrusted = max(untrusted, ?), sensitivity = max(sensitivity, ?) WHERE id = ?"


def track(db: Connection, live: LiveCredential) -> None:
    """Record a credential; one with the same call, broker and handle is replaced."""
    row = (live.call_id, live.task_id, live.broker, live.handle, live.expires_at, live.owner)
    db.write(TRACK, row)


def count(db: Connection, state: TaskState, call: Call) -> None:
    """Count a call against its task or an ancestor."""
    *counts, history = state.count(call)
    if history is state.history:
        db.write(COUNT, (*counts, state.id))
    else:
        db.write(COUNT_FIRST, (*counts, json.dumps(history), state.id))


def remember(db: Connection, key: str, until: float, now: float) -> bool:
    """Record a key, or the later time of a recorded one; return whether the key is new."""
    new = db.write(REMEMBER, (key, until, now)).rowcount > 0
    if not new:
        db.write("UPDATE keys SET until = max(until, ?) WHERE key = ?", (until, key))
    return new


def end(db: Connection, call_id: str, outcome: Outcome) -> None:
    """Record that a call has ended or is suspended."""
    if outcome is Outcome.SUSPENDED:
        db.write("UPDATE calls SET suspended = 1 WHERE id = ? AND write_number IS NULL", (call_id,))
    else:
        db.write("DELETE FROM calls WHERE id = ? AND NOT suspended AND write_number IS NULL", (call_id,))
