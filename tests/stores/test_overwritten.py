"""An older copy of the SQLite store that is written into the same file, beside its log, under a guard."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentguard.errors import StoreError
from agentguard.model import Outcome
from agentguard.stores import _connection, _main_file, sqlite_upkeep
from agentguard.stores._file_watch import INTERVAL
from agentguard.stores._schema import INCREMENTAL
from agentguard.stores.sqlite import SqliteStore
from agentguard.stores.sqlite_upkeep import SqliteUpkeep
from agentguard.testing.samples import sample_task
from agentguard.testing.scenes import call, live_credential

FAR = 1e12
USED = 60  # keys that the copy lacks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def fill(store: SqliteStore, name: str, count: int) -> None:
    for number in range(count):
        assert store.remember(f"{name} {number}", FAR)


def checkpoint(path: Path, mode: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    """A store whose file has room, so that no copy of it is shorter."""
    store = SqliteStore(path, busy_timeout=0.2)
    store.create_task(sample_task("child", deadline=FAR))
    fill(store, "pad", 400)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM keys")
    checkpoint(path, "TRUNCATE")
    fill(store, "early", 3)
    yield store
    store.close()


def by_copy(path: Path, copy: Path) -> None:
    shutil.copyfile(path, copy)


def by_backup(path: Path, copy: Path) -> None:
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def overwrite(path: Path, copy: Path) -> None:
    """Do as `cp` does: the file stays the same file."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(copy.read_bytes())
    after = path.stat()
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size), "nothing else tells the copy"
    time.sleep(INTERVAL)


def log_is_full(path: Path, store: SqliteStore) -> None:
    checkpoint(path, "RESTART")
    fill(store, "later", 20)


def one_write_is_in_the_log(path: Path, store: SqliteStore) -> None:
    checkpoint(path, "TRUNCATE")
    fill(store, "later", 1)


def all_was_copied_and_nobody_has_looked(path: Path, _store: SqliteStore) -> None:
    checkpoint(path, "PASSIVE")


def another_process_has_written(path: Path, _store: SqliteStore) -> None:
    other = SqliteStore(path)
    checkpoint(path, "PASSIVE")
    fill(other, "other", 2)
    other.close()


MOMENTS = [
    log_is_full,
    one_write_is_in_the_log,
    all_was_copied_and_nobody_has_looked,
    another_process_has_written,
]


def reads(store: SqliteStore) -> None:
    store.known("k")


def writes(store: SqliteStore) -> None:
    store.begin_call(call("1"), live_credential("1"))


@pytest.mark.promise("store-file-watched")
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("make_copy", [by_copy, by_backup])
@pytest.mark.parametrize("operation", [reads, writes])
def test_an_older_copy_in_the_same_file_is_noticed_by_each_process_and_by_those_that_begin_later(
    path: Path,
    store: SqliteStore,
    moment: Callable[[Path, SqliteStore], None],
    make_copy: Callable[[Path, Path], None],
    operation: Callable[[SqliteStore], None],
) -> None:
    copy = path.with_name("backup.db")
    make_copy(path, copy)
    other = SqliteStore(path)
    fill(store, "used", USED)
    moment(path, store)
    overwrite(path, copy)
    for _ in range(2):
        with pytest.raises(StoreError, match="overwritten") as caught:
            operation(store)
    assert "remove the log" in str(caught.value.hint)
    with pytest.raises(StoreError, match="overwritten"):
        operation(other)
    other.close()
    store.close()  # the last one: SQLite writes the log over the copy
    with pytest.raises(StoreError, match="overwritten"):
        SqliteStore(path)
    assert "overwritten" in "".join(SqliteUpkeep(path).check().faults)


