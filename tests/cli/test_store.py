"""`agentguard store` keeps a store in order by agentguard.toml alone, beside guards that run."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentguard.cli import main
from agentguard.errors import ApprovalError
from agentguard.model import Outcome, Sensitivity, TaskStatus, ToolPath
from agentguard.stores import SqliteStore, _sql
from agentguard.testing.samples import sample_task
from agentguard.testing.scenes import call, live_credential, pending_approval

FAR = 1e12
VERSION_2 = Path(__file__).parent.parent / "stores" / "files" / "version_2.sql"
Run = Callable[..., Result]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `agentguard store` on a configuration that names a store and nothing else."""
    config = tmp_path / "agentguard.toml"
    config.write_text('[store]\npath = "state.db"\nkeep = "2h"\n')

    def run(*args: str) -> Result:
        return CliRunner().invoke(main, ["store", *args, "--config", str(config)])

    return run


@pytest.fixture
def version_2(path: Path) -> Path:
    """A file that an agentguard with schema version 2 has written."""
    with sqlite3.connect(path) as db:
        db.executescript(VERSION_2.read_text())
    db.close()
    return path


def test_a_store_of_version_2_is_brought_to_the_newest(run: Run, version_2: Path) -> None:
    before = run("check")
    assert before.exit_code == 1
    assert f"version 2, and the newest is {_sql.VERSION}: run `agentguard store migrate`" in before.output
    result = run("migrate")
    assert result.exit_code == 0
    assert f"schema version 2 and has version {_sql.VERSION} now" in result.output
    assert "has the newest schema already" in run("migrate").output
    assert run("check").exit_code == 0
    store = SqliteStore(version_2)
    child, fresh, over = store.task("child"), store.task("fresh"), store.task("over")
    assert child is not None
    assert fresh is not None
    assert over is not None
    assert (child.calls, child.writes, child.history, child.lineage) == (4, 2, ("pay", "look"), ("root",))
    assert child.mandate.literal() == {"tools": ["look", "pay"], "args": {"bill": ["b-1"]}}
    assert (child.untrusted, child.sensitivity) == (True, Sensitivity.RESTRICTED), "nobody knows what it read"
    assert (fresh.untrusted, fresh.sensitivity) == (False, Sensitivity.PUBLIC)
    assert over.status is TaskStatus.REVOKED
    assert [credential.call_id for credential in store.live("root")] == ["c-open"]
    assert store.known("jti-1")
    store.begin_call(call("new", tool="look"), live_credential("new"))
    store.close()


@pytest.mark.promise("a-no-stays-a-no")
def test_a_rejection_of_version_2_still_holds(run: Run, version_2: Path) -> None:
    run("migrate")
    store = SqliteStore(version_2)
    again = pending_approval("again", task_id="root", tool="pay", shown_digest="digest denied")
    with pytest.raises(ApprovalError, match="rejected by user:eve"):
        store.save_approval(again)
    assert store.approval("approved") is None
    store.close()


def test_a_migrated_file_has_the_tables_and_indexes_of_a_new_one(run: Run, version_2: Path) -> None:
    run("migrate")
    SqliteStore(version_2.with_name("new.db")).close()
    objects = []
    for file in (version_2, version_2.with_name("new.db")):
        with sqlite3.connect(file) as db:
            objects.append(set(db.execute("SELECT type, name FROM sqlite_schema")))
            names = sorted(name for kind, name in objects[-1] if kind == "table")
            objects[-1] |= {
                (name, row[1]) for name in names for row in db.execute(f"PRAGMA table_info({name})")
            }
        db.close()
    assert objects[0] == objects[1]


@pytest.mark.parametrize("command", ["migrate", "check", "compact"])
def test_a_store_that_is_not_there_is_not_made(run: Run, path: Path, command: str) -> None:
    result = run(command)
    assert result.exit_code == 2
    assert "there is no store yet" in result.output
    assert not path.exists()


@pytest.mark.parametrize("command", ["migrate", "check", "compact"])
def test_a_database_of_others_is_left_alone(run: Run, path: Path, command: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (n)")
    db.close()
    result = run(command)
    assert result.exit_code == 2
    assert "no store of agentguard" in result.output
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]
    db.close()


