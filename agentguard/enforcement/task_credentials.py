"""Reuse without standing: a credential may serve several calls of one task, and dies with it.

Only where a broker says so for a path, and only for the same task, party, audience and scopes; and
for the same arguments where the broker binds them. The key that it is bound to is the broker's, which
the route stands for. What is kept here is in the store's outbox as well, so nothing is lost with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from threading import Lock

from agentguard.concurrency.fork import in_child
from agentguard.concurrency.single_flight import SingleFlight
from agentguard.enforcement.routing import Route
from agentguard.model import Credential, Grant, Secret, TaskState

__all__ = ["MOST", "ReusableCredentials", "SubjectTokens", "key_of"]

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


class ReusableCredentials:
    """Credentials by key, and the flights in which they are being minted."""

    def __init__(self, clock: Callable[[], float], *, timeout: float) -> None:
        self._clock, self._lock = clock, Lock()
        self._kept: OrderedDict[Hashable, tuple[str, Credential]] = OrderedDict()
        self.flights = SingleFlight(timeout=timeout)
        in_child(self._empty)

    def _empty(self) -> None:
        """Begin anew in a forked child: the credentials are the parent's."""
        self._lock, self._kept = Lock(), OrderedDict()

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


class SubjectTokens:
    """Tokens by task id."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._lock = clock, Lock()
        self._tokens: dict[str, tuple[Secret, float]] = {}
        in_child(self._empty)

    def _empty(self) -> None:
        """Begin anew in a forked child: a user's token stays in the process that got it."""
        self._lock, self._tokens = Lock(), {}

    def keep(self, task_id: str, token: Secret, until: float) -> None:
        """Keep the token of a task until a time, in seconds since the epoch; drops those past theirs."""
        now = self._clock()
        with self._lock:
            self._tokens = {id_: held for id_, held in self._tokens.items() if held[1] > now}
            self._tokens[task_id] = token, until

    def of(self, task: TaskState) -> Secret | None:
        """Return the token of a task, or of the nearest that it descends from, or None."""
        for task_id in (task.id, *task.lineage):
            if (held := self._tokens.get(task_id)) is not None:
                return held[0]
        return None

    def drop(self, task_ids: Iterable[str]) -> None:
        """Forget the tokens of tasks that ended."""
        with self._lock:
            for task_id in task_ids:
                self._tokens.pop(task_id, None)
