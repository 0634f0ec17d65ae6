"""What one call is judged by: the tasks and the labels that were looked up for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from agentguard.enforcement.operations import Operations, stored
from agentguard.model import Basis, Label, TaskState

__all__ = ["Look"]

Recall = Callable[[str, Collection[str]], Iterable[Label]]


class Look:
    """Looks up what one call is judged by, and knows afterwards what that was.

    *tasks* are known already, and are not read from the store. With *recall*, labels are not read either:
    it says which ones this process remembers for a family and some digests.
    """

    def __init__(
        self, operations: Operations, tasks: Iterable[TaskState] = (), recall: Recall | None = None
    ) -> None:
        self._operations, self._recall = operations, recall
        self._tasks = {task.id: task for task in tasks}
        self._digests: frozenset[str] = frozenset()
        self._labels: tuple[Label, ...] = ()

    async def task(self, task_id: str) -> TaskState | None:
        """Return a task, or None.

        Raises:
            Denied: The store failed.
        """
        state = self._tasks.get(task_id)
        if state is None:
            state = await stored(self._operations.task(task_id))
            if isinstance(state, TaskState):
                self._tasks[task_id] = state
        return state

    async def labels(self, family: str, digests: Collection[str]) -> list[Label]:
        """Return the labels with these digests that are kept for a task and all its descendants.

        Raises:
            Denied: The store failed.
        """
        if missing := frozenset(digests) - self._digests:
            if self._recall is None:
                labels = await stored(self._operations.labels(family, missing))
            else:
                labels = self._recall(family, missing)
            self._digests, self._labels = self._digests | missing, (*self._labels, *labels)
        return [label for label in self._labels if label.digest in digests]

    def basis(self, task: TaskState) -> Basis:
        """Return what a call of this task was judged by."""
        tasks = tuple(self._tasks[task_id] for task_id in (task.id, *task.lineage))
        return Basis(tasks=tasks, digests=self._digests, labels=frozenset(self._labels))

    async def confirms(self, basis: Basis) -> bool:
        """Return whether all of *basis* is so by this look.

        Raises:
            Denied: The store failed.
        """
        for task in basis.tasks:
            if await self.task(task.id) != task:
                return False
        labels = await self.labels(basis.root_id, basis.digests) if basis.digests else ()
        return frozenset(labels) == basis.labels
