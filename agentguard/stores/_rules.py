"""What every store decides alike; pure, so that a store only fetches and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentguard.errors import ApprovalError, BudgetExhausted, TaskNotActive
from agentguard.model import (
    LABELS,
    Approval,
    ApprovalStatus,
    Call,
    Label,
    LiveCredential,
    ReadEffects,
    TaskState,
    TaskStatus,
    ToolPath,
)

KEEP = 86_400.0
"""Seconds for which an ended task, an expired approval and a lapsed credential can still be read."""

PRUNE_EVERY = 256
"""Writes between two rounds of pruning."""

Family = Sequence[tuple[str, TaskState | None]]


def admit(call: Call, family: Family, now: float, *, resumed: bool) -> list[TaskState]:
    """Return the task of *call* and all that it descends from, if each of them can carry it.

    Raises:
        TaskNotActive: One of them is unknown, ended, or past its deadline.
        BudgetExhausted: One of them has used up its calls or writes, and the call is not resumed.
    """
    states = active(family, now)
    for state in () if resumed else states:
        _afford(state, writes=_writes(call))
    return states


def active(family: Family, now: float) -> list[TaskState]:
    """Return a task and all that it descends from, if each of them is active.

    Raises:
        TaskNotActive: One of them is unknown, ended, or past its deadline.
    """
    return [_active(task_id, state, now) for task_id, state in family]


def count(state: TaskState, call: Call) -> tuple[int, int, tuple[str, ...]]:
    """Return the task's calls, writes and history with *call* in them."""
    history = state.history if call.tool in state.history else (*state.history, call.tool)
    return state.calls + 1, state.writes + _writes(call), history


def use(call: Call, approval: Approval | None, before: str | None, now: float) -> Approval:
    """Return the approval as used by *call*; *before* is the one that a suspended call used.

    Raises:
        ApprovalError: It is unknown, unanswered, denied, expired, used, or for another call.
    """
    if approval is None:
        raise ApprovalError(f"approval {call.approval_id} is unknown")
    if (approval.call_key, approval.task_id, approval.tool) != (call.key, call.task_id, call.tool):
        raise ApprovalError(f"approval {approval.id} is for another call")
    _unexpired(approval, now)
    if approval.status is ApprovalStatus.USED and approval.id == before:
        return approval
    if approval.status is not ApprovalStatus.APPROVED:
        raise ApprovalError(f"approval {approval.id} is {approval.status}")
    return replace(approval, status=ApprovalStatus.USED)


def room(state: TaskState, effects: ReadEffects) -> tuple[Label, ...]:
    """Return those of the labels for which there is room: beyond, a value is not vouched for."""
    return effects.labels[: max(0, LABELS - state.labels)]


def pending(approval: Approval) -> Approval:
    """Return *approval* if nobody has answered it: an answer comes by `answer_approval` alone."""
    if approval.status is not ApprovalStatus.PENDING:
        raise ApprovalError(f"approval {approval.id} is {approval.status} before it was asked")
    return approval


def answer(asked: Approval | None, given: Approval, now: float) -> Approval:
    """Return what was asked with the answer that was given; the answer changes nothing else.

    Raises:
        ApprovalError: It is unknown, expired, already answered, or answers something else.
    """
    if asked is None:
        raise ApprovalError(f"approval {given.id} is unknown")
    _unexpired(asked, now)
    if asked.status is not ApprovalStatus.PENDING:
        raise ApprovalError(f"approval {asked.id} is already {asked.status}")
    if given.status not in (ApprovalStatus.APPROVED, ApprovalStatus.DENIED):
        raise ApprovalError(f"approval {asked.id} cannot be answered with {given.status}")
    answered = replace(asked, status=given.status, approver=given.approver, reason=given.reason)
    if answered != given:
        raise ApprovalError(f"the answer to approval {asked.id} is for another call")
    return answered


def end(state: TaskState, status: TaskStatus, now: float) -> TaskStatus:
    """Return how the task ends: a deadline that has passed is its first end, and that one stands."""
    if status is TaskStatus.ACTIVE:
        raise ValueError("a task does not end as active")
    return state.ended(now) or status


def owed(held: LiveCredential, task_id: str) -> LiveCredential:
    """Return what the end of a task leaves to be told, as that task's."""
    return replace(
        held, task_id=task_id, call_id=f"{held.call_id}{task_id}", handle=f"{held.handle}{task_id}"
    )


def _active(task_id: str, state: TaskState | None, now: float) -> TaskState:
    if state is None:
        raise TaskNotActive(f"task {task_id} is unknown")
    how = state.ended(now)
    if how is not None:
        raise TaskNotActive(f"task {task_id} is {how}")
    return state


def _afford(state: TaskState, *, writes: int) -> None:
    limits = (("calls", state.calls, state.budget.calls), ("writes", state.writes, state.budget.writes))
    for what, used, limit in limits[: 1 + writes]:
        if limit is not None and used >= limit:
            raise BudgetExhausted(f"task {state.id} has used its {limit} {what}")


def _writes(call: Call) -> int:
    return int(call.path is not ToolPath.READ)


def _unexpired(approval: Approval, now: float) -> None:
    if now >= approval.expires_at:
        raise ApprovalError(f"approval {approval.id} has expired")
