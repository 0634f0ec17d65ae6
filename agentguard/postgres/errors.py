"""What an operator is told when PostgreSQL fails."""

from __future__ import annotations

import psycopg

from agentguard.errors import StoreError

__all__ = ["Unreachable", "is_refused_login", "lost_answer", "store_error", "unreachable"]

MIGRATE = "agentguard store migrate"
_HINTS = {
    "28P01": "correct the password, or the role in the url",
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
_BEFORE_SESSION = (
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("does not exist", "3D000"),
    ("too many clients", "53300"),
    ("remaining connection slots", "53300"),
    ("the database system is", "57P03"),
)
"""What PostgreSQL says in English then, and the SQLSTATE that it stands for."""

_UNREACHABLE = "start the server, or correct the host and port in the url"


class Unreachable(StoreError):
    """There is no connection to the server at this moment, and nothing was sent."""


def unreachable(place: str, error: Exception) -> StoreError:
    """Return the error of a connection that was not opened."""
    failure = store_error(place, error)
    if _state(error) in (None, "57P03", "53300"):
        return Unreachable(str(failure), hint=failure.hint)
    return failure


def store_error(place: str, error: Exception) -> StoreError:
    """Return the error of an operation: where it failed, what the server or the network said, and a hint."""
    state = _state(error)
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
    return _state(error) in ("28P01", "28000")


def _state(error: Exception) -> str | None:
    """Return the SQLSTATE. libpq gives none for what a server says before a session begins."""
    if not isinstance(error, psycopg.Error):
        return None
    return error.sqlstate or next((code for part, code in _BEFORE_SESSION if part in str(error)), None)


def _text(error: Exception) -> str:
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    if isinstance(error, TimeoutError):
        return "there was no answer in time"
    return " ".join(str(error).split()) or type(error).__name__
