"""For whom an operation is, so that what hangs for one user counts for that user alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["current_party", "for_party"]

_party: ContextVar[str] = ContextVar("agentguard_party", default="")


@contextmanager
def for_party(party: str) -> Iterator[None]:
    """Say that what is done inside is for *party*, such as a user; "" is nobody in particular."""
    token = _party.set(party)
    try:
        yield
    finally:
        _party.reset(token)


def current_party() -> str:
    """Return for whom the operation around is, or "" if nobody has said so."""
    return _party.get()
