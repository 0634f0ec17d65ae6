"""How a SQLite file becomes a store: its write-ahead log, and the version of its tables."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

from agentguard.errors import ConfigurationError

__all__ = ["migrate", "use_wal"]

PAGE = 1024  # bytes; a write copies whole pages to the log, and the rows here are small
INCREMENTAL = 2  # SQLite's mode in which free pages are given back in steps, and not by rewriting the file
RETRY = 0.01  # seconds between attempts to switch to WAL, for which SQLite itself does not wait


def use_wal(connection: sqlite3.Connection, path: Path, timeout: float) -> None:
    """Have a file keep a write-ahead log; wait *timeout* seconds for a process that holds the file.

    Raises:
        ConfigurationError: SQLite cannot keep a write-ahead log here.
    """
    connection.execute(f"PRAGMA page_size = {PAGE}")
    connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")  # of a new file
    deadline = time.monotonic() + timeout
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
                file=path,
            )
        return


def migrate(
    connection: sqlite3.Connection, path: Path, schema: str, version: int, migrations: Mapping[int, str]
) -> None:
    """Make the tables of a new file, or bring those of an older version to this one.

    Raises:
        ConfigurationError: The file has a version that is unknown here.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        present = connection.execute("PRAGMA user_version").fetchone()[0]
        if present not in (0, version, *migrations):
            older = "end its tasks with the agentguard version that made it, then name another file"
            raise ConfigurationError(
                f"the store has schema version {present}, and this agentguard knows {version}",
                hint=older if present < version else "upgrade agentguard, or name another file",
                file=path,
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
