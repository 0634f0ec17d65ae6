"""Handles under which nothing lives any more, so that a broker can tell them from unknown ones."""

from __future__ import annotations

from agentguard.concurrency.fork import ProcessLock

__all__ = ["RevokedHandles"]

LIMIT = 10_000  # of one broker in this process; the oldest is forgotten, and is then unknown


class RevokedHandles:
    """The handles that a broker has revoked, or under which it is known to have minted nothing."""

    def __init__(self) -> None:
        self._handles: dict[str, None] = {}
        self._lock = ProcessLock()

    def add(self, handle: str) -> None:
        """Note that nothing lives under *handle*."""
        with self._lock:
            self._handles[handle] = None
            if len(self._handles) > LIMIT:
                del self._handles[next(iter(self._handles))]

    def discard(self, handle: str) -> None:
        """Note that something may come to live under *handle*."""
        with self._lock:
            self._handles.pop(handle, None)

    def __contains__(self, handle: str) -> bool:
        with self._lock:
            return handle in self._handles
