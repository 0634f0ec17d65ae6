"""One SQLite file: connections, transactions, the schema's version, and a thread for async calls."""

from __future__ import annotations

import os
import sqlite3
import sys
import weakref
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import get_ident
from time import monotonic

from agentguard.concurrency.fork import ForkGate, around_fork, in_child
from agentguard.concurrency.owned_lock import OwnedLock
from agentguard.concurrency.running import is_running
from agentguard.errors import ConfigurationError, StoreError
from agentguard.files import make_private_folder
from agentguard.stores._connection import Connection, connect
from agentguard.stores._file_watch import INTERVAL, FileWatch, LogFiles, store_error
from agentguard.stores._nesting import nested
from agentguard.stores._schema import migrate, use_wal

_lost: set[Path] = set()
"""Files of which SQLite believes in this child that a thread of the parent still holds a lock."""
PATIENCE = 1.0  # seconds that a fork waits for a transaction, beyond what the transaction waits for others


class Handle:
    """A connection, and which files of the log it uses: no others may take their place while it is open."""

    __slots__ = ("connection", "log")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.log: LogFiles | None = None


class _Resources:
    """The connections and the thread of one operating-system process; a forked child has its own.

    `writing` holds the write transaction of each thread that is in one. In a child, the parent's connections
    stay referenced: closing one there would break the parent's locks.
    """

    def __init__(self) -> None:
        self._inherited: list[object] = []
        self._begin()

    def renew(self) -> None:
        """Begin anew in a child."""
        self._inherited += [self.idle, self.writing, self.executor]
        self._begin()

    def _begin(self) -> None:
        self.idle: deque[Handle] = deque()
        self.writing: dict[int, Loan] = {}
        self.executor = ThreadPoolExecutor(1, "agentguard-store")
        self.turn = OwnedLock()


def _close_idle(resources: _Resources) -> None:
    while resources.idle:
        resources.idle.pop().connection.close()


class Loan:
    """Lends a connection for a ``with`` block; with *writes*, in a write transaction.

    The transaction is ended by a block of the connection's own, ``with database.transaction() as db, db:``.
    That block is written in C, so that no exception, such as that of Ctrl-C, comes between the end of the
    block and the end of the transaction. A connection that is left over is closed at the next use. The
    function that enters the block has to be the one that leaves it: while it runs, a fork waits for it.

    This is a class because nested `contextlib` generators would cost each write a sixth of its time.
    """

    __slots__ = ("_database", "_frame", "_handle", "_number", "_thread", "_writes")

    def __init__(self, database: Database, *, writes: bool) -> None:
        self._database, self._writes = database, writes
        self._handle: Handle | None = None
        self._number = 0

    def __enter__(self) -> Connection:
        database = self._database
        self._frame, self._thread = sys._getframe(1), get_ident()
        try:
            if self._writes:
                database.begin_write(self)
            database.gate.enter(self)
            self._handle = handle = database.take(looks=self._writes)
            if self._writes:
                self._begin(handle)
            return handle.connection
        except BaseException as error:
            self.abandon()
            if isinstance(error, sqlite3.Error):
                raise store_error(database.path, error) from error
            raise

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        database = self._database
        try:
            if error is not None and isinstance(error, sqlite3.Error):
                raise store_error(database.path, error) from error
            handle = self._handle
            assert handle is not None  # noqa: S101  it was entered
            # interrupted before the connection's own block, or used without it
            if handle.connection.in_transaction:
                assert error is not None, "write `as db, db:`"  # noqa: S101  a mistake in a store
                return
            if self._writes and error is None:
                database.watch.committed(self._number, handle.connection)
            self._handle = None  # before it is given back: from then on, another thread may have it
            database.give(handle)
        finally:
            self.abandon()

    def is_running(self) -> bool:
        """Return whether the function that has entered the block still runs."""
        return is_running(self._frame, self._thread)

    def abandon(self) -> None:
        """Close what is still lent, which rolls back, and let a fork go on."""
        database = self._database
        if self._handle is not None:
            self._handle.connection.close()
            self._handle = None
        database.gate.leave(self)
        if self._writes:
            database.end_write(self)

    def _begin(self, handle: Handle) -> None:
        watch, connection, started = self._database.watch, handle.connection, monotonic()
        connection.execute("BEGIN IMMEDIATE")
        if monotonic() - started > INTERVAL:  # the file may have been replaced while this waited
            watch.look(handle.log)
        self._number = watch.next_number(connection)


