"""Makes the store's tables and functions in a PostgreSQL schema, and brings them to the newest version."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from agentguard.errors import ConfigurationError
from agentguard.stores.postgres._functions import FUNCTIONS
from agentguard.stores.postgres._tables import MIGRATIONS, TABLES, VERSION

__all__ = ["bring", "check_version", "checked_name", "version_of"]

Run = Callable[..., Awaitable[Any]]

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# what `to_regclass` says may be older than the lock that was just waited for
_HAS_STORE = (
    "SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
    " WHERE nspname = $1 AND relname = 'version'"
)
_COMMAND = "run: agentguard store migrate"


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


async def version_of(run: Run, schema: str) -> int | None:
    """Return the version of the store in a schema, or None if there is no store."""
    if not await run(_HAS_STORE, (schema,)):
        return None
    rows = await run(f"SELECT number FROM {schema}.version")  # noqa: S608  a checked name
    return int(rows[0][0]) if rows else 0


def check_version(place: str, schema: str, present: int | None) -> None:
    """Check that a store is there, and has the version of this agentguard.

    Raises:
        ConfigurationError: There is none, or it has another version.
    """
    if present == VERSION:
        return
    problem = "there is no store" if present is None else f"the store has version {present}"
    is_newer = present is not None and present > VERSION
    raise ConfigurationError(
        f"{place}: in the schema {schema} {problem}, and this agentguard knows version {VERSION}",
        hint="upgrade agentguard here" if is_newer else _COMMAND,
    )


async def bring(run: Run, place: str, schema: str, *, migrates: bool) -> int | None:
    """Make the store if there is none, and return the version that was there.

    It holds a lock, so that of several processes one makes the store. With *migrates*, an older store is
    brought to the newest version; without, it is left as it is.

    Raises:
        ConfigurationError: The role may not make it, or the store is newer than this agentguard.
    """
    try:
        await run("BEGIN")
        await run("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", (f"agentguard store {schema}",))
        present = await version_of(run, schema)
        if present is not None and present > VERSION:
            check_version(place, schema, present)
        if present is None or (migrates and present < VERSION):
            await _make(run, schema, present)
        await run("COMMIT")
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"{place}: the role may not make the store: {error.diag.message_primary}",
            hint="with the url of a role that may, " + _COMMAND,
        ) from error
    return present


async def _make(run: Run, schema: str, present: int | None) -> None:
    if present is None:
        # "IF NOT EXISTS" would demand the right to make schemas also where there is this one
        if not await run("SELECT 1 FROM pg_namespace WHERE nspname = $1", (schema,)):
            await run(f"CREATE SCHEMA {schema}")
        await run(_in_schema(TABLES, schema))
    for step in range(present or VERSION, VERSION):
        await run(_in_schema(MIGRATIONS[step], schema))
    await run(_in_schema(FUNCTIONS, schema))
    await run(f"DELETE FROM {schema}.version")  # noqa: S608  a checked name
    await run(f"INSERT INTO {schema}.version VALUES ($1)", (VERSION,))  # noqa: S608  a checked name


def _in_schema(statements: str, schema: str) -> str:
    return statements.replace("agentguard.", f"{schema}.")
