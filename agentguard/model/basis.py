"""What of a store a call was judged by."""

from __future__ import annotations

from dataclasses import dataclass

from agentguard.model.provenance import Label
from agentguard.model.task import TaskState

__all__ = ["Basis"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What of a store a call was judged by: its task, and the labels of the values in its arguments.

    `tasks` are the task of the call and then its lineage, as the store holds them. `digests` are those of the
    values for which labels count, and `labels` all that are kept for them.
    """

    tasks: tuple[TaskState, ...]
    digests: frozenset[str] = frozenset()
    labels: frozenset[Label] = frozenset()

    @property
    def root_id(self) -> str:
        """The id of the oldest task of the family, under which its labels are kept."""
        return self.tasks[-1].id

    def counts(self) -> list[tuple[int, ...]]:
        """Return for each of `tasks` what changes of it by its calls, its reading and its questions.

        Those are its calls, writes, choice bits and questions, whether it is untrusted, its sensitivity, its
        labels, and the tools in its history. What a guard remembers may count too many calls, since a resumed
        call counts none: then the calls may be as many where another process has used another tool. The
        history tells that, as a tool is only ever added to it.
        """
        return [
            (
                *(task.calls, task.writes, task.choice_bits, task.questions),
                *(int(task.untrusted), int(task.sensitivity), task.labels, len(task.history)),
            )
            for task in self.tasks
        ]
