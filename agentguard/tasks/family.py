"""What a task that begins in another one has of it.

Nothing widens: a child has at most the authority of its parent.
"""

from __future__ import annotations

from dataclasses import replace

from agentguard.catalog import Catalog
from agentguard.lease import current
from agentguard.model import Mandate, TaskState

__all__ = ["adopted", "calling_task", "child_of", "in_a_tool", "require_used_limits"]


def in_a_tool() -> bool:
    """Return whether a guarded tool runs in this context."""
    return current() is not None


def calling_task() -> str | None:
    """Return the id of the task whose call runs the tool of this context, also when that call is over."""
    lease = current()
    return None if lease is None else lease.task_id


def require_used_limits(mandate: Mandate, catalog: Catalog) -> Mandate:
    """Return the mandate.

    Raises:
        ValueError: It limits an argument that none of its tools takes.
    """
    if unused := catalog.unused_limits(mandate):
        raise ValueError(f"the mandate limits {unused[0]}, which none of its tools takes")
    return mandate


def adopted(child: TaskState, parent: TaskState) -> TaskState:
    """Return a task that begins in another as one of its party: else a tool could begin it as anybody."""
    subject, other = child.identity.subject, parent.identity.subject
    if subject != other:
        raise ValueError(f"no task for {subject} begins in one for {other}")
    purpose = parent.purpose if in_a_tool() else child.purpose
    return replace(child, identity=parent.identity, purpose=purpose)


def child_of(child: TaskState, parent: TaskState) -> TaskState:
    """Return a task as a child of *parent*: with no more authority, and a count of its own."""
    return replace(
        child,
        mandate=parent.mandate.narrow(child.mandate),
        deadline=min(child.deadline, parent.deadline),
        lineage=(parent.id, *parent.lineage),
        words=parent.words,  # a tool that begins a task is no user
        kinds=parent.kinds,
        login=child.login or parent.login,
        counted=parent.counted,
        untrusted=parent.untrusted,
        sensitivity=parent.sensitivity,
        labels=parent.labels,
        calls=0,
        writes=0,
        questions=0,
        choice_bits=0,
        history=(),
    )