def test_a_store_of_a_newer_agentguard_is_left_alone(run: Run, path: Path) -> None:
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    assert "upgrade agentguard" in run("migrate").output
    assert run("migrate").exit_code == 2
    assert run("compact").exit_code == 2
    result = run("check")
    assert result.exit_code == 1
    assert f"version 99, and this agentguard knows {_sql.VERSION}" in result.output


@pytest.mark.parametrize("command", ["migrate", "check", "compact"])
def test_a_store_in_memory_has_no_upkeep(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "agentguard.toml").write_text('[store]\nkind = "memory"\n')
    result = run(command)
    assert result.exit_code == 2
    assert "a store in memory ends with its process" in result.output


@pytest.mark.parametrize(
    ("kind", "url"), [("redis", "redis://127.0.0.1:1/0"), ("postgres", "postgresql://u@127.0.0.1:1/d")]
)
def test_a_server_that_cannot_be_reached_is_told_and_nothing_is_compacted_there(
    run: Run, tmp_path: Path, kind: str, url: str
) -> None:
    (tmp_path / "agentguard.toml").write_text(f'[store]\nkind = "{kind}"\nurl = "{url}"\n')
    for command in ("check", "migrate"):
        result = run(command)
        assert result.exit_code == 2
        assert "127.0.0.1:1" in result.output
    result = run("compact")
    assert result.exit_code == 2
    assert "a store on a server is not compacted from here" in result.output


def test_a_sound_store_says_what_is_live_and_what_is_open(run: Run, path: Path) -> None:
    store = SqliteStore(path)
    store.create_task(sample_task("child", deadline=FAR))
    store.create_task(sample_task("over", deadline=FAR))
    store.save_approval(replace(pending_approval("2", task_id="over"), expires_at=FAR))  # nobody answers it
    store.end_task("over", TaskStatus.COMPLETED)
    store.begin_call(call("1"), replace(live_credential("1"), expires_at=FAR))
    store.begin_call(call("2"), None)
    store.end_call("2", Outcome.SUSPENDED)
    store.save_approval(replace(pending_approval(task_id="child"), expires_at=FAR))
    result = run("check")
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    for words in (
        "1 active tasks",
        "1 ended tasks",
        "1 running calls",
        "1 suspended calls",
        "1 open questions",
        "1 credentials of calls",
        "0 credentials wait for their revocation",
        "the store is sound",
    ):
        assert words in text, words
    store.close()


def test_a_credential_that_nobody_has_revoked_is_told_and_counts_for_the_exit_code(
    run: Run, path: Path
) -> None:
    store = SqliteStore(path)
    store.create_task(sample_task("child", deadline=FAR))
    store.create_task(sample_task("over", deadline=FAR))
    store.begin_call(call("expired"), live_credential("expired"))  # in 1970
    store.begin_call(
        call("ended", task="over"), replace(live_credential("ended", task="over"), expires_at=FAR)
    )
    store.end_task("over", TaskStatus.REVOKED)
    store.close()
    result = run("check")
    assert result.exit_code == 1
    assert "2 credentials wait for their revocation" in result.output
    assert "2 of broker" in result.output
    assert "1 of them have expired" in result.output
    assert run("check", "--waiting", "1").exit_code == 1
    assert run("check", "--waiting", "2").exit_code == 0


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("INSERT INTO lineage VALUES ('root', 'nobody')", "1 rows of lineage belong to no task"),
        ("INSERT INTO labels VALUES ('nobody', 'd', 's', 1, 0)", "1 rows of labels belong to no task"),
    ],
)
def test_rows_that_belong_to_no_task_are_told(run: Run, path: Path, statement: str, words: str) -> None:
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute(statement)
    db.close()
    result = run("check")
    assert result.exit_code == 1
    assert words in result.output


def test_a_store_without_one_of_its_indexes_is_damaged(run: Run, path: Path) -> None:
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute("DROP INDEX credentials_task")
    db.close()
    result = run("check")
    assert result.exit_code == 2
    assert "the index credentials_task is missing" in result.output


