"""A store's file of the schema version before is brought to today's when it is opened."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from agentguard.errors import ApprovalError, BudgetExhausted
from agentguard.model import CHOICE_BITS, QUESTIONS, ApprovalStatus, ToolPath
from agentguard.stores import MemoryStore, SqliteStore, _rules
from agentguard.stores._migrations import MIGRATIONS
from agentguard.stores._schema import migrate
from agentguard.testing.samples import sample_task
from agentguard.testing.scenes import call, pending_approval

VERSION_3 = """
CREATE TABLE tasks (
    id TEXT PRIMARY KEY, fixed TEXT NOT NULL, deadline REAL NOT NULL, over REAL NOT NULL,
    status TEXT NOT NULL, calls INTEGER NOT NULL, writes INTEGER NOT NULL, history TEXT NOT NULL,
    untrusted INTEGER NOT NULL, sensitivity INTEGER NOT NULL, labels INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX tasks_over ON tasks (over);
CREATE TABLE lineage (
    ancestor TEXT NOT NULL, task_id TEXT NOT NULL, PRIMARY KEY (ancestor, task_id)) STRICT, WITHOUT ROWID;
CREATE TABLE labels (
    family TEXT NOT NULL, digest TEXT NOT NULL, source TEXT NOT NULL, trusted INTEGER NOT NULL,
    sensitivity INTEGER NOT NULL, PRIMARY KEY (family, digest, source)) STRICT, WITHOUT ROWID;
CREATE TABLE calls (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, task_id TEXT NOT NULL, tool TEXT NOT NULL, path TEXT NOT NULL,
    approval_id TEXT, suspended INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID;
CREATE INDEX calls_suspended ON calls (key) WHERE suspended;
CREATE TABLE credentials (
    call_id TEXT NOT NULL, task_id TEXT NOT NULL, broker TEXT NOT NULL, handle TEXT NOT NULL,
    expires_at REAL NOT NULL, owner TEXT NOT NULL,
    PRIMARY KEY (call_id, broker, handle)) STRICT, WITHOUT ROWID;
CREATE TABLE keys (key TEXT PRIMARY KEY, until REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX keys_until ON keys (until);
CREATE TABLE approvals (
    n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, call_key TEXT NOT NULL, task_id TEXT NOT NULL,
    tool TEXT NOT NULL, digest TEXT NOT NULL, policy_version TEXT NOT NULL, expires_at REAL NOT NULL,
    status TEXT NOT NULL, approver TEXT, reason TEXT NOT NULL) STRICT;
CREATE INDEX approvals_call ON approvals (call_key);
CREATE INDEX approvals_expiry ON approvals (expires_at);
PRAGMA user_version = 3"""

FIXED = {
    "purpose": "Pay the bill",
    "identity": ["user:ada", "agent:one", []],
    "mandate": {"tools": ["pay"]},
    "budget": [5, 2],
    "words": "",
    "kinds": [],
    "origins": [],
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a file of version 3, with a task, its child, and an approval in each state."""
    path = tmp_path / "agentguard.db"
    with sqlite3.connect(path) as db:
        db.executescript(VERSION_3)
        for name, lineage in (("root", []), ("child", ["root"])):
            fixed = json.dumps({**FIXED, "lineage": lineage})
            row = (name, fixed, 1e12, 1e12, "active", 4, 1, '["pay"]', 1, 2, 0)
            db.execute("INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        db.execute("INSERT INTO lineage VALUES ('root', 'child')")
        for number, status in enumerate(ApprovalStatus):
            answer = (
                number,
                status,
                "k",
                "child",
                "pay",
                f"digest {status}",
                "1",
                1e12,
                status,
                "user:eve",
                "",
            )
            db.execute("INSERT INTO approvals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", answer)
    db.close()
    return path


def test_a_file_of_the_version_before_is_brought_to_todays(old: Path, tmp_path: Path) -> None:
    store = SqliteStore(old)
    task = store.task("child")
    assert task is not None
    assert (task.calls, task.writes, task.untrusted, task.questions) == (4, 1, True, 4)
    assert (task.budget.calls, task.budget.writes, task.budget.questions) == (5, 2, QUESTIONS)
    root = store.task("root")
    assert root is not None
    assert root.questions == 4
    store.begin_call(call("1", tool="pay", path=ToolPath.WRITE), None)
    store.close()
    with sqlite3.connect(old) as db, sqlite3.connect(tmp_path / "new.db") as new:
        SqliteStore(tmp_path / "new.db").close()
        assert db.execute("PRAGMA user_version").fetchone() == new.execute("PRAGMA user_version").fetchone()
        for table in ("tasks", "approvals", "calls"):
            columns = [[c[1] for c in one.execute(f"PRAGMA table_info({table})")] for one in (db, new)]
            assert columns[0] == columns[1]
        objects = [set(one.execute("SELECT type, name FROM sqlite_master")) for one in (db, new)]
        assert objects[0] == objects[1], "the same tables and indexes"
    db.close()
    new.close()
    SqliteStore(old).close()  # once


@pytest.mark.promise("a-no-stays-a-no")
def test_a_rejection_of_the_version_before_still_holds_and_an_open_question_is_asked_anew(old: Path) -> None:
    store = SqliteStore(old)
    rejection = store.rejection("root", "pay", "digest denied")
    assert rejection is not None
    assert (rejection.id, rejection.approver) == ("denied", "user:eve")
    again = pending_approval("again", task_id="root", tool="pay", shown_digest="digest denied")
    with pytest.raises(ApprovalError, match="rejected by user:eve"):
        store.save_approval(again)
    for status in ("pending", "approved", "used"):
        assert store.approval(status) is None
    store.close()


def test_a_migration_that_fails_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {
        3: "ALTER TABLE tasks ADD COLUMN questions INTEGER NOT NULL DEFAULT 0; DROP TABLE no_such_table"
    }
    monkeypatch.setattr("agentguard.stores.sqlite.MIGRATIONS", {**MIGRATIONS, **broken})
    with pytest.raises(Exception, match="no_such_table"):
        SqliteStore(old)
    monkeypatch.undo()
    store = SqliteStore(old)
    assert store.rejection("root", "pay", "digest denied") is not None
    store.close()


@pytest.mark.promise("small-pieces-are-charged")
def test_a_file_of_version_6_counts_what_calls_say_from_its_migration_on(old: Path) -> None:
    with sqlite3.connect(old, isolation_level=None) as db:
        migrate(db, old, "", 6, MIGRATIONS)
        db.execute("UPDATE tasks SET calls = 0")
    db.close()
    store = SqliteStore(old)
    root = store.task("root")
    assert root is not None
    assert (root.choice_bits, root.budget.choice_bits) == (0, CHOICE_BITS)
    store.begin_call(call("1", tool="pay", task="root", choice_bits=CHOICE_BITS), None)
    with pytest.raises(BudgetExhausted, match=f"{CHOICE_BITS} of its {CHOICE_BITS} choice bits"):
        store.begin_call(call("2", tool="pay", task="child", choice_bits=1), None)
    store.close()


@pytest.mark.promise("store-file-watched")
def test_a_file_of_version_4_keeps_its_identity_and_the_number_of_its_last_write(old: Path) -> None:
    with sqlite3.connect(old, isolation_level=None) as db:
        migrate(db, old, "", 4, MIGRATIONS)
        (identity,) = db.execute("UPDATE writes SET n = 41 RETURNING id").fetchone()
    db.close()
    store = SqliteStore(old)
    store.remember("a write", 1e12)
    assert (store._db.watch._identity, store._db.watch._last) == (identity, 42)
    store.close()


def test_two_that_open_an_old_file_at_once_migrate_it_once(old: Path) -> None:
    first, second = SqliteStore(old), SqliteStore(old)
    assert first.task("root") == second.task("root")
    first.close()
    second.close()


def test_a_rejection_is_kept_as_long_as_the_oldest_task_of_its_family(tmp_path: Path) -> None:
    now = [1000.0]
    sqlite = SqliteStore(tmp_path / "aging.db", clock=lambda: now[0])
    for store in (MemoryStore(clock=lambda: now[0]), sqlite):
        now[0] = 1000.0
        store.create_task(sample_task("root", deadline=1e12))
        store.create_task(sample_task("child", lineage=("root",)))
        pending = pending_approval("no", shown_digest="s")
        store.save_approval(pending)
        store.answer_approval(pending.answered(approved=False, approver="user:eve"))
        for _ in range(3):  # the child is long over, and pruned
            now[0] += 10 * _rules.KEEP
            for number in range(_rules.PRUNE_EVERY):
                store.remember(f"tick {now[0]} {number}", now[0] + 1.0)
        assert store.task("child") is None
        assert store.rejection("root", "get_order", "s") is not None
        store.end_task("root", sample_task().status.COMPLETED)
        for _ in range(2):
            now[0] += 10 * _rules.KEEP
            for number in range(_rules.PRUNE_EVERY):
                store.remember(f"tick {now[0]} {number}", now[0] + 1.0)
        assert store.rejection("root", "get_order", "s") is None
    sqlite.close()
