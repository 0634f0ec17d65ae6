"""A task as the store holds it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agentguard.model.identity import Identity
from agentguard.model.mandate import Mandate

__all__ = ["Budget", "TaskState", "TaskStatus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many calls, and how many of them on WRITE and ESCALATION paths; None is no limit."""

    calls: int | None = None
    writes: int | None = None


class TaskStatus(StrEnum):
    """Where a task is in its life; only an ACTIVE one carries calls, and none comes back."""

    ACTIVE = "active"
    COMPLETED = "completed"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """A task as the store holds it at one moment.

    `lineage` lists the tasks that it descends from, nearest first: it is active only while all of
    them are, and its calls count against the budgets of all. `history` holds the names of the tools
    that were called, each once, in the order of their first call; `untrusted` is True once a tool's
    untrusted result was read.
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

    def ended(self, now: float) -> TaskStatus | None:
        """Return how the task ended, or None while it is active at *now*."""
        if self.status is not TaskStatus.ACTIVE:
            return self.status
        return TaskStatus.EXPIRED if now >= self.deadline else None
