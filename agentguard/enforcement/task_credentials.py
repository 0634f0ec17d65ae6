"""Reuse without standing: a credential may serve several calls of one task, and dies with it.

Only where a broker says so for a path, and only for the same task, party, tool, audience and scopes; for the
same arguments where the broker binds them; and for no longer than the call may have one. The key that it is
bound to is the broker's, which the route stands for. What is kept here is in the store's outbox as well, so
nothing is lost with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

from agentguard.concurrency.fork import ProcessLock, in_child
from agentguard.concurrency.single_flight import SingleFlight
from agentguard.enforcement.routing import Route
from agentguard.model import Credential, Grant, Secret, TaskState

__all__ = ["MOST", "KeptCredential", "ReusableCredentials", "SubjectTokens", "key_of"]

MARGIN = 5.0
"""Seconds that a credential must still live to begin another call with it."""

MOMENT = 1.0
"""Seconds by which the end of a shared credential may lie beyond that of a call's own."""

MOST = 1024
"""Credentials that are kept; beyond that the oldest is used no more, and ends with its task."""


def key_of(route: Route, grant: Grant) -> Hashable:
    """Name what a credential may be used again for."""
    identity = grant.identity
    return (
        grant.task_id,
        route.name,
        grant.tool,
        grant.path,
        grant.resource.name,
        grant.audience,
        grant.scopes,
        (identity.subject, identity.actor, identity.chain),
        grant.digest if route.binds_arguments else None,
    )


class KeptCredential(NamedTuple):
    """A credential, and when it was to end by the grant for which it was minted."""

    task_id: str
    credential: Credential
    ends_at: float

    def serves(self, ends_at: float) -> bool:
        """Return whether it may serve a call whose own credential would end at *ends_at*.

        A call that was judged a moment before the one that minted is served too.
        """
        return self.ends_at <= ends_at + MOMENT


class ReusableCredentials:
    """Credentials by key, and the flights in which they are being minted."""

    def __init__(self, clock: Callable[[], float], *, timeout: float) -> None:
        self._clock, self._lock = clock, ProcessLock()
        self._kept: OrderedDict[Hashable, KeptCredential] = OrderedDict()
        self._handles: dict[str, set[str]] = {}  # by task; also of those that are used no more
        self.flights = SingleFlight(timeout=timeout)
        in_child(self._empty)

    def _empty(self) -> None:
        """Begin anew in a forked child: the credentials are the parent's."""
        self._kept, self._handles = OrderedDict(), {}

    def find(self, key: Hashable, ends_at: float) -> Credential | None:
        """Return a credential that still lives long enough, and was not to live beyond *ends_at*, or None."""
        with self._lock:
            entry = self._kept.get(key)
        if entry is None or not entry.serves(ends_at):
            return None
        # an issuer may have given more than the grant: then the grant's end counts
        last = min(entry.credential.expires_at, entry.ends_at)
        return None if last - self._clock() < MARGIN else entry.credential

    def keep(self, key: Hashable, task_id: str, credential: Credential, ends_at: float) -> KeptCredential:
        """Keep a credential for later calls of its task."""
        entry = KeptCredential(task_id, credential, ends_at)
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = entry  # at the end
            self._handles.setdefault(task_id, set()).add(credential.handle)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
        return entry

    def refuse(self, key: Hashable, credential: Credential) -> None:
        """Use it no more: a call with it has failed, and it may be the cause."""
        with self._lock:
            if (entry := self._kept.get(key)) is not None and entry.credential is credential:
                del self._kept[key]

    def handles(self) -> frozenset[str]:
        """Return the handle of each credential that was kept for a task that has not ended here."""
        return frozenset(handle for handles in list(self._handles.values()) for handle in tuple(handles))

    def refuse_all(self) -> None:
        """Use none of them any more."""
        with self._lock:
            self._kept.clear()

    def drop(self, task_ids: Iterable[str]) -> None:
        """Forget what was kept for tasks that ended."""
        ended = set(task_ids)
        with self._lock:
            for key in [key for key, entry in list(self._kept.items()) if entry.task_id in ended]:
                self._kept.pop(key, None)
            for task_id in ended:
                self._handles.pop(task_id, None)


class SubjectTokens:
    """Tokens by task id."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._lock = clock, ProcessLock()
        self._tokens: dict[str, tuple[Secret, float]] = {}
        in_child(self._empty)

    def _empty(self) -> None:
        """Begin anew in a forked child: a user's token stays in the process that got it."""
        self._tokens = {}

    def keep(self, task_id: str, token: Secret, until: float) -> None:
        """Keep the token of a task until a time, in seconds since the epoch; drops those past theirs."""
        now = self._clock()
        with self._lock:
            self._tokens = {id_: entry for id_, entry in self._tokens.items() if entry[1] > now}
            self._tokens[task_id] = token, until

    def of(self, task: TaskState) -> Secret | None:
        """Return the token of a task, or of the nearest that it descends from, or None."""
        for task_id in (task.id, *task.lineage):
            if (entry := self._tokens.get(task_id)) is not None:
                return entry[0]
        return None

    def drop(self, task_ids: Iterable[str]) -> None:
        """Forget the tokens of tasks that ended."""
        with self._lock:
            for task_id in task_ids:
                self._tokens.pop(task_id, None)
