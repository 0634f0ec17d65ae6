"""The audit log as rows of one PostgreSQL table."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg

from agentguard.audit.chain import GENESIS, parse, seal
from agentguard.audit.postgres import tables
from agentguard.audit.postgres.rows import Row, Rows
from agentguard.audit.postgres.writer import Entry, Writer
from agentguard.audit.records import permits, rfc3339
from agentguard.concurrency.deadline import seconds_left
from agentguard.concurrency.fork import in_child
from agentguard.errors import AgentGuardError, AuditError, ConfigurationError
from agentguard.model import Secret
from agentguard.postgres.address import Address
from agentguard.postgres.connector import Connector, PasswordSource
from agentguard.postgres.durability import Durability, Run, require_durable

__all__ = ["PostgresAudit"]

LATE = 30.0
"""Seconds that a record of what has happened all the same is waited for on an event loop."""


class PostgresAudit:
    """An `AuditLog` in one schema of a PostgreSQL database, which the processes of many machines write to.

    Each process writes a chain of its own, by one connection and in one thread; see this package. Calls that
    run side by side wait for one statement together. *url*, *password*, *ca* and *plaintext* are as those of
    `stores.postgres.PostgresStore`, and the connection to another host is verified by TLS. *schema* is made
    at the first use if the role may, else by an owner (`migrate`). *timeout* in seconds is how long an append
    may take; a nearer deadline of the caller holds too. *clock* dates the records.

    After a fork, a child writes a chain of its own by a connection of its own.

    Raises:
        ConfigurationError: A setting is wrong.
    """

    def __init__(
        self,
        url: str,
        *,
        password: Secret | PasswordSource | None = None,
        schema: str = "agentguard_audit",
        ca: str | os.PathLike[str] | None = None,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.time,
        plaintext: bool = False,
        durability: Durability = "checked",
    ) -> None:
        if timeout <= 0:
            raise ConfigurationError("timeout is more than 0")
        self._schema, self._timeout, self._clock = tables.checked_name(schema), timeout, clock
        self._durability: Durability = durability
        address = Address(url, timeout=timeout, ca=ca, plaintext=plaintext)
        self.place = f"{address.name}, schema {schema}"
        self._connector = Connector(address, password, self._check)
        self._writer = self._new_writer()
        self._of_parents: list[Writer] = []
        in_child(self._begin_in_child)

    def __repr__(self) -> str:
        return f"<PostgresAudit {self.place}>"

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record before returning. The time (`at`, RFC 3339 in UTC) is added if it has none.

        Raises:
            AuditError: The record was not written, or it is not known whether it was; or it has no JSON form.
                A record that is no permit is written later, if that becomes possible.
        """
        entry = self._submitted(record)
        try:
            entry.answer.result(seconds_left(self._timeout, of_sequence=entry.permits))
        except TimeoutError:
            entry.given_up = True
            raise self._late() from None
        except BaseException:
            entry.given_up = True
            raise

    async def aappend(self, record: Mapping[str, Any]) -> None:
        """Write one record, without holding the event loop."""
        entry = self._submitted(record)
        try:
            async with asyncio.timeout(self._timeout if entry.permits else LATE):
                await asyncio.wrap_future(entry.answer)
        except TimeoutError:
            entry.given_up = True
            raise self._late() from None
        except BaseException:
            entry.given_up = True
            raise

    def records(self, task_id: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the records in order: those of one task and its descendants, or all.

        The chains are not checked here; `verify_log` does that.

        Raises:
            AuditError: They cannot be read.
        """
        for row in self.rows(task_id):
            record = parse(row.line.encode())
            if record is not None and record.get("event") != "begun":
                yield record

    def rows(self, task_id: str | None = None, after: int = 0) -> Iterator[Row]:
        """Yield the rows after a place in the log, in their order.

        Raises:
            AuditError: They cannot be read.
        """
        with self._errors():
            connection = self._connector.open(time.monotonic() + self._timeout)
            try:
                yield from Rows(connection, self._schema, self._timeout).read(task_id, after)
            finally:
                connection.pgconn.finish()

    def migrate(self, timeout: float = 60.0) -> bool:
        """Make the table, as the role that will own it; return whether there was none.

        Raises:
            ConfigurationError: The role may not do that.
            AuditError: The server cannot be reached, or failed.
        """
        absences = list[bool]()

        async def bring(run: Run, place: str) -> None:
            absences.append(await tables.make(run, place, self._schema))

        with self._errors():
            self._connector.open(time.monotonic() + timeout, prepare=bring).close()
        return absences[0]

    def health(self) -> None:
        """Look whether a record could be written now. Nothing is written.

        Raises:
            AuditError: The server cannot be reached or is not as it must be, or records wait to be written.
        """
        if waiting := self._writer.waiting:
            raise AuditError(f"{self.place}: {waiting} records wait to be written")
        with self._errors():
            self._connector.open(time.monotonic() + self._timeout).close()

    def close(self) -> None:
        """Write the records that wait, and close the connection. A later append opens it again."""
        self._writer.close()

    async def _check(self, run: Run, place: str) -> None:
        await require_durable(run, place, self._durability, "a record")
        await tables.require_table(run, place, self._schema)

    def _submitted(self, record: Mapping[str, Any]) -> Entry:
        record = record if "at" in record else {"at": rfc3339(self._clock()), **record}
        try:
            seal(record, GENESIS)  # here, so that nothing without a JSON form is ever under way
        except ValueError as error:
            raise AuditError(f"the record cannot be written as JSON: {error}") from error
        entry = Entry(record, permits(record))
        self._writer.submit(entry)
        return entry

    def _late(self) -> AuditError:
        return AuditError(f"{self.place}: the record was not acknowledged in time")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (AuditError, ConfigurationError):
            raise
        except (AgentGuardError, psycopg.Error, OSError) as error:
            raise AuditError(f"{self.place}: {' '.join(str(error).split())}") from error

    def _new_writer(self) -> Writer:
        return Writer(self._connector, self._schema, self._timeout, lambda: rfc3339(self._clock()))

    def _begin_in_child(self) -> None:
        self._of_parents.append(self._writer)  # kept, so that its connection is not closed here
        self._writer = self._new_writer()
