"""Reuse without standing: a credential may serve several calls of one task, and dies with it.

Only where a broker says so for a path, and only for the same task, party, audience and scopes; and
for the same arguments where the broker binds them. The key that it is bound to is the broker's, which
the route stands for. What is kept here is in the store's outbox as well, so nothing is lost with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from threading import Lock

from agentguard.flight import SingleFlight
from agentguard.model import Credential, Grant
from agentguard.routes import Route

__all__ = ["Reuse", "key_of"]

MARGIN = 5.0
"""Seconds that a credential must still live to begin another call with it."""

MOST = 1024
"""Credentials that are kept; beyond that the oldest is used no more, and ends with its task."""


def key_of(route: Route, grant: Grant) -> Hashable:
    """Name what a credential may be used again for."""
    identity = grant.identity
    return (
        grant.task_id,
        route.name,
        grant.path,
        grant.audience,
        grant.scopes,
        (identity.subject, identity.actor, identity.chain),
        grant.digest if route.binds_arguments else None,
    )


class Reuse:
    """Credentials by key, and the flights in which they are being minted."""

    def __init__(self, clock: Callable[[], float], *, timeout: float) -> None:
        self._clock, self._lock = clock, Lock()
        self._kept: OrderedDict[Hashable, tuple[str, Credential]] = OrderedDict()
        self.flights = SingleFlight(timeout=timeout)

    def find(self, key: Hashable) -> Credential | None:
        """Return a credential that still lives long enough, or None."""
        with self._lock:
            found = self._kept.get(key)
        if found is None or found[1].expires_at - self._clock() < MARGIN:
            return None
        return found[1]

    def keep(self, key: Hashable, task_id: str, credential: Credential) -> None:
        """Keep a credential for later calls of its task."""
        with self._lock:
            self._kept[key] = task_id, credential
            self._kept.move_to_end(key)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)

    def refuse(self, key: Hashable, credential: Credential) -> None:
        """Use it no more: a call with it has failed, and it may be the cause."""
        with self._lock:
            if (found := self._kept.get(key)) is not None and found[1] is credential:
                del self._kept[key]

    def drop(self, task_ids: Iterable[str]) -> None:
        """Forget what was kept for tasks that ended."""
        gone = set(task_ids)
        with self._lock:
            for key in [key for key, (task_id, _) in self._kept.items() if task_id in gone]:
                del self._kept[key]
