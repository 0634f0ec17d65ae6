"""The user's token of each task, for an issuer that asks for whom the agent acts.

It is kept in this process alone, never in the store, and for as long as the task may live. A child
task uses its parent's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Lock

from agentguard.model import Secret, TaskState

__all__ = ["SubjectTokens"]


class SubjectTokens:
    """Tokens by task id."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._lock = clock, Lock()
        self._tokens: dict[str, tuple[Secret, float]] = {}

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