class Database:
    """The connections to one file. Each transaction has its own, and so does each forked child.

    SQLite keeps a list of the locks that a process has on a file. A forked child inherits the list, but not
    the locks. So a fork waits until no transaction runs, and then closes the idle connections. If a
    transaction runs for longer than the busy timeout and a second, the child cannot use the file: each use
    of it raises StoreError.

    A file or a log that was removed, cut or replaced, or a file that was rolled back to an older copy, is
    noticed by the next write, and by a read that comes 5 ms later: from then on, each use raises StoreError.

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
        self.watch = FileWatch(self.path)
        self._timeout = timeout
        self._closed = False
        self._resources = _Resources()
        self.gate = ForkGate(timeout + PATIENCE)
        around_fork(before=self._close_idle)
        in_child(self._begin_in_child)
        weakref.finalize(self, _close_idle, self._resources)  # a store that nobody has closed
        self._create()
        with self.connection() as connection:
            use_wal(connection, self.path, timeout)
            migrate(connection, self.path, schema, version, migrations)
            self.watch.begin(connection)

    @property
    def executor(self) -> ThreadPoolExecutor:
        """The one thread that runs the asynchronous operations of this process in order."""
        if self._closed:
            raise StoreError(f"{self.path} is closed")
        return self._resources.executor

    def connection(self) -> Loan:
        """Lend a connection for one statement, which is its own transaction.

        Raises:
            StoreError: SQLite reported an error, or the store is closed.
        """
        return Loan(self, writes=False)

    def transaction(self) -> Loan:
        """Lend a connection in a write transaction, which is written completely or not at all."""
        return Loan(self, writes=True)

    def take(self, *, looks: bool = False) -> Handle:
        """Return a connection that no other thread uses; with *looks*, look at the file in any case.

        Raises:
            StoreError: The store is closed, or its file is not the same any more.
        """
        if self._closed:
            raise StoreError(f"{self.path} is closed")
        if _lost and self.path.resolve() in _lost:
            raise StoreError(
                f"{self.path}: this process was forked while another thread used the store",
                hint="fork while no call runs, or start the process anew (spawn)",
            )
        try:
            handle = self._resources.idle.pop()
        except IndexError:
            self.watch.look(None)
            handle, looks = Handle(connect(self.path, self._timeout, self._resources.turn)), False
        try:
            if looks:
                self.watch.look(handle.log)
            else:
                self.watch.check(handle.log, handle.connection)
        except BaseException:
            handle.connection.close()
            raise
        return handle

    def give(self, handle: Handle) -> None:
        """Take back a connection; it must not be in a transaction."""
        if self._closed:
            handle.connection.close()
            return
        if handle.log is None:
            handle.log = self.watch.log_files()
        self._resources.idle.append(handle)

    def begin_write(self, loan: Loan) -> None:
        """Note the write transaction of this thread.

        Raises:
            StoreError: It is within another one, as in a signal's handler.
        """
        writing, thread = self._resources.writing, get_ident()
        if (before := writing.get(thread)) is not None:
            if before.is_running():
                raise nested()
            before.abandon()
        writing[thread] = loan

    def end_write(self, loan: Loan) -> None:
        """Note that a write transaction is over."""
        writing, thread = self._resources.writing, get_ident()
        if writing.get(thread) is loan:
            del writing[thread]

    def close(self) -> None:
        """Finish the queued operations, and close this process's connections."""
        self._closed = True
        self._resources.executor.shutdown()
        self._close_idle()

    def _close_idle(self) -> None:
        _close_idle(self._resources)

    def _begin_in_child(self) -> None:
        self._resources.renew()
        if self.gate.was_in_use:
            _lost.add(self.path.resolve())

    def _create(self) -> None:
        try:
            make_private_folder(self.path.parent)
            # an existing file is not opened: closing any descriptor of it drops this process's locks
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror}") from error