def test_a_damaged_page_is_found(run: Run, path: Path) -> None:
    store = SqliteStore(path)
    for number in range(200):
        store.remember(f"key {number:040}", FAR)
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    content = bytearray(path.read_bytes())
    content[-3 * 1024 :] = b"\xff" * (3 * 1024)
    path.write_bytes(content)
    result = run("check")
    assert result.exit_code == 2
    assert "damaged" in result.output


def test_the_check_changes_nothing(run: Run, version_2: Path) -> None:
    with sqlite3.connect(version_2) as db:
        before = list(db.iterdump())
    db.close()
    run("check")
    with sqlite3.connect(version_2) as db:
        assert list(db.iterdump()) == before
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
    db.close()


def fill(store: SqliteStore, tasks: int) -> None:
    """Record tasks that ended long ago, each with a call and labels, and keys that are over."""
    for number in range(tasks):
        name = f"old-{number}"
        store.create_task(sample_task(name, deadline=1000.0, words="w" * 3000))
        store.remember(f"key {number}", 1000.0)


def test_a_compacted_store_is_smaller_and_holds_what_is_not_over(run: Run, path: Path) -> None:
    now = [0.0]
    old = SqliteStore(path, clock=lambda: now[0])
    fill(old, 1200)  # more than one round of the pruning takes
    old.close()
    store = SqliteStore(path)
    store.create_task(sample_task("child", deadline=FAR))
    store.begin_call(call("1"), replace(live_credential("1"), expires_at=FAR))
    before = path.stat().st_size
    result = run("compact")
    assert result.exit_code == 0, result.output
    assert "1200 tasks" in result.output
    assert "1200 keys" in result.output
    assert path.stat().st_size < before / 10
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT id FROM tasks").fetchall() == [("child",)]
        assert db.execute("PRAGMA freelist_count").fetchone() == (0,)
    db.close()
    store.end_call("1", Outcome.DONE, revoked=True)  # of a guard that was running all the time
    assert store.live() == ()
    store.close()
    assert run("check").exit_code == 0


@pytest.mark.parametrize(("keep", "stays"), [("4h", True), ("2h", False)])
def test_what_is_over_for_less_than_the_retention_stays(
    run: Run, path: Path, tmp_path: Path, keep: str, stays: bool
) -> None:
    (tmp_path / "agentguard.toml").write_text(f'[store]\npath = "state.db"\nkeep = "{keep}"\n')
    store = SqliteStore(path, clock=lambda: time.time() - 3 * 3600)
    store.create_task(sample_task("child", deadline=FAR))
    store.end_task("child", TaskStatus.COMPLETED)
    assert run("compact").exit_code == 0
    assert (store.task("child") is not None) == stays
    store.close()


def test_a_file_that_was_made_before_is_rewritten_once(run: Run, version_2: Path) -> None:
    assert run("compact").exit_code == 2
    assert "store migrate" in run("compact").output
    run("migrate")
    store = SqliteStore(version_2)
    fill(store, 50)
    assert run("compact").exit_code == 0
    store.remember("a write of a guard that runs", FAR)
    store.close()
    with sqlite3.connect(version_2) as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert db.execute("PRAGMA freelist_count").fetchone() == (0,)
    db.close()


@pytest.mark.promise("store-file-watched")
def test_guards_that_make_calls_meanwhile_notice_nothing(run: Run, path: Path) -> None:
    store, stop, errors, made = SqliteStore(path), threading.Event(), list[BaseException](), [0]
    store.create_task(sample_task("child", deadline=FAR))

    def make_calls(name: str) -> None:
        guard = SqliteStore(path)
        try:
            while not stop.is_set():
                id_ = f"{name} {made[0]}"
                guard.task("child")
                guard.begin_call(call(id_, path=ToolPath.WRITE), live_credential(id_))
                guard.end_call(id_, Outcome.DONE, revoked=True, remember=(f"key {id_}", FAR))
                made[0] += 1
        except BaseException as error:  # noqa: BLE001  whatever a thread of the test raises, the test fails
            errors.append(error)
        finally:
            guard.close()

    threads = [threading.Thread(target=make_calls, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for _ in range(3):
        fill(store, 40)
        result = run("compact")
        assert result.exit_code == 0, result.output
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert made[0]
    state = store.task("child")
    assert state is not None
    assert state.calls >= made[0]
    store.close()
