"""A row of a database as a fact, by a query with bound parameters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any, Protocol

from agentguard.errors import FactError
from agentguard.facts.idle import IdleConnection, IdleConnections
from agentguard.model import AccessRequest, Json

__all__ = ["Connection", "Cursor", "SqlFact"]


class Cursor(Protocol):
    """A cursor of the Python database API (PEP 249)."""

    @property
    def description(self) -> Any:
        """The columns of the result, each with its name first."""

    def execute(self, query: Any, parameters: Any, /) -> Any:
        """Run a query."""

    def fetchmany(self, size: int, /) -> Any:
        """Return the next rows."""

    def close(self) -> Any:
        """Close the cursor."""


class Connection(Protocol):
    """A connection of the Python database API (PEP 249)."""

    def cursor(self) -> Any:
        """Return a new cursor."""

    def close(self) -> Any:
        """Close the connection."""


class SqlFact:
    """Reads one row by *query*, whose parameters are bound: the key, in its order, and nothing else.

    *connect* opens a connection of any driver with the Python database API (PEP 249), such as sqlite3 or
    psycopg; the query has the placeholders of that driver. The connection is closed after each reading: give
    an `IdleConnections` as *connect* if opening takes long. Let it log in as a user that may only read.

    Several rows are an error. The names of the columns are the fields of the record; with *scalar* the one
    column is the value itself. With *by_subject* the first parameter is the user.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        query: str,
        *,
        scalar: bool = False,
        by_subject: bool = False,
    ) -> None:
        self._connect, self._query = connect, query
        self._scalar, self.by_subject = scalar, by_subject

    def read(self, request: AccessRequest, key: tuple[Json, ...]) -> Any:
        """Return the row that the query finds, or None.

        Raises:
            FactError: It finds several rows, or a part of the key is neither text nor number.
        """
        parameters = (request.identity.subject, *key) if self.by_subject else key
        if not all(isinstance(value, str | int | float) for value in parameters):
            raise FactError("a part of the key is neither text, number nor boolean")
        row, names = self._row(parameters)
        if row is None or self._scalar:
            return None if row is None else row[0]
        return dict(zip(names, row, strict=True))

    def close(self) -> None:
        """Close the connections that are idle."""
        if isinstance(self._connect, IdleConnections):
            self._connect.close()

    def _row(self, parameters: tuple[Json, ...]) -> tuple[Any, list[str]]:
        """Return the row and the names of its columns; ask again where an idle connection was broken."""
        connection = self._connect()
        try:
            return self._ask(connection, parameters)
        except FactError:  # the database has answered: its connection is not broken
            raise
        except Exception:
            if not isinstance(connection, IdleConnection):
                raise
            connection.discard()
            if connection.is_new:
                raise
        finally:
            connection.close()
        return self._row(parameters)

    def _ask(self, connection: Connection, parameters: tuple[Json, ...]) -> tuple[Any, list[str]]:
        with closing(connection.cursor()) as cursor:
            cursor.execute(self._query, parameters)
            rows = cursor.fetchmany(2)
            names = [column[0] for column in cursor.description or ()]
        if len(rows) > 1:
            raise FactError("its query finds several rows")
        return (rows[0] if rows else None), names
