"""A store in memory that begins a call only if what it was judged by is still so, as the shared stores do."""

from __future__ import annotations

from agentguard.model import Basis, Call, LiveCredential, TaskState
from agentguard.stores import MemoryStore

__all__ = ["ConditionalMemoryStore"]


class ConditionalMemoryStore(MemoryStore):
    """`ports.ConditionalStore` in one process."""

    inline = True

    def begin_if_unchanged(
        self, call: Call, credential: LiveCredential | None, basis: Basis
    ) -> tuple[TaskState, TaskState] | None:
        """Compare whole values, under the lock of the store."""
        with self._lock:
            task, root = self.task(basis.task.id), self.task(basis.root.id)
            if task is not None and root is not None and task.ended(self._clock()) is None:
                labels = frozenset(self.labels(root.id, basis.digests))
                if (task, root, labels) != (basis.task, basis.root, basis.labels):
                    return task, root
            self.begin_call(call, credential)
            return None
