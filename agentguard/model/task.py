"""A task as the store holds it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from agentguard.model.identity import Identity, Login
from agentguard.model.mandate import Mandate
from agentguard.model.provenance import Sensitivity

__all__ = ["QUESTIONS", "WORDS", "Budget", "TaskState", "TaskStatus"]

WORDS = 16_384
"""How many characters of the user's words count; later words are ignored."""

QUESTIONS = 20
"""How many questions about the calls of a task persons are asked at most, where nobody says another limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The most calls, the most calls on WRITE and ESCALATION paths, and the most questions to persons.

    None is no limit. A task that a guard begins always has a limit of questions.
    """

    calls: int | None = None
    writes: int | None = None
    questions: int | None = None

    def within(self, other: Budget) -> Budget:
        """Return the tighter of both, limit by limit."""
        return Budget(
            calls=_least(self.calls, other.calls),
            writes=_least(self.writes, other.writes),
            questions=_least(self.questions, other.questions),
        )


class TaskStatus(StrEnum):
    """The states of a task. Only an ACTIVE task can make calls; an ended task never becomes active again."""

    ACTIVE = "active"
    COMPLETED = "completed"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """A task as the store holds it at one moment.

    `lineage` lists its parent tasks, nearest first: the task is active only while all of them are, and its
    calls and questions count against the budgets of all. `history` holds the names of the called tools, each
    once, in the order of their first call. `untrusted` is True once the task has read an untrusted result,
    and `sensitivity` is the highest that it has read. `words` are the user's own words, which vouch for the
    values in them. `kinds` are the templates that its mandate was made of. `labels` counts the labels on
    values that the task and its family have read. `questions` counts the questions about its calls that were
    asked of persons. `login` is that of the subject token; an identity provider's signal names
    the task by it.
    """

    id: str
    purpose: str
    identity: Identity
    mandate: Mandate
    deadline: float
    budget: Budget = Budget()
    status: TaskStatus = TaskStatus.ACTIVE
    lineage: tuple[str, ...] = ()
    calls: int = 0
    writes: int = 0
    history: tuple[str, ...] = ()
    untrusted: bool = False
    words: str = ""
    kinds: tuple[str, ...] = ()
    sensitivity: Sensitivity = Sensitivity.PUBLIC
    labels: int = 0
    questions: int = 0
    login: Login | None = None

    @property
    def root_id(self) -> str:
        """Return the id of the oldest task of its family: itself, or the last of its lineage.

        The store keeps the labels of a family under this id.
        """
        return self.lineage[-1] if self.lineage else self.id

    def within(self, root: TaskState) -> TaskState:
        """Return the task as rules see it: with all that its family, that of *root*, has done and read.

        A value that one task of a family has read may be an argument in any other. And a limit by the calls
        so far would otherwise begin anew in each child.
        """
        return replace(
            self,
            calls=root.calls,
            writes=root.writes,
            history=root.history,
            untrusted=root.untrusted,
            sensitivity=root.sensitivity,
            questions=root.questions,
        )

    def ended(self, now: float) -> TaskStatus | None:
        """Return how the task ended, or None while it is active at *now*."""
        if self.status is not TaskStatus.ACTIVE:
            return self.status
        return TaskStatus.EXPIRED if now >= self.deadline else None


def _least(one: int | None, two: int | None) -> int | None:
    return min((limit for limit in (one, two) if limit is not None), default=None)
