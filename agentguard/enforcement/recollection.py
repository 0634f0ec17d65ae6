"""What this process has last seen of its tasks, by which a call is judged without a look at a shared store.

All of it is a hint. A call begins on it only if the store says, in the transaction that begins the call, that
it is still so. So nothing here is locked, what is wrong costs a round trip, and what is too much is dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from agentguard.enforcement.look import Look
from agentguard.enforcement.operations import Operations
from agentguard.model import Basis, Call, Label, ReadEffects, TaskState

__all__ = ["Recollection"]

TASKS = 1_024
"""Of so many tasks at most something is remembered."""

LABELS = 16_384
"""So many labels of all tasks together are remembered at most."""

_ByDigest = dict[str, dict[str, Label]]  # and by source


class Recollection:
    """The tasks of this process and the labels of their families, as they were last seen or must be since."""

    def __init__(self) -> None:
        self._tasks: dict[str, TaskState] = {}
        self._labels: dict[str, _ByDigest] = {}  # by family
        self._count = 0

    def look(self, operations: Operations, task_id: str) -> Look | None:
        """Return a look at what is remembered of a task; None if that is not enough to judge a call."""
        if (task := self._tasks.get(task_id)) is None:
            return None
        tasks = [task]
        for ancestor_id in task.lineage:
            if (ancestor := self._tasks.get(ancestor_id)) is None:
                return None
            tasks.append(ancestor)
        return Look(operations, tasks, self.labels)

    def labels(self, family: str, digests: Collection[str]) -> Iterator[Label]:
        """Yield the labels that are remembered for these digests."""
        by_digest = self._labels.get(family, {})
        for digest in digests:
            yield from tuple(by_digest.get(digest, {}).values())

    def see(self, *tasks: TaskState) -> None:
        """Remember tasks as the store holds them now."""
        if len(self._tasks) + len(tasks) > TASKS:
            self._tasks.clear()
        self._tasks.update((task.id, task) for task in tasks)

    def begin(self, basis: Basis, call: Call) -> None:
        """Remember that a call which was judged by *basis* has begun, and that these labels are there."""
        self.see(*(task.after(call) for task in basis.tasks))
        self._note_labels(basis.root_id, basis.labels)

    def read(self, task: TaskState, effects: ReadEffects) -> None:
        """Remember what a call of *task* has read."""
        new = self._note_labels(task.root_id, effects.labels)
        for task_id in (task.id, *task.lineage):
            if (state := self._tasks.get(task_id)) is not None:
                self._tasks[task_id] = replace(
                    state,
                    untrusted=state.untrusted or effects.untrusted,
                    sensitivity=max(state.sensitivity, effects.sensitivity),
                    labels=state.labels + new,
                )

    def forget(self, task_ids: Iterable[str]) -> None:
        """Forget how tasks were, of which it is not known how they are now."""
        for task_id in task_ids:
            self._tasks.pop(task_id, None)

    def end(self, task_ids: Collection[str]) -> None:
        """Forget tasks that are over, and the labels of their families."""
        self.forget(task_ids)
        for task_id in task_ids:
            of_family = self._labels.pop(task_id, {})
            self._count -= sum(map(len, list(of_family.values())))

    def _note_labels(self, family: str, labels: Collection[Label]) -> int:
        """Remember labels, and return how many of them are new."""
        if self._count + len(labels) > LABELS:
            self._labels, self._count = {}, 0
        by_digest, new = self._labels.setdefault(family, {}) if labels else {}, 0
        for label in labels:
            of_value = by_digest.setdefault(label.digest, {})
            if label.source not in of_value:
                of_value[label.source] = label
                new += 1
        self._count += new
        return new
