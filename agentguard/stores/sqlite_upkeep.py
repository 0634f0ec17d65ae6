"""The upkeep of the SQLite store's file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from agentguard.errors import ConfigurationError
from agentguard.stores import _rows, _sql
from agentguard.stores._database import Database
from agentguard.stores._file_watch import store_error
from agentguard.stores._migrations import MIGRATIONS
from agentguard.stores._rules import DEFAULT_RETENTION, Retention
from agentguard.stores._schema import INCREMENTAL
from agentguard.stores._sql_pruning import Pruning
from agentguard.stores.upkeep import Compaction, Condition, Migration

__all__ = ["SqliteUpkeep"]

TIMEOUT = 30.0  # seconds that a step waits for guards
STEP = 500  # free pages that one transaction gives back
PASSES = 8  # through all tables, at most
PROBLEMS = 10  # of damage, so many are reported

COUNTS = {
    "active tasks": "SELECT count(*) FROM tasks WHERE status = 'active' AND deadline > :now",
    "ended tasks": "SELECT count(*) FROM tasks WHERE status != 'active' OR deadline <= :now",
    "running calls": "SELECT count(*) FROM calls WHERE NOT suspended AND id != '~'",
    "suspended calls": "SELECT count(*) FROM calls WHERE suspended",
    "open questions": (
        "SELECT count(*) FROM approvals WHERE status = 'pending' AND expires_at > :now AND EXISTS ("
        "SELECT 1 FROM tasks WHERE id = task_id AND tasks.status = 'active' AND deadline > :now)"
    ),
}
ROWS = {
    "tasks": "SELECT count(*) FROM tasks",
    "calls": "SELECT count(*) FROM calls WHERE id != '~'",
    "labels": "SELECT count(*) FROM labels",
    "approvals": "SELECT count(*) FROM approvals",
    "credentials": "SELECT count(*) FROM credentials",
    "keys": "SELECT count(*) FROM keys",
    "counters": "SELECT count(*) FROM counters",
}
FOREIGN = {  # calls without a task are left for a later round of the pruning, so they are no fault
    "lineage": "SELECT count(*) FROM lineage WHERE task_id NOT IN (SELECT id FROM tasks)",
    "labels": "SELECT count(*) FROM labels WHERE family NOT IN (SELECT id FROM tasks)",
    "counters": (  # of a family; a window has a time of its own
        "SELECT count(*) FROM counters WHERE until = 0 AND substr(owner, 6) NOT IN (SELECT id FROM tasks)"
    ),
}
LIVE = (
    "SELECT call_id, task_id, broker, handle, expires_at, owner, expires_at > :now AND EXISTS ("
    "SELECT 1 FROM tasks WHERE id = task_id AND status = 'active' AND deadline > :now)"
    " FROM credentials ORDER BY expires_at"
)
FOUND = "SELECT tool FROM calls WHERE id = '~' AND tool != ''"  # what a process has found wrong
ARRANGED = "UPDATE calls SET approval_id = ? WHERE id = '~'"
OBJECTS = "SELECT type, name FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"


class SqliteUpkeep:
    """The upkeep of one file; see `Upkeep`. *retention* is that of the guards.

    `compact` takes steps of `STEP` pages, so that guards wait for none of them long. A file that was made
    before there was such a step is rewritten once (VACUUM). Guards that write meanwhile wait, some 4 seconds
    for 100 MB; each waits for at most its busy timeout, 5 seconds by default, and then denies its call.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        retention: Retention = DEFAULT_RETENTION,
    ) -> None:
        self._path, self._clock, self._retention = path, clock, retention

    def migrate(self) -> Migration:
        """Bring the file to the newest schema, step by step, in one transaction."""
        with self._opened() as db:
            before = self._version(db)
        self._database().close()
        return Migration(before, _sql.VERSION)

    def check(self) -> Condition:
        """Look into each page, index and row; change nothing."""
        with self._opened() as db:
            db.execute("PRAGMA query_only = ON")
            version = self._version(db)
            faults = [text for (text,) in db.execute(f"PRAGMA integrity_check({PROBLEMS})") if text != "ok"]
            if version == _sql.VERSION:
                faults += _missing(db) + [text for (text,) in db.execute(FOUND)]
            if faults or not (version == _sql.VERSION or version in MIGRATIONS):
                return Condition(schema=version, newest=_sql.VERSION, faults=tuple(faults))
            return self._condition(db, version)

    def compact(self) -> Compaction:
        """Delete what is over and give free pages back, in short transactions; then empty the log."""
        with self._opened() as db:
            if (version := self._version(db)) != _sql.VERSION:
                raise ConfigurationError(
                    f"the store has schema version {version}, and the newest is {_sql.VERSION}",
                    hint="run `agentguard store migrate` first",
                    file=self._path,
                )
        database = self._database()
        try:
            before = self._size()
            with database.connection() as db:
                rows = _numbers(db, ROWS)
            self._prune(database)
            with database.connection() as db:
                rows_now = _numbers(db, ROWS)
                _shrink(db)
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            database.close()
        deleted = {name: max(0, rows[name] - rows_now[name]) for name in rows}
        return Compaction(before=before, now=self._size(), deleted=deleted)

    def _prune(self, database: Database) -> None:
        """Go through each table until a whole pass finds nothing, or the guards keep adding what is over."""
        pruning, passes = Pruning(self._retention), 0
        while pruning.passes < min(passes + 2, PASSES):
            with database.transaction() as db, db:
                before = db.total_changes
                pruning.prune(db, self._clock())
                if db.total_changes > before:
                    passes = pruning.passes

    def _condition(self, db: sqlite3.Connection, version: int) -> Condition:
        now = self._clock()
        live = [(_rows.credential(row), bool(usable)) for *row, usable in db.execute(LIVE, {"now": now})]
        tables = {name for _, name in db.execute(OBJECTS)}
        foreign = _numbers(db, {name: query for name, query in FOREIGN.items() if name in tables})
        return Condition(
            schema=version,
            newest=_sql.VERSION,
            foreign=tuple(f"{count} rows of {name}" for name, count in foreign.items() if count),
            in_use=tuple(credential for credential, usable in live if usable),
            outbox=tuple(credential for credential, usable in live if not usable),
            counts=_numbers(db, COUNTS, now),
        )

    def _database(self) -> Database:
        return Database(self._path, _sql.SCHEMA, _sql.VERSION, TIMEOUT, MIGRATIONS)

    def _version(self, db: sqlite3.Connection) -> int:
        """Return the schema version.

        Raises:
            ConfigurationError: The file is no store.
        """
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version == 0:
            raise ConfigurationError(
                "this file is no store of agentguard", hint="correct [store] path", file=self._path
            )
        return version

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Open the file, which is not made if it is missing."""
        if not self._path.exists():
            raise ConfigurationError(
                "there is no store yet", hint="a guard makes it when it starts", file=self._path
            )
        try:
            uri = f"file:{quote(str(self._path.absolute()))}?mode=rw"
            with closing(sqlite3.connect(uri, uri=True, timeout=TIMEOUT, isolation_level=None)) as db:
                yield db
        except sqlite3.Error as error:
            raise store_error(self._path, error) from error

    def _size(self) -> int:
        """Return the bytes of the file and its log."""
        files = (self._path, Path(f"{self._path}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())


def _shrink(db: sqlite3.Connection) -> None:
    """Cut free pages from the file, whose end is moved into others where need be."""
    if db.execute("PRAGMA auto_vacuum").fetchone()[0] != INCREMENTAL:
        db.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
        db.execute("VACUUM")
        cookie = db.execute("PRAGMA schema_version").fetchone()
        db.execute(ARRANGED, cookie)  # so that no guard that runs looks into all of the file
        return
    free, before = _free_pages(db), None
    while free and free != before:
        db.execute(f"PRAGMA incremental_vacuum({STEP})").fetchall()
        free, before = _free_pages(db), free


def _free_pages(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA freelist_count").fetchone()[0])


def _missing(db: sqlite3.Connection) -> list[str]:
    """Return what a file of the newest version lacks: its tables and indexes."""
    with closing(sqlite3.connect(":memory:")) as sample:
        sample.executescript(_sql.SCHEMA)
        missing = set(sample.execute(OBJECTS)) - set(db.execute(OBJECTS))
    return [f"the {kind} {name} is missing" for kind, name in sorted(missing)]


def _numbers(db: sqlite3.Connection, queries: dict[str, str], now: float = 0.0) -> dict[str, int]:
    return {name: db.execute(query, {"now": now}).fetchone()[0] for name, query in queries.items()}
