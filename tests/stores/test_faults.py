"""Faults around the SQLite store: interrupts, files that are gone, clocks, and what others hold."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from agentguard.errors import StoreError
from agentguard.model import Label, Login, Outcome, ReadEffects, Sensitivity, TaskStatus
from agentguard.stores import _rules
from agentguard.stores._file_watch import INTERVAL
from agentguard.stores.memory import MemoryStore
from agentguard.stores.sqlite import SqliteStore
from agentguard.testing.samples import sample_task
from agentguard.testing.scenes import call, live_credential

FAR = 1e12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, busy_timeout=0.2)
    store.create_task(sample_task("child", deadline=FAR))
    yield store
    store.close()


def begins(store: SqliteStore) -> None:
    store.begin_call(call("1"), live_credential("1"))


def ends(store: SqliteStore) -> None:
    store.end_call("1", Outcome.DONE, revoked=True)


def fails(store: SqliteStore) -> None:
    with pytest.raises(StoreError):
        store.create_task(sample_task("child", deadline=FAR))


# --- interrupts


def interrupted_at(line: int, operation: Callable[[], None]) -> BaseException | None:
    """Run an operation, and raise KeyboardInterrupt at the n-th line that it runs in the store's rooms."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        if "/agentguard/stores/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            count += 1
            if count == line:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        operation()
    except KeyboardInterrupt as error:
        return error
    finally:
        sys.settrace(None)
    return None


@pytest.mark.promise("interrupt-locks-nobody-out")
@pytest.mark.parametrize("operation", [begins, ends, fails])
def test_an_interrupt_at_any_line_of_a_write_locks_nobody_out(
    path: Path, store: SqliteStore, operation: Callable[[SqliteStore], None]
) -> None:
    # in a thread of its own: CPython's tracing leaves the thread with an exception that counts as handled
    with ThreadPoolExecutor(1) as pool:
        lines = pool.submit(interrupt_each_line, path, store, operation).result()
    assert lines > 20, "lines were run and interrupted"


def interrupt_each_line(path: Path, store: SqliteStore, operation: Callable[[SqliteStore], None]) -> int:
    """Interrupt an operation at each of its lines, and return their number."""
    other = sqlite3.connect(path, timeout=0.0, isolation_level=None)
    tracebacks = list[BaseException]()  # kept, as a notebook does
    while (error := interrupted_at(len(tracebacks) + 1, lambda: operation(store))) is not None:
        tracebacks.append(error)
        store.forget("a write of the same thread, as at the end of each call")
        ends(store)
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
        assert not store._db.gate._users, f"line {len(tracebacks)}: no fork would wait for it"
    other.close()
    return len(tracebacks)


