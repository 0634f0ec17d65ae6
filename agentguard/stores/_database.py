"""One SQLite file: connections, transactions, the schema's version, and a thread for async calls."""

from __future__ import annotations

import os
import sqlite3
import time
import weakref
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from agentguard.concurrency.fork import ForkGate, around_fork, in_child
from agentguard.errors import ConfigurationError, StoreError

RETRY = 0.01  # seconds between attempts to switch to WAL, for which SQLite itself does not wait

PAGE = 1024  # bytes; a write copies whole pages to the log, and the rows here are small
CHECKPOINT = 4096  # pages in the log after which they are copied back: 4 MiB


HINTS = {  # by SQLite's primary result code
    sqlite3.SQLITE_BUSY: "another process holds the file: end it, or wait until it is done",
    sqlite3.SQLITE_LOCKED: "another process holds the file: end it, or wait until it is done",
    sqlite3.SQLITE_FULL: "make room on the disk",
    sqlite3.SQLITE_IOERR: "look after the disk: SQLite cannot read or write it",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: move it away, or put a copy of it back",
    sqlite3.SQLITE_NOTADB: "the file is no store of agentguard: name another file, or move this one away",
    sqlite3.SQLITE_READONLY: "let this process write to the file and to its directory",
    sqlite3.SQLITE_CANTOPEN: "correct the path, or the permissions of its directory",
}


def _store_error(path: Path, error: sqlite3.Error) -> StoreError:
    """Return what went wrong in SQLite's words, and what an operator can do about it."""
    code = getattr(error, "sqlite_errorcode", None)  # an error of Python's own module has none
    return StoreError(f"{path}: {error}", hint="" if code is None else HINTS.get(code & 0xFF, ""))


_lost: set[Path] = set()
"""Files of which SQLite believes in this child that a thread of the parent still holds a lock."""
PATIENCE = 1.0  # seconds that a fork waits for a transaction, beyond what the transaction waits for others


class _Resources:
    """The connections and the thread of one operating-system process; a forked child must not use them."""

    def __init__(self) -> None:
        self.idle: deque[sqlite3.Connection] = deque()
        self.executor = ThreadPoolExecutor(1, "agentguard-store")


def _close_abandoned(by_process: dict[int, _Resources]) -> None:
    """Close the connections of this process, for a store that was collected without being closed."""
    resources = by_process.get(os.getpid())
    while resources is not None and resources.idle:
        resources.idle.pop().close()


class Loan:
    """Lends a connection for a ``with`` block; with *writes*, in a write transaction.

    This is a class because nested `contextlib` generators would cost each write a sixth of its time.
    """

    __slots__ = ("_connection", "_database", "_writes")

    def __init__(self, database: Database, *, writes: bool) -> None:
        self._database, self._writes = database, writes

    def __enter__(self) -> sqlite3.Connection:
        connection = None
        self._database.gate.enter()
        try:
            connection = self._database.take()
            if self._writes:
                connection.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            if connection is not None:
                connection.close()
            self._database.gate.leave()
            if isinstance(error, sqlite3.Error):
                raise _store_error(self._database.path, error) from error
            raise
        self._connection = connection
        return connection

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            if isinstance(error, sqlite3.Error):
                raise error
            if self._writes:
                self._connection.execute("COMMIT" if error is None else "ROLLBACK")
        except sqlite3.Error as failure:
            self._connection.close()  # closing rolls back
            raise _store_error(self._database.path, failure) from failure
        else:
            self._database.give(self._connection)
        finally:
            self._database.gate.leave()


class Database:
    """The connections to one file. Each transaction has its own, and so does each forked child.

    SQLite keeps a list of the locks that a process has on a file. A forked child inherits the list, but not
    the locks. So a fork waits until no transaction runs, and then closes the idle connections. If a
    transaction runs for longer than the busy timeout and a second, the child cannot use the file: each use
    of it raises StoreError.

    *migrations* bring a file from the version that is their key to the next one.

    Raises:
        ConfigurationError: The file has another schema version, or its path cannot hold a database.
        StoreError: The file cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        schema: str,
        version: int,
        timeout: float,
        migrations: Mapping[int, str],
    ) -> None:
        if os.fspath(path) in ("", ":memory:"):
            raise ConfigurationError("a SQLite store needs a file", hint='use store = "memory"')
        self.path = Path(path).absolute()
        self._timeout = timeout
        self._closed = False
        self._by_process: dict[int, _Resources] = {}
        self.gate = ForkGate(timeout + PATIENCE)
        around_fork(before=self._close_idle)
        in_child(self._begin_in_child)
        weakref.finalize(self, _close_abandoned, self._by_process)
        self._create()
        with self.connection() as connection:
            self._use_wal(connection)
            self._migrate(connection, schema, version, migrations)

    @property
    def executor(self) -> ThreadPoolExecutor:
        """The one thread that runs the asynchronous operations of this process in order."""
        if self._closed:
            raise StoreError(f"{self.path} is closed")
        return self._resources().executor

    def connection(self) -> Loan:
        """Lend a connection for one statement, which is its own transaction.

        Raises:
            StoreError: SQLite reported an error, or the store is closed.
        """
        return Loan(self, writes=False)

    def transaction(self) -> Loan:
        """Lend a connection in a write transaction, which is written completely or not at all."""
        return Loan(self, writes=True)

    def take(self) -> sqlite3.Connection:
        """Return a connection that no other thread uses."""
        if self._closed:
            raise StoreError(f"{self.path} is closed")
        if _lost and self.path.resolve() in _lost:
            raise StoreError(
                f"{self.path}: this process was forked while another thread used the store",
                hint="fork while no call runs, or start the process anew (spawn)",
            )
        try:
            return self._resources().idle.pop()
        except IndexError:
            return self._connect()

    def give(self, connection: sqlite3.Connection) -> None:
        """Take back a connection; it must not be in a transaction."""
        if self._closed:
            connection.close()
        else:
            self._resources().idle.append(connection)

    def close(self) -> None:
        """Finish the queued operations, and close this process's connections."""
        self._closed = True
        self._resources().executor.shutdown()
        self._close_idle()

    def _close_idle(self) -> None:
        idle = self._resources().idle
        while idle:
            idle.pop().close()

    def _begin_in_child(self) -> None:
        if self.gate.was_in_use:
            _lost.add(self.path.resolve())

    def _resources(self) -> _Resources:
        pid = os.getpid()
        # the parent's connections stay referenced: closing one in a child would break the parent's locks
        return self._by_process.get(pid) or self._by_process.setdefault(pid, _Resources())

    def _create(self) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # an existing file is not opened: closing any descriptor of it drops this process's locks
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror}") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA page_size = {PAGE}")
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY)
                continue
            if mode != "wal":
                raise ConfigurationError(
                    "SQLite cannot keep a write-ahead log here",
                    hint="put the store on a local disk, not on a network file system",
                    file=self.path,
                )
            return

    def _migrate(
        self, connection: sqlite3.Connection, schema: str, version: int, migrations: Mapping[int, str]
    ) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            present = connection.execute("PRAGMA user_version").fetchone()[0]
            if present not in (0, version, *migrations):
                older = "end its tasks with the agentguard version that made it, then name another file"
                raise ConfigurationError(
                    f"the store has schema version {present}, and this agentguard knows {version}",
                    hint=older if present < version else "upgrade agentguard, or name another file",
                    file=self.path,
                )
            steps = [schema] if present == 0 else [migrations[step] for step in range(present, version)]
            for statement in ";".join(steps).split(";") if steps else ():
                connection.execute(statement)
            if steps:
                connection.execute(f"PRAGMA user_version = {version:d}")
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise
