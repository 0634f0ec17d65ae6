"""The table of the audit log in a PostgreSQL schema, and what makes it."""

from __future__ import annotations

import re

import psycopg

from agentguard.errors import ConfigurationError
from agentguard.postgres.durability import Run

__all__ = ["VERSION", "checked_name", "make", "require_table"]

VERSION = 1
"""The version of the table. A change of it makes a new one."""

# "generated always", so that the order is that of the server
TABLES = """
CREATE TABLE audit_schema.version (number integer NOT NULL);
CREATE TABLE audit_schema.records (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    added timestamptz NOT NULL DEFAULT clock_timestamp(),
    writer text COLLATE "C" NOT NULL,
    seq bigint NOT NULL CHECK (seq > 0),
    hash text COLLATE "C" NOT NULL,
    family text[] COLLATE "C" NOT NULL,
    line text NOT NULL,
    UNIQUE (writer, seq)
);
CREATE INDEX records_family ON audit_schema.records USING gin (family);
CREATE FUNCTION audit_schema.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log takes records, and changes and deletes none';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_schema.records
    FOR EACH STATEMENT EXECUTE FUNCTION audit_schema.refuse();
"""
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# what `to_regclass` says may be older than the lock that was just waited for
_HAS_TABLE = (
    "SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
    " WHERE nspname = $1 AND relname = 'version'"
)
_HINT = "with the url of a role that may, run: agentguard audit migrate"


def checked_name(schema: str) -> str:
    """Return the name of a schema, which stands in statements without quotes.

    Raises:
        ConfigurationError: It is no plain name, or PostgreSQL keeps such names for itself.
    """
    if not _NAME.fullmatch(schema) or schema.startswith("pg_"):
        raise ConfigurationError(
            f"{schema!r} cannot be the schema of an audit log",
            hint='use lower-case letters, digits and _, as in schema = "agentguard_audit"',
        )
    return schema


async def require_table(run: Run, place: str, schema: str) -> None:
    """Check that the table is there and has the version of this agentguard; make it if it is not there.

    Raises:
        ConfigurationError: The role may not make it, or it has another version.
    """
    present = await _version_of(run, schema)
    if present is None:
        await make(run, place, schema)
        present = await _version_of(run, schema)
    if present != VERSION:
        raise ConfigurationError(
            f"{place}: the audit log in the schema {schema} has version {present}, and this agentguard knows"
            f" version {VERSION}",
            hint="upgrade agentguard here",
        )


async def make(run: Run, place: str, schema: str) -> bool:
    """Make the table if there is none, and return whether it was made. Of several processes one makes it.

    Raises:
        ConfigurationError: The role may not make it.
    """
    try:
        await run("BEGIN")
        await run("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", (f"agentguard audit {schema}",))
        absent = await _version_of(run, schema) is None
        if absent:
            # "IF NOT EXISTS" would demand the right to make schemas also where there is this one
            if not await run("SELECT 1 FROM pg_namespace WHERE nspname = $1", (schema,)):
                await run(f"CREATE SCHEMA {schema}")
            await run(TABLES.replace("audit_schema.", f"{schema}."))
            await run(f"INSERT INTO {schema}.version VALUES ($1)", (VERSION,))  # noqa: S608  a checked name
        await run("COMMIT")
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"{place}: the role may not make the audit log: {error.diag.message_primary}", hint=_HINT
        ) from error
    return absent


async def _version_of(run: Run, schema: str) -> int | None:
    if not await run(_HAS_TABLE, (schema,)):
        return None
    rows = await run(f"SELECT number FROM {schema}.version")  # noqa: S608  a checked name
    return int(rows[0][0]) if rows else 0
