"""What the SQLite store must do, beyond the contract of all stores, for threads and processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import pytest

import agentguard.stores
from agentguard.errors import BudgetExhausted, ConfigurationError, StoreError, TaskNotActive
from agentguard.model import Budget, Outcome, TaskStatus
from agentguard.stores._schema import PAGE
from agentguard.stores.sqlite import SqliteStore
from agentguard.testing import sample_task
from agentguard.testing.scenes import call, live_credential

# from Python 3.12 on; that a child of a process with threads works is what these tests are about
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")
FAR = 1e12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "agentguard.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    store.close()


@pytest.mark.promise("store-holds-no-secret")
def test_the_file_and_its_log_belong_to_their_owner_alone(path: Path, store: SqliteStore) -> None:
    store.create_task(sample_task(deadline=FAR))
    files = list(path.parent.iterdir())
    assert {file.name for file in files} == {path.name + suffix for suffix in ("", "-wal", "-shm")}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(("version", "hint"), [(99, "upgrade agentguard"), (1, "that made it")])
def test_a_file_of_another_version_is_left_alone(
    path: Path, store: SqliteStore, version: int, hint: str
) -> None:
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with pytest.raises(ConfigurationError, match=f"version {version}") as raised:
        SqliteStore(path)
    assert str(path) in str(raised.value)
    assert hint in raised.value.hint


@pytest.mark.parametrize("place", ["", ":memory:"])
def test_a_store_that_no_other_process_could_share_is_refused(place: str) -> None:
    with pytest.raises(ConfigurationError, match="memory"):
        SqliteStore(place)


def test_what_is_no_database_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database " * 100)
    with pytest.raises(StoreError, match="not a database"):
        SqliteStore(tmp_path / "text")
    with pytest.raises(StoreError):
        SqliteStore(tmp_path / "text" / "below" / "a.db")


def test_nonsense_in_the_file_is_a_store_error(path: Path, store: SqliteStore) -> None:
    store.create_task(sample_task(deadline=FAR))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE tasks SET fixed = '{}'")
    connection.close()
    with pytest.raises(StoreError, match="cannot be read"):
        store.task("task-1")
    with pytest.raises(StoreError, match="cannot be read"):
        store.begin_call(call("1", task="task-1"), None)


@pytest.mark.promise("store-failure-denies")
def test_a_locked_file_is_a_store_error_after_the_time_given(path: Path) -> None:
    store = SqliteStore(path, busy_timeout=0.1)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(StoreError, match="locked"):
        store.remember("key", FAR)
    assert time.monotonic() - started < 2.0
    blocker.close()
    assert store.remember("key", FAR)
    store.close()


def test_one_that_has_waited_for_long_takes_a_short_gap_between_the_writes_of_others(path: Path) -> None:
    store, turns = SqliteStore(path), list[float]()
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    began = time.monotonic()

    def write() -> None:
        assert store.remember("key", FAR)
        turns.append(time.monotonic() - began)

    thread = threading.Thread(target=write)
    thread.start()
    for gap in range(10):
        if turns:
            break
        # SQLite's own waiting looks at 0.33 s, and then each 0.1 seconds, which is never within a gap
        time.sleep(max(0.0, began + 0.46 + gap / 10 - time.monotonic()))
        blocker.execute("COMMIT")
        time.sleep(0.03)
        blocker.execute("BEGIN IMMEDIATE")
    blocker.close()
    thread.join()
    store.close()
    assert 0.4 < turns[0] < 1.0


def test_a_failure_in_the_middle_changes_nothing(path: Path, store: SqliteStore) -> None:
    store.create_task(sample_task("child", deadline=FAR))
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE credentials")
    connection.close()
    with pytest.raises(StoreError, match="credentials"):
        store.begin_call(call("1"), live_credential("1"))
    state = store.task("child")
    assert state is not None
    assert state.calls == 0


def test_a_block_that_raises_leaves_nothing_and_gives_the_connection_back(store: SqliteStore) -> None:
    def fail() -> None:
        with store._db.transaction() as db, db:
            db.execute("INSERT INTO keys VALUES ('half', 1e12)")
            raise LookupError

    for _ in range(3):
        with pytest.raises(LookupError):
            fail()
    assert not store.known("half")
    assert store.remember("half", FAR)


def test_a_file_that_is_busy_while_it_is_opened_is_waited_for(path: Path) -> None:
    path.parent.mkdir()
    blocker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    blocker.execute("CREATE TABLE other (x)")
    blocker.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(0.3, blocker.execute, ("COMMIT",))
    release.start()
    store = SqliteStore(path)
    assert store.remember("key", FAR)
    store.close()
    release.join()
    blocker.close()
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("PRAGMA journal_mode = DELETE")
    blocker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="locked"):
        SqliteStore(path, busy_timeout=0.1)
    blocker.close()


async def test_a_closed_store_says_so_on_both_paths(store: SqliteStore) -> None:
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.task("x")
    with pytest.raises(StoreError, match="closed"):
        await store.atask("x")


@pytest.mark.promise("store-holds-no-secret")
def test_no_secret_and_no_argument_is_in_the_file(path: Path, store: SqliteStore) -> None:
    store.create_task(sample_task("child", deadline=FAR))
    store.begin_call(call("1"), live_credential("1", handle="the-handle"))
    written = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"the-handle" in written
    with sqlite3.connect(path) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(credentials)")]
    connection.close()
    assert columns == ["call_id", "task_id", "broker", "handle", "expires_at", "owner"]


def test_what_one_store_writes_another_reads_at_once(path: Path, store: SqliteStore) -> None:
    second = SqliteStore(path)
    store.create_task(sample_task("child", deadline=FAR))
    assert second.task("child") == store.task("child")
    second.end_task("child", TaskStatus.REVOKED)
    with pytest.raises(TaskNotActive, match="revoked"):
        store.begin_call(call("1"), None)
    second.close()


def test_short_lived_threads_leave_no_connections_behind(store: SqliteStore) -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(50):
        thread = threading.Thread(target=store.known, args=("x",))
        thread.start()
        thread.join()
    assert len(os.listdir("/dev/fd")) < before + 10


def test_a_store_that_nobody_closed_leaves_no_connection_open(path: Path) -> None:
    store = SqliteStore(path)
    handle = store._db.take()
    store._db.give(handle)
    connection = handle.connection
    del store
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_a_call_changes_eight_pages_of_the_file(path: Path, store: SqliteStore) -> None:
    store.create_task(sample_task("child", deadline=FAR))
    for number in range(3):  # the first makes the pages
        log = Path(f"{path}-wal")
        before = log.stat().st_size
        store.begin_call(call(str(number)), live_credential(str(number)))
        store.end_call(str(number), Outcome.DONE, revoked=True, remember=(f"token {number}", FAR))
        pages = (log.stat().st_size - before) / (PAGE + 24)
    # tasks; calls and the number of the write; credentials and their index; the same, and keys
    assert pages == 8


async def test_an_abandoned_begin_still_comes_before_its_end(store: SqliteStore) -> None:
    await store.acreate_task(sample_task("child", deadline=FAR))
    for number in range(50):
        begin = asyncio.ensure_future(store.abegin_call(call(str(number)), live_credential(str(number))))
        await asyncio.sleep(0 if number % 2 else 0.0005)
        begin.cancel()
        await asyncio.gather(begin, return_exceptions=True)
        await store.aend_call(str(number), Outcome.CANCELLED)
        await store.aforget(str(number))
    assert await store.alive() == ()
    with store._db.connection() as db:
        assert db.execute("SELECT count(*) FROM calls WHERE write_number IS NULL").fetchone() == (0,)


async def test_the_loop_goes_on_while_the_file_is_locked(path: Path, store: SqliteStore) -> None:
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    waiting = asyncio.ensure_future(store.aremember("key", FAR))
    ticks = 0
    for _ in range(20):
        await asyncio.sleep(0.001)
        ticks += 1
    assert not waiting.done()
    assert ticks == 20
    blocker.execute("COMMIT")
    assert await waiting
    blocker.close()


def _race(path: Path, name: str, ready: Any, answers: Queue[str]) -> None:
    store = SqliteStore(path)
    ready.wait()
    count = 0
    for number in range(20):
        try:
            store.begin_call(call(f"{name}-{number}"), None)
            count += 1
        except BudgetExhausted:
            continue
    answers.put(str(count))
    store.close()


@pytest.mark.process
@pytest.mark.promise("parallel-budget")
def test_two_processes_race_for_a_budget_of_one(path: Path, store: SqliteStore) -> None:
    store.create_task(sample_task("child", deadline=FAR, budget=Budget(calls=1)))
    ready, answers = SPAWN.Barrier(2), SPAWN.Queue()
    racers = [SPAWN.Process(target=_race, args=(path, name, ready, answers)) for name in "ab"]
    for racer in racers:
        racer.start()
    counts = [answers.get(timeout=30) for _ in racers]
    for racer in racers:
        racer.join()
    answers.close()
    assert sorted(counts) == ["0", "1"]
    state = store.task("child")
    assert state is not None
    assert state.calls == 1


def _open(path: Path, ready: Any) -> None:
    ready.wait()
    SqliteStore(path).close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns, and this is the point
def test_many_processes_may_create_the_file_at_once(path: Path) -> None:
    ready = FORK.Barrier(6)
    openers = [FORK.Process(target=_open, args=(path, ready)) for _ in range(6)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert [opener.exitcode for opener in openers] == [0] * 6


def _child(store: SqliteStore) -> None:
    store.begin_call(call("from the child"), None)
    asyncio.run(store.aend_call("from the child", Outcome.DONE))
    store.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns, and this is the point
def test_a_forked_child_has_connections_and_a_thread_of_its_own(store: SqliteStore) -> None:
    store.create_task(sample_task("child", deadline=FAR))
    asyncio.run(store.atask("child"))
    process = FORK.Process(target=_child, args=(store,))
    process.start()
    process.join(20)
    assert process.exitcode == 0
    store.begin_call(call("from the parent"), None)
    state = store.task("child")
    assert state is not None
    assert state.calls == 2


@pytest.mark.process
def test_what_was_written_survives_a_killed_process(path: Path, store: SqliteStore) -> None:
    program = (
        "import sys\n"
        "from agentguard.stores.sqlite import SqliteStore\n"
        "store = SqliteStore(sys.argv[1])\n"
        "number = 0\n"
        "while True:\n"
        "    store.remember(str(number), 1e12)\n"
        "    print(number, flush=True)\n"
        "    number += 1\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    numbers = [int(writer.stdout.readline()) for _ in range(50)]
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert all(store.known(str(number)) for number in numbers)
    assert store.remember("after", FAR)


@pytest.mark.promise("fault-told")
def test_a_file_that_is_no_store_and_one_that_is_held_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    file.write_bytes(b"not a database" * 500)
    with pytest.raises(StoreError, match="not a database") as wrong:
        SqliteStore(file)
    assert "no store" in wrong.value.hint
    file.unlink()
    SqliteStore(file).close()
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="locked") as held:
        SqliteStore(file, busy_timeout=0.05).remember("one", time.time() + 60)
    assert "another process" in held.value.hint
    other.close()


def test_no_statement_of_the_store_has_a_numbered_placeholder() -> None:
    """Python 3.12 warns of one that gets a sequence, and Python 3.14 refuses it."""
    rooms = Path(agentguard.stores.__file__).parent.glob("*.py")
    statements = "\n".join(room.read_text() for room in rooms)
    assert "WHERE id = ?" in statements
    assert re.findall(r"\?\d", statements) == []


def test_a_store_works_with_a_class_of_connections_that_something_else_has_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Traced(sqlite3.Connection):
        """A connection of a tracer, which has replaced `sqlite3.connect`."""

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "factory": Traced}))
    store = SqliteStore(tmp_path / "state.db", clock=lambda: 1000.0)
    store.create_task(sample_task())
    store.begin_call(call("1", task="task-1"), None)
    store.end_call("1", Outcome.DONE)
    state = store.task("task-1")
    store.close()
    assert state is not None
    assert state.calls == 1
