"""Faults around the SQLite store: interrupts, files that are gone, clocks, and what others hold."""

from __future__ import annotations

import gc
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from agentguard.errors import StoreError
from agentguard.model import Label, Login, Outcome, ReadEffects, Sensitivity, TaskStatus
from agentguard.stores import _rules
from agentguard.stores._connection import Connection
from agentguard.stores._file_watch import INTERVAL
from agentguard.stores._schema import PAGE
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


def interrupted_at(line: int, operation: Callable[[], object]) -> BaseException | None:
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


@contextmanager
def without_finalizers() -> Iterator[None]:
    """Have no interrupted line be one of a finalizer, of a store that another test has left."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.promise("interrupt-locks-nobody-out")
@pytest.mark.parametrize("operation", [begins, ends, fails])
def test_an_interrupt_at_any_line_of_a_write_locks_nobody_out(
    path: Path, store: SqliteStore, operation: Callable[[SqliteStore], None]
) -> None:
    # in a thread of its own: CPython's tracing leaves the thread with an exception that counts as handled
    with without_finalizers(), ThreadPoolExecutor(1) as pool:
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
        assert not store._db.gate.is_in_use(), f"line {len(tracebacks)}: no fork would wait for it"
    other.close()
    return len(tracebacks)


@pytest.mark.promise("interrupt-locks-nobody-out")
def test_an_interrupt_within_begin_locks_nobody_out_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed = [False]

    class Interrupted(Connection):
        def execute(self, *arguments: Any) -> Any:
            result = super().execute(*arguments)
            if armed[0] and arguments[0].startswith(("BEGIN", "COMMIT", "UPDATE calls SET write_number")):
                raise KeyboardInterrupt
            return result

        def write(self, *arguments: Any) -> Any:
            return self.execute(*arguments)

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


@pytest.mark.promise("interrupt-locks-nobody-out")
@pytest.mark.parametrize("operation", [begins, lambda store: store.task("child")])
def test_an_interrupted_thread_that_does_nothing_more_locks_nobody_out(
    path: Path, store: SqliteStore, operation: Callable[[SqliteStore], object]
) -> None:
    """As a notebook whose user thinks: the traceback is kept, and no next write comes from this thread."""

    def each_line() -> int:
        tracebacks = list[BaseException]()
        other = sqlite3.connect(path, timeout=0.0, isolation_level=None)
        while (error := interrupted_at(len(tracebacks) + 1, lambda: operation(store))) is not None:
            tracebacks.append(error)
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
            assert not store._db.gate.is_in_use(), "no fork waits for it"
            if operation is begins:
                other.execute("DELETE FROM calls WHERE write_number IS NULL")
        other.close()
        return len(tracebacks)

    with without_finalizers(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(each_line).result() > 15, "lines were run and interrupted"


@pytest.mark.promise("interrupt-locks-nobody-out")
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_write_within_a_write_of_its_thread_neither_waits_nor_breaks_it(kind: str, path: Path) -> None:
    """As in a signal's handler, or in what the garbage collector calls, at any line of the first."""
    store: Any = MemoryStore() if kind == "memory" else SqliteStore(path, busy_timeout=0.2)
    store.create_task(sample_task("child", deadline=FAR))
    refusals = 0

    def handle(line: int) -> bool:
        nonlocal refusals
        count = 0

        def trace(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal count, refusals
            if "/agentguard/stores/" not in frame.f_code.co_filename:
                return None
            count += event == "line"
            if event == "line" and count == line:
                sys.settrace(None)
                try:
                    store.forget("another")
                except StoreError as error:
                    refusals += "within another operation" in str(error)
            return trace

        sys.settrace(trace)
        try:
            store.remember(f"key {line}", FAR)
        finally:
            sys.settrace(None)
        assert store.known(f"key {line}")
        return count >= line

    with ThreadPoolExecutor(1) as pool:
        lines = pool.submit(lambda: next(line for line in range(1, 500) if not handle(line))).result()
    assert lines > 8
    assert refusals, "some lines are within the write"
    if kind == "sqlite":
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


def remove_index(path: Path) -> None:
    Path(f"{path}-shm").unlink()


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def empty(path: Path) -> None:
    cut(path, 0)


def empty_log(path: Path) -> None:
    cut(Path(f"{path}-wal"), 0)


def halve_log(path: Path) -> None:
    cut(Path(f"{path}-wal"), Path(f"{path}-wal").stat().st_size // 2)


def cut_to_one_page(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    cut(path, PAGE)


@pytest.mark.promise("store-file-watched")
@pytest.mark.parametrize("fault", [remove, remove_log, remove_index, replace_with_another, empty])
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
@pytest.mark.parametrize("fault", [empty_log, halve_log, cut_to_one_page])
@pytest.mark.parametrize("operation", [begins, lambda store: store.known("k")])
def test_a_file_or_log_that_was_cut_is_noticed(
    path: Path, store: SqliteStore, fault: Callable[[Path], None], operation: Callable[[SqliteStore], object]
) -> None:
    for number in range(100):
        store.remember(f"key {number}", FAR)
    fault(path)
    time.sleep(INTERVAL)
    for _ in range(2):
        with pytest.raises(StoreError, match="was cut under this process"):
            operation(store)


def test_an_operators_vacuum_and_checkpoint_are_no_fault(path: Path, store: SqliteStore) -> None:
    for number in range(400):
        store.remember(f"key {number}", FAR)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM keys")
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert Path(f"{path}-wal").stat().st_size == 0
    begins(store)
    time.sleep(INTERVAL)
    assert not store.known("key 1")


@pytest.mark.promise("store-file-watched")
def test_the_log_of_a_file_behind_a_link_is_watched(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "real.db").close()
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    store = SqliteStore(tmp_path / "link.db")
    store.remember("k", FAR)
    remove_log(tmp_path / "real.db")
    with pytest.raises(StoreError, match="write-ahead log"):
        store.remember("another", FAR)
    store.close()


@pytest.mark.promise("store-file-watched")
@pytest.mark.parametrize("new_connection", [False, True])
def test_a_reader_notices_that_the_file_was_rolled_back(
    path: Path, store: SqliteStore, new_connection: bool
) -> None:
    copy = path.with_name("backup.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    store.remember("revoked", FAR)
    reader = SqliteStore(path)
    assert reader.known("revoked")
    with closing(sqlite3.connect(copy)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
    if new_connection:
        reader._db._close_idle()
    time.sleep(INTERVAL)
    with pytest.raises(StoreError, match="rolled back"):
        reader.known("revoked")
    reader.close()


def test_a_write_looks_at_the_file_however_short_ago_it_was_looked_at(path: Path, store: SqliteStore) -> None:
    store.task("child")
    remove(path)
    with pytest.raises(StoreError, match="removed or replaced"):
        begins(store)


@pytest.mark.promise("store-file-watched")
def test_a_write_that_waited_for_the_lock_looks_at_the_file_again(path: Path, store: SqliteStore) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN IMMEDIATE")
        writing = pool.submit(store.remember, "k", FAR)
        time.sleep(0.05)
        replace_with_another(path)
        other.execute("ROLLBACK")
        with pytest.raises(StoreError, match="removed or replaced"):
            writing.result()


@pytest.mark.promise("store-file-watched")
def test_no_call_id_reaches_the_row_of_the_number(store: SqliteStore) -> None:
    store.end_call("~", Outcome.DONE, revoked=True)
    store.end_call("~", Outcome.SUSPENDED)
    begins(store)


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
    with store._db.transaction() as db, db:
        db.execute("UPDATE calls SET task_id = 'gone' WHERE id IN ('c0', 'c5', 'c9')")
        for number in range(10):
            db.execute("INSERT INTO keys VALUES (?, ?)", (f"k{number}", number * 100.0))

    def rows() -> list[int]:
        tables = ("keys", "credentials", "calls WHERE write_number IS NULL")
        with store._db.connection() as db:
            return [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]  # noqa: S608  constants alone

    sweeps = store._pruning._keys, store._pruning._credentials, store._pruning._calls
    for round_, remaining in enumerate([[7, 7, 9], [5, 5, 8], [5, 5, 8], [5, 5, 7]]):
        with store._db.transaction() as db, db:
            for sweep, values in zip(sweeps, ((450.0,), (450.0,), ()), strict=True):
                sweep.run(db, 3, *values)
        assert rows() == remaining, f"round {round_}"
    with store._db.transaction() as db, db:
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
    store.active("user://alice", folded=True)
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
