"""What one issuer has yet to revoke: each credential is asked for after a pause of its own."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from operator import itemgetter
from random import SystemRandom
from time import monotonic

from agentguard.concurrency.fork import ProcessLock
from agentguard.concurrency.together import AT_ONCE
from agentguard.model import LiveCredential

__all__ = ["Backlog", "growing_pause"]

LONGEST_PAUSE = 60.0  # seconds
_random = SystemRandom()


def growing_pause(attempts: int) -> float:
    """Return how many seconds to wait after so many attempts: twice as long each time, up to a minute."""
    longest = min(LONGEST_PAUSE, 2.0 ** min(attempts - 1, 10))
    return _random.uniform(longest / 2, longest)


@dataclass(slots=True)
class _Item:
    """What is known of one call's credentials. All times are of the monotonic clock.

    `revoked_at` is when they were revoked: they wait until the store no longer lists them.
    """

    credentials: list[LiveCredential]
    attempts: int = 0
    due: float = 0.0
    is_asked: bool = False
    revoked_at: float | None = None

    @property
    def task_id(self) -> str:
        """The task of the call."""
        return self.credentials[0].task_id

    @property
    def waits(self) -> bool:
        """Whether somebody is yet to ask for it, now or later."""
        return not self.is_asked and self.revoked_at is None


class Backlog:
    """Calls whose credentials are to be revoked: a new one at once, and one that has failed after a pause.

    *pause* returns the seconds of the pause after a number of attempts.
    """

    def __init__(self, pause: Callable[[int], float] = growing_pause) -> None:
        self._pause, self._lock = pause, ProcessLock()
        self._items: dict[str, _Item] = {}
        # those that were due when it was made, for to rank all takes long; and those of failing tasks in it
        self._queue, self._deferred = deque[_Item](), deque[_Item]()
        self._failing = set[str]()  # tasks of which the last attempt has failed

    def ids(self) -> set[str]:
        """Return the ids of the calls."""
        with self._lock:
            return set(self._items)

    def ids_alive(self) -> set[str]:
        """Return the ids of the calls of which nothing says that all is revoked."""
        with self._lock:
            return {call_id for call_id, item in self._items.items() if item.revoked_at is None}

    def update(self, credentials: Iterable[LiveCredential], since: float) -> None:
        """Take what the store lists for this issuer, which was read after *since*, and forget all else."""
        by_call = dict[str, list[LiveCredential]]()
        for credential in credentials:
            by_call.setdefault(credential.call_id, []).append(credential)
        with self._lock:
            items = {id_: item for id_, item in self._items.items() if item.is_asked or id_ in by_call}
            for call_id, listed in by_call.items():
                item = items.setdefault(call_id, _Item(listed))
                item.credentials = listed
                if item.revoked_at is not None and item.revoked_at < since:
                    item.revoked_at = None  # the store could not forget it
            self._items, self._queue, self._deferred = items, deque(), deque()
            self._failing &= {item.task_id for item in items.values()}

    def take(self, *, only_new: bool = False) -> list[LiveCredential]:
        """Return the credentials of some calls that are due, so many as an issuer is asked for at once.

        Those come first that were asked for least often, and no task has two before another one has one. What
        is of a task of which the last attempt has failed comes after all others, and never with others: who
        asks waits for all of them, and those may get no answer. With *only_new*, those are left out that were
        asked for before.
        """
        now = monotonic()
        with self._lock:
            batch = self._next(now, only_new)
            if not batch:
                self._queue, self._deferred = deque(self._ranked(now)), deque()
                batch = self._next(now, only_new)
            for item in batch:
                item.is_asked = True
            return [credential for item in batch for credential in item.credentials]

    def _next(self, now: float, only_new: bool) -> list[_Item]:
        batch = list[_Item]()
        for queue in (self._queue, self._deferred):
            while queue and len(batch) < AT_ONCE:
                item = queue.popleft()
                if not item.waits or item.due > now or (only_new and item.attempts):
                    continue
                if queue is self._queue and item.task_id in self._failing:
                    self._deferred.append(item)
                else:
                    batch.append(item)
            if batch:
                break
        return batch

    def _ranked(self, now: float) -> list[_Item]:
        of_task, ranked = Counter[str](), list[tuple[int, _Item]]()
        due = (item for item in self._items.values() if item.waits and item.due <= now)
        for item in sorted(due, key=lambda item: (item.attempts, item.due)):
            ranked.append((of_task[item.task_id], item))
            of_task[item.task_id] += 1
        return [item for _, item in sorted(ranked, key=itemgetter(0))]

    def settle(self, credentials: Iterable[LiveCredential], alive: Collection[LiveCredential]) -> None:
        """Note what became of what was taken; *alive* are those of calls that are yet to be revoked."""
        ids, now = {credential.call_id for credential in alive}, monotonic()
        with self._lock:
            for call_id in {credential.call_id for credential in credentials}:
                item = self._items[call_id]
                item.is_asked, item.attempts = False, item.attempts + 1
                item.due = now + self._pause(item.attempts)
                item.revoked_at = None if call_id in ids else now
                (self._failing.add if call_id in ids else self._failing.discard)(item.task_id)

    def seconds(self) -> float | None:
        """Return in how many seconds something is due, or None if nothing will be."""
        with self._lock:
            for queue in (self._queue, self._deferred):
                while queue and not queue[0].waits:
                    queue.popleft()
                if queue:
                    return 0.0
            due = [item.due for item in self._items.values() if item.waits]
        return max(0.0, min(due) - monotonic()) if due else None
