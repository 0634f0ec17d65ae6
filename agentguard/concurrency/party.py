"""For whom an operation is, so that what hangs for one user counts for that user alone."""

from __future__ import annotations

from contextvars import ContextVar, Token

__all__ = ["current_party", "for_party"]

_party: ContextVar[str] = ContextVar("agentguard_party", default="")


class _ForParty:
    """A block for one party. Each call mints in one, and as a generator it took three times as long."""

    __slots__ = ("_party", "_token")
    _token: Token[str]

    def __init__(self, party: str) -> None:
        self._party = party

    def __enter__(self) -> None:
        self._token = _party.set(self._party)

    def __exit__(self, *_: object) -> None:
        _party.reset(self._token)


def for_party(party: str) -> _ForParty:
    """Say that what is done inside is for *party*, such as a user; "" is nobody in particular."""
    return _ForParty(party)


def current_party() -> str:
    """Return for whom the operation around is, or "" if nobody has said so."""
    return _party.get()