@pytest.mark.promise("interrupt-locks-nobody-out")
def test_an_interrupt_within_begin_locks_nobody_out_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed = [False]

    class Interrupted(sqlite3.Connection):
        def execute(self, *arguments: Any) -> Any:
            result = super().execute(*arguments)
            if armed[0] and arguments[0].startswith(("BEGIN", "COMMIT", "UPDATE calls SET write_number")):
                raise KeyboardInterrupt
            return result

    connect: Any = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "factory": Interrupted}))
    store = SqliteStore(path, busy_timeout=0.2)
    store.create_task(sample_task("child", deadline=FAR))
    armed[0] = True
    with pytest.raises(KeyboardInterrupt) as caught:
        begins(store)
    other = connect(path, timeout=0.0, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.close()
    armed[0] = False
    assert caught.value.__traceback__ is not None
    store.close()


# --- files


def remove(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def remove_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def replace_with_another(path: Path) -> None:
    SqliteStore(path.with_name("another.db")).close()
    remove(path)
    path.with_name("another.db").rename(path)


def empty(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate()


@pytest.mark.promise("store-file-watched")
@pytest.mark.parametrize("fault", [remove, remove_log, replace_with_another, empty])
@pytest.mark.parametrize(
    "operation", [begins, lambda store: store.task("child"), lambda store: store.known("k")]
)
def test_a_file_that_is_gone_or_another_one_is_noticed_within_5_ms(
    path: Path, store: SqliteStore, fault: Callable[[Path], None], operation: Callable[[SqliteStore], object]
) -> None:
    fault(path)
    time.sleep(INTERVAL)
    for _ in range(2):
        with pytest.raises(StoreError, match="removed or replaced") as caught:
            operation(store)
    assert "start it anew" in str(caught.value.hint)


@pytest.mark.promise("store-file-watched")
def test_a_file_that_was_rolled_back_in_place_is_noticed_by_the_next_write(
    path: Path, store: SqliteStore
) -> None:
    copy = path.with_name("backup.db")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    begins(store)
    ends(store)
    with sqlite3.connect(copy) as source, sqlite3.connect(path) as target:
        source.backup(target)  # SQLite's own way to restore: file and log stay the same files
    with pytest.raises(StoreError, match="rolled back"):
        begins(store)


def test_two_processes_of_one_file_number_their_writes_together(path: Path, store: SqliteStore) -> None:
    other = SqliteStore(path)
    for number in range(5):
        store.remember(f"a{number}", FAR)
        other.remember(f"b{number}", FAR)
    assert store._db.watch._last == other._db.watch._last - 1
    other.close()
    store.remember("c", FAR)


def test_a_write_that_is_rolled_back_leaves_the_numbers_as_they_were(store: SqliteStore) -> None:
    before = store._db.watch._last
    fails(store)
    assert store._db.watch._last == before
    store.remember("k", FAR)


# --- clocks


@pytest.mark.promise("revoked-stays-revoked")
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_clock_that_was_ahead_for_a_while_makes_the_store_forget_no_key(kind: str, path: Path) -> None:
    now = [1_000_000.0]
    store: Any = MemoryStore(lambda: now[0]) if kind == "memory" else SqliteStore(path, clock=lambda: now[0])
    store.remember("revoked", now[0] + 60)
    now[0] += 3_600
    for number in range(3 * _rules.PRUNE_EVERY):
        store.remember(f"other {number}", now[0] + 1)
    assert not store.known("revoked"), "by the wrong clock it is over"
    now[0] -= 3_600
    assert store.known("revoked")
    assert not store.remember("revoked", now[0] + 60)
    if kind == "sqlite":
        store.close()


# --- what others hold


@pytest.mark.promise("call-independent-of-others")
def test_a_round_of_forgetting_is_bounded_and_comes_to_its_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentguard.stores._sql_pruning.TASKS", 10)
    monkeypatch.setattr("agentguard.stores._sql_pruning.ROWS", 40)
    now = [1_000.0]
    store = SqliteStore(path, clock=lambda: now[0])
    labels = tuple(
        Label(digest=f"d{number}", source="page", trusted=False, sensitivity=Sensitivity.PUBLIC)
        for number in range(20)
    )
    for number in range(12):
        name = f"t{number}"
        store.create_task(sample_task(name, deadline=2_000.0))
        store.begin_call(call(name, task=name), None)
        store.end_call(name, Outcome.DONE, effects=ReadEffects(labels=labels))
    store.create_task(sample_task("active", deadline=FAR))
    now[0] += 2 * _rules.KEEP
    sizes = list[int]()
    for _ in range(8):
        for number in range(_rules.PRUNE_EVERY):
            store.remember("one key", now[0] + number)
        with store._db.connection() as db:
            sizes.append(
                db.execute("SELECT (SELECT count(*) FROM labels) + (SELECT count(*) FROM tasks)").fetchone()[
                    0
                ]
            )
    before = [12 * 21 + 1, *sizes]
    assert all(0 <= a - b <= 40 + 21 for a, b in zip(before, sizes, strict=False))
    assert sizes[-1] == 1, "all but the active task"
    store.close()


@pytest.mark.promise("call-independent-of-others")
def test_rounds_of_forgetting_go_through_each_table_slice_by_slice_and_begin_again(path: Path) -> None:
    store = SqliteStore(path)
    store.create_task(sample_task("child", deadline=FAR))
    for number in range(10):
        name = f"c{number}"
        store.begin_call(call(name, task="child"), replace(live_credential(name), expires_at=number * 100.0))
    with store._db.transaction() as db:
        db.execute("UPDATE calls SET task_id = 'gone' WHERE id IN ('c0', 'c5', 'c9')")
        for number in range(10):
            db.execute("INSERT INTO keys VALUES (?, ?)", (f"k{number}", number * 100.0))

    def rows() -> list[int]:
        tables = ("keys", "credentials", "calls WHERE write_number IS NULL")
        with store._db.connection() as db:
            return [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]  # noqa: S608  constants alone

    sweeps = store._pruning._keys, store._pruning._credentials, store._pruning._calls
    for round_, remaining in enumerate([[7, 7, 9], [5, 5, 8], [5, 5, 8], [5, 5, 7]]):
        with store._db.transaction() as db:
            for sweep, values in zip(sweeps, ((450.0,), (450.0,), ()), strict=True):
                sweep.run(db, 3, *values)
        assert rows() == remaining, f"round {round_}"
    with store._db.transaction() as db:
        sweeps[0].run(db, 3, 1_000.0)
    assert rows() == [2, 5, 7], "after the end of a table, a sweep begins again"
    store.close()


@pytest.mark.promise("call-independent-of-others")
def test_no_statement_of_a_call_or_of_an_end_scans_a_table(store: SqliteStore) -> None:
    """SQLite's own plan for each statement that a call runs: SEARCH by an index, and never SCAN."""
    statements = list[str]()
    with store._db.connection() as db:
        db.set_trace_callback(statements.append)
    begins(store)
    store.end_call("1", Outcome.SUSPENDED)
    store.begin_call(call("2", key="1"), None)
    store.end_call("2", Outcome.DONE, revoked=True, effects=ReadEffects(untrusted=True))
    store.live("child")
    store.active("user://alice")
    for name in ("subject", "session", "jti"):
        store.active_in(Login(issuer="https://idp.example", **{name: "x"}))
        store.active_in(Login(issuer="https://idp.example", **{name: "x"}), without="jti")
    store.active("user://alice", without="session")
    store.known("k")
    for _ in range(_rules.PRUNE_EVERY):
        store.remember("k", FAR)
    store.end_task("child", TaskStatus.COMPLETED)
    with store._db.connection() as db:
        db.set_trace_callback(None)
        asked = {text for text in statements if text.split()[0] in {"SELECT", "UPDATE", "DELETE"}}
        plans = {text: [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {text}")] for text in asked}
    assert len(plans) > 15
    tables = ("tasks", "lineage", "labels", "calls", "credentials", "keys", "approvals")
    scans = [
        (text, step)
        for text, plan in plans.items()
        for step in plan
        if step.startswith("SCAN") and step.split()[1] in tables and "INDEX" not in step
    ]
    assert scans == []
