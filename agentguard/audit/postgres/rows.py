"""Reads the records of the audit log in PostgreSQL, and writes them, on one connection."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from agentguard.audit.chain import Head
from agentguard.postgres.links import BlockingConnection

__all__ = ["NEWEST", "WITNESSED", "Row", "Rows", "Sealed", "family_of"]

WITNESSED = 64
"""Of so many other chains at most, a new one holds the newest head."""
NEWEST = 1_024
"""Among so many of the newest records these are looked for."""
_PAGE = 1_000


class Sealed(NamedTuple):
    """A record with its place in the chain of its writer, and its line."""

    head: Head
    family: list[str]
    line: str


class Row(NamedTuple):
    """A record as it is read: its place in the log and in the chain of its writer, its line, and its age.

    `family` is how the table finds it: the task of the record and what the task descends from (`family_of`).
    """

    n: int
    writer: str
    seq: int
    hash: str
    line: str
    seconds: float
    family: list[str]


class Rows:
    """The records in one schema, by one connection. Each statement has *timeout* seconds."""

    def __init__(self, connection: BlockingConnection, schema: str, timeout: float) -> None:
        self._connection, self._table, self._timeout = connection, f"{schema}.records", timeout

    def add(self, writer: str, batch: Sequence[Sealed]) -> bool:
        """Add records of one writer, all or none; those that are there already are not added again.

        Returns False if one of their numbers is another record's.

        Raises:
            psycopg.Error, TimeoutError: It is not known whether they were added.
        """
        columns = (
            [sealed.head.seq for sealed in batch],
            [sealed.head.hash for sealed in batch],
            [json.dumps(sealed.family) for sealed in batch],
            [sealed.line for sealed in batch],
        )
        added = self._run(
            f"INSERT INTO {self._table} (writer, seq, hash, family, line)"  # noqa: S608  a checked name
            " SELECT $1, seq, hash, ARRAY(SELECT json_array_elements_text(family::json)), line"
            " FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[]) AS r (seq, hash, family, line)"
            " ORDER BY seq ON CONFLICT (writer, seq) DO NOTHING RETURNING 1",
            (writer, *columns),
        )
        if len(added) == len(batch):
            return True
        present = self._run(
            f"SELECT count(*) FROM {self._table} JOIN unnest($2::bigint[], $3::text[]) AS r (seq, hash)"  # noqa: S608  the same
            " USING (seq, hash) WHERE writer = $1",
            (writer, *columns[:2]),
        )
        return bool(present[0][0] == len(batch))

    def newest_heads(self) -> list[str]:
        """Return the newest heads of other chains, each behind the name of its writer."""
        rows = self._run(
            "SELECT DISTINCT ON (writer) writer, seq, hash FROM"  # noqa: S608  a checked name
            f" (SELECT writer, seq, hash FROM {self._table} ORDER BY n DESC LIMIT {NEWEST}) AS newest"
            f" ORDER BY writer, seq DESC LIMIT {WITNESSED}",
            (),
        )
        return [f"{writer} {Head(seq, hash_)}" for writer, seq, hash_ in rows]

    def read(self, task_id: str | None = None, after: int = 0) -> Iterator[Row]:
        """Yield the records after a place in the log: all, or those of a task and its descendants.

        Raises:
            psycopg.Error, TimeoutError: They cannot be read.
        """
        condition, values = (
            ("AND family @> ARRAY[$2::text]", (escaped(task_id),)) if task_id is not None else ("", ())
        )
        while True:
            rows = self._run(
                "SELECT n, writer, seq, hash, line,"  # noqa: S608  a checked name
                " extract(epoch FROM clock_timestamp())::double precision"
                " - extract(epoch FROM added)::double precision, family"
                f" FROM {self._table} WHERE n > $1 {condition} ORDER BY n LIMIT {_PAGE}",
                (after, *values),
            )
            for row in rows:
                yield Row(*row)
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def _run(self, text: str, values: tuple[Any, ...]) -> list[Any]:
        self._connection.ends = time.monotonic() + self._timeout
        return self._connection.execute(text.encode(), values).fetchall()


def family_of(record: Mapping[str, Any]) -> list[str]:
    """Return the task of a record and what the task descends from, as the table holds them."""
    lineage = record.get("lineage")  # of a record that is read, it may be anything
    names = [record.get("task"), *(lineage if isinstance(lineage, list | tuple) else ())]
    return [escaped(name) for name in names if isinstance(name, str)]


def escaped(text: str) -> str:
    """Return a text as JSON writes it: PostgreSQL can keep each of its characters."""
    return json.dumps(text)[1:-1]
