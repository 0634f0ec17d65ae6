"""A store in memory that begins a call only if what it was judged by is still so, as the shared stores do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentguard.model import Basis, Call, LiveCredential, TaskState
from agentguard.stores import MemoryStore

__all__ = ["ConditionalMemoryStore", "DistantStore"]


class ConditionalMemoryStore(MemoryStore):
    """`ports.ConditionalStore` in one process."""

    inline = True

    def begin_if_unchanged(
        self, call: Call, credential: LiveCredential | None, basis: Basis
    ) -> tuple[TaskState, ...] | None:
        """Compare whole values, under the lock of the store."""
        with self._lock:
            found = [MemoryStore.task(self, task.id) for task in basis.tasks]
            tasks, now = tuple(task for task in found if task is not None), self._clock()
            if len(tasks) == len(found) and tasks[0].ended(now) is None:
                labels = frozenset(MemoryStore.labels(self, basis.root_id, basis.digests))
                if (tasks, labels) != (basis.tasks, basis.labels):
                    return tasks
            MemoryStore.begin_call(self, call, credential)
            return None


class DistantStore(ConditionalMemoryStore):
    """One to which each operation is a trip. `others` is what others do there before the next trip begins."""

    def __init__(self) -> None:
        super().__init__()
        self.trips: list[str] = []
        self.others: Callable[[str], None] = lambda _trip: None

    def _go(self, name: str) -> None:
        self.trips.append(name)
        self.others(name)

    def task(self, task_id: str) -> TaskState | None:
        self._go("task")
        return super().task(task_id)

    def labels(self, *args: Any) -> Any:
        self._go("labels")
        return super().labels(*args)

    def begin_call(self, *args: Any) -> None:
        self._go("begin_call")
        super().begin_call(*args)

    def begin_if_unchanged(self, *args: Any) -> Any:
        self._go("begin_if_unchanged")
        return super().begin_if_unchanged(*args)

    def end_call(self, *args: Any, **kwargs: Any) -> None:
        self._go("end_call")
        super().end_call(*args, **kwargs)

    def approval_for(self, *args: Any) -> Any:
        self._go("approval_for")
        return super().approval_for(*args)

    def rejection(self, *args: Any) -> Any:
        self._go("rejection")
        return super().rejection(*args)
