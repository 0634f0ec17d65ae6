"""Makes the store's tables and functions in a PostgreSQL schema, and brings them to the newest version."""

from __future__ import annotations

import re

import psycopg

from agentguard.errors import ConfigurationError
from agentguard.stores.postgres._errors import store_error, wrong_version
from agentguard.stores.postgres._functions import FUNCTIONS
from agentguard.stores.postgres._links import BlockingConnection
from agentguard.stores.postgres._tables import MIGRATIONS, TABLES, VERSION

__all__ = ["checked_name", "make_or_migrate"]

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
_HAS_SCHEMA = "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)"
_HAS_STORE = "SELECT to_regclass($1) IS NOT NULL"


def checked_name(schema: str) -> str:
    """Return the name of a schema, which stands in statements without quotes.

    Raises:
        ConfigurationError: It is no plain name, or PostgreSQL keeps such names for itself.
    """
    if not _NAME.fullmatch(schema) or schema.startswith("pg_"):
        raise ConfigurationError(
            f"{schema!r} cannot be the schema of a store",
            hint='use lower-case letters, digits and _, as in schema = "agentguard"',
        )
    return schema


def make_or_migrate(connection: BlockingConnection, place: str, schema: str, *, migrates: bool) -> int:
    """Make the store, unless there is one, and return the version that was there, or 0.

    It holds a lock, so that of several processes one makes the store. With *migrates*, an older store is
    brought to the newest version; without, it is left as it is.

    Raises:
        ConfigurationError: The role may not make it, or the store is newer than this agentguard.
        StoreError: The server failed.
    """
    try:
        with connection.transaction():
            connection.execute(_LOCK, (f"agentguard store {schema}",))
            present = _present(connection, schema)
            if present > VERSION:
                raise wrong_version(place, schema, present, VERSION)
            if present == 0 or (migrates and present < VERSION):
                _bring(connection, schema, present)
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"{place}: the role may not make the store: {error.diag.message_primary}",
            hint="have a role that may create in the database run: agentguard store migrate",
        ) from error
    except (psycopg.Error, OSError) as error:
        raise store_error(place, error) from error
    return present


def _present(connection: BlockingConnection, schema: str) -> int:
    row = connection.execute(_HAS_STORE, (f"{schema}.version",)).fetchone()
    if not row or not row[0]:
        return 0
    row = connection.execute(f"SELECT number FROM {schema}.version").fetchone()  # noqa: S608  a checked name
    return int(row[0]) if row else 0


def _bring(connection: BlockingConnection, schema: str, present: int) -> None:
    def run(statements: str) -> None:
        # without values, so that several statements are one message
        connection.execute(statements.replace("agentguard.", f"{schema}.").encode(), prepare=False)

    if present == 0:
        row = connection.execute(_HAS_SCHEMA, (schema,)).fetchone()
        if not row or not row[0]:
            connection.execute(f"CREATE SCHEMA {schema}".encode())
        run(TABLES)
    for step in range(max(present, 1), VERSION):
        run(MIGRATIONS[step])
    run(FUNCTIONS)
    connection.execute(f"DELETE FROM {schema}.version")  # noqa: S608  a checked name
    connection.execute(f"INSERT INTO {schema}.version VALUES ($1)", (VERSION,))  # noqa: S608  a checked name
