"""What an operator is told when PostgreSQL fails."""

from __future__ import annotations

import psycopg

from agentguard.errors import StoreError

__all__ = ["Unreachable", "is_refused_login", "lost_answer", "store_error", "unreachable"]

MIGRATE = "agentguard store migrate"
_HINTS = {
    "28P01": "correct the password of the store, or the role in its url",
    "28000": "correct the role in the url, or the server's pg_hba.conf",
    "3D000": "create the database, or correct its name in the url",
    "42501": "grant the role what agentguard.stores.postgres says",
    "42P01": f"have the owner of the schema run: {MIGRATE}",
    "42883": f"have the owner of the schema run: {MIGRATE}",
    "3F000": f"have the owner of the schema run: {MIGRATE}",
    "53300": "lower pool_size, or raise max_connections at the server",
    "53100": "free space on the server's disk",
    "57014": "look at the server's load and at who holds locks (pg_stat_activity), or raise timeout",
    "55P03": "look at who holds locks at the server (pg_stat_activity)",
    "25006": "name the primary server in the url; this one is a standby, or read-only",
    "57P03": "wait until the server has started",
}
_UNREACHABLE = "start the server, or correct the host and port in the url"


class Unreachable(StoreError):
    """There is no connection to the server at this moment, and nothing was sent."""


def unreachable(place: str, error: Exception) -> StoreError:
    """Return the error of a connection that was not opened."""
    failure = store_error(place, error)
    state = getattr(error, "sqlstate", None)
    if state in (None, "57P03", "53300") and not (
        isinstance(error, psycopg.Error) and is_refused_login(error)
    ):
        return Unreachable(str(failure), hint=failure.hint)
    return failure


def store_error(place: str, error: Exception) -> StoreError:
    """Return the error of an operation: where it failed, what the server or the network said, and a hint."""
    state = getattr(error, "sqlstate", None)
    hint = _HINTS.get(state or "", "" if state else _UNREACHABLE)
    return StoreError(f"{place}: {_text(error)}", hint=hint)


def lost_answer(place: str, error: Exception) -> StoreError:
    """Return the error of a statement whose answer was lost: nobody knows whether it was done."""
    return StoreError(
        f"{place}: the connection was lost before the answer, so the operation may have been done or not:"
        f" {_text(error)}",
        hint="look at the network and at the server's log; the call was denied",
    )


def is_refused_login(error: psycopg.Error) -> bool:
    """Return whether the server refused the password or the role."""
    # libpq gives no SQLSTATE for what the server says before a session
    return error.sqlstate in ("28P01", "28000") or "password authentication failed" in str(error)


def _text(error: Exception) -> str:
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    if isinstance(error, TimeoutError):
        return "there was no answer in time"
    return " ".join(str(error).split()) or type(error).__name__