@pytest.mark.promise("store-file-watched")
def test_an_older_copy_is_noticed_after_a_checkpoint_of_the_last_write(
    path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = path.with_name("backup.db")
    by_copy(path, copy)
    monkeypatch.setattr(_connection, "CHECKPOINT", 50)
    store._db._close_idle()
    changed_at, number = path.stat().st_mtime_ns, 0
    while path.stat().st_mtime_ns == changed_at:  # until a write has made a checkpoint, of its own accord
        fill(store, f"used {number}", 1)
        number += 1
    assert number < 60
    overwrite(path, copy)
    with pytest.raises(StoreError, match="overwritten"):
        SqliteStore(path)
    with pytest.raises(StoreError, match="overwritten"):
        reads(store)


@pytest.mark.promise("store-file-watched")
def test_a_process_that_begins_after_all_were_killed_notices_the_copy_and_so_do_later_ones(
    path: Path, store: SqliteStore, tmp_path: Path
) -> None:
    copy = path.with_name("backup.db")
    by_copy(path, copy)
    fill(store, "used", USED)
    log_is_full(path, store)
    overwrite(path, copy)
    (tmp_path / "killed").mkdir()
    for name in ("state.db", "state.db-wal"):  # what is left of processes that were killed
        shutil.copyfile(path.with_name(name), tmp_path / "killed" / name)
    for _ in range(2):
        with pytest.raises(StoreError, match="overwritten"):
            SqliteStore(tmp_path / "killed" / "state.db")


@pytest.mark.promise("store-file-watched")
@pytest.mark.parametrize("operation", [reads, writes])
def test_a_file_that_is_being_written_over_is_refused_by_those_that_begin_later(
    path: Path, store: SqliteStore, operation: Callable[[SqliteStore], None]
) -> None:
    copy = path.with_name("backup.db")
    by_copy(path, copy)
    fill(store, "used", USED)
    checkpoint(
        path, "PASSIVE"
    )  # of another program, and nobody uses the store before the file is overwritten
    with path.open("r+b") as file:
        file.truncate(0)
        time.sleep(INTERVAL)
        with pytest.raises(StoreError, match="emptied"):
            operation(store)
        file.write(copy.read_bytes())
    with pytest.raises(StoreError, match="emptied"):
        operation(store)
    store.close()
    with pytest.raises(StoreError, match="emptied"):
        SqliteStore(path)


@pytest.mark.promise("store-file-watched")
def test_another_store_in_the_same_file_is_noticed(path: Path, store: SqliteStore) -> None:
    copy = path.with_name("another.db")
    another = SqliteStore(copy)
    fill(another, "pad", 900)
    another.close()
    log_is_full(path, store)
    with path.open("r+b") as file:
        file.write(copy.read_bytes())
    with pytest.raises(StoreError, match="overwritten"):
        writes(store)


@pytest.mark.promise("store-file-watched")
def test_a_fault_that_was_written_down_is_read_by_a_process_that_has_noticed_nothing(
    path: Path, store: SqliteStore
) -> None:
    other = SqliteStore(path)
    reads(other)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE calls SET tool = 'it was overwritten' WHERE id = '~'")
    for operation in (reads, writes):
        time.sleep(INTERVAL)
        with pytest.raises(StoreError, match="it was overwritten"):
            operation(other)
    other.close()


def test_a_copy_of_what_the_file_holds_anyway_is_no_fault_and_loses_nothing(
    path: Path, store: SqliteStore
) -> None:
    checkpoint(path, "RESTART")
    fill(store, "used", 10)
    copy = path.with_name("backup.db")
    by_backup(path, copy)
    fill(store, "later", 10)
    overwrite(path, copy)
    fill(store, "even later", 10)
    assert all(store.known(f"{name} {number}") for name in ("used", "later") for number in range(10))


def test_checkpoints_of_writers_side_by_side_are_no_fault(
    path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "CHECKPOINT", 20)
    stores = [SqliteStore(path) for _ in range(3)]
    for number in range(60):
        for place, one in enumerate(stores):
            name = f"{place}-{number}"
            one.begin_call(call(name), live_credential(name))
            if number % 3:
                one.end_call(name, Outcome.DONE, revoked=True)
    for one in stores:
        assert one._db.watch._copied.number > 50, "checkpoints were made and seen"
        one.close()


@pytest.mark.promise("store-file-watched")
def test_a_file_that_a_checkpoint_is_changing_is_looked_at_again_before_it_is_judged(
    path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_is_full(path, store)
    read, pauses = _main_file._read, list[float]()
    older = _main_file.MainFile(store._db.watch._identity, 0, 0)
    monkeypatch.setattr(_main_file, "_read", lambda path: read(path) if len(pauses) > 1 else older)
    monkeypatch.setattr(_main_file, "sleep", pauses.append)
    os.utime(path)
    writes(store)
    assert len(pauses) == 2


def test_a_file_that_makes_no_sense_without_its_log_is_looked_into_once_a_second(
    path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_is_full(path, store)
    looks, pauses = list[str](), list[float]()
    monkeypatch.setattr(_main_file, "_read", lambda path: looks.append(path))
    monkeypatch.setattr(_main_file, "sleep", pauses.append)
    os.utime(path)
    for number in range(5):
        fill(store, f"k{number}", 1)
    assert len(looks) == _main_file.LOOKS, "all of the file is sound, as its log says what it lacks"
    assert store._db.watch._copied.is_unread


@pytest.mark.promise("call-independent-of-others")
@pytest.mark.parametrize("step", ["VACUUM", "incremental"])
def test_no_process_looks_into_all_of_a_file_that_was_compacted(
    path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    statements, connect = list[str](), sqlite3.connect

    def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(statements.append)
        return connection

    fill(store, "k", 300)
    monkeypatch.setattr(sqlite_upkeep, "INCREMENTAL", -1 if step == "VACUUM" else INCREMENTAL)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM keys")
        size = path.stat().st_size
        sqlite_upkeep._shrink(db)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert path.stat().st_size < size
    monkeypatch.setattr(sqlite3, "connect", watched)
    for _ in range(2):
        writes(store)
        store.end_call("1", Outcome.DONE, revoked=True)
        time.sleep(_main_file.TICK)
    assert statements, "the file was read"
    assert not any("quick_check" in statement for statement in statements)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY])
def test_a_file_that_cannot_be_looked_into_for_now_is_used_again_later(
    path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As where the process has no descriptor left."""

    def fail(*_arguments: Any, **_options: Any) -> sqlite3.Connection:
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = code
        raise error

    fill(store, "k", 300)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM keys")
        sqlite_upkeep._shrink(db)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", fail)
        for operation in (reads, writes):
            time.sleep(INTERVAL)
            with pytest.raises(StoreError, match="unable to open"):
                operation(store)
    time.sleep(INTERVAL)
    writes(store)
    SqliteStore(path).close()
