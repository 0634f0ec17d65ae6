"""The values of one fact that are used again for a while, each for the user and agent whose it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from agentguard.concurrency.fork import ProcessLock
from agentguard.model import AccessRequest, FactSpec, Json
from agentguard.model.arguments import canonical_json

__all__ = ["FactCache"]

ENTRIES, BYTES = 1_024, 4_194_304
"""How many values of one fact are kept, and how many bytes of JSON they hold at most."""


class _Entry(NamedTuple):
    value: bytes
    until: float


class FactCache:
    """Values by user, agent and key; of a shared fact by the key alone. The oldest make room for new ones."""

    def __init__(self, spec: FactSpec, clock: Callable[[], float]) -> None:
        self._spec, self._clock = spec, clock
        self._lock = ProcessLock()
        self._entries: dict[bytes, _Entry] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, request: AccessRequest, key: tuple[Json, ...]) -> bytes:
        """Return what names a value: nobody else's request has the same name, unless the fact is shared."""
        who = request.identity
        of = [] if self._spec.shared else [who.subject, who.actor, *who.chain]
        return canonical_json([of, list(key)])

    def get(self, name: bytes) -> bytes | None:
        """Return the value of this name, if it is still to be used."""
        entry = self._entries.get(name)
        return entry.value if entry is not None and self._clock() < entry.until else None

    def keep(self, name: bytes, value: bytes, at: float) -> None:
        """Keep a value that was asked for at the time *at*."""
        with self._lock:
            former = self._entries.pop(name, None)
            self._bytes += len(value) - (0 if former is None else len(former.value))
            self._entries[name] = _Entry(value, at + self._spec.lifetime)
            while len(self._entries) > ENTRIES or (self._bytes > BYTES and len(self._entries) > 1):
                oldest = next(iter(self._entries))
                self._bytes -= len(self._entries.pop(oldest).value)
