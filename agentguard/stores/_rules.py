"""The decisions that every store makes in the same way.

The functions are pure: a store reads the state, calls one of them, and writes the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from agentguard.errors import (
    ApprovalError,
    ApprovalUsed,
    BudgetExhausted,
    CallRejected,
    ChoiceExhausted,
    ConfigurationError,
    MandateChanged,
    TaskNotActive,
)
from agentguard.model import (
    LABELS,
    TRUSTED_LABELS,
    Approval,
    ApprovalStatus,
    Call,
    Label,
    LiveCredential,
    LoginName,
    Mandate,
    ReadEffects,
    TaskState,
    TaskStatus,
    ToolPath,
)
from agentguard.text import folded_address

KEEP = 86_400.0
"""Seconds for which an ended task, an expired approval and a lapsed credential can be read by default."""

KEEP_KEYS = 7_200.0
"""Seconds for which a key is kept beyond its time, so that a clock that is ahead for a while loses none."""

LONGEST = 3_650 * 86_400.0
"""The most seconds for which a store can be told to keep what is over."""

PRUNE_EVERY = 256
"""Writes between two rounds of pruning."""

Family = Sequence[tuple[str, TaskState | None]]
Revise = Callable[[TaskState], TaskState]


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many seconds a store keeps what is over.

    That is an ended task with its labels and calls, an expired approval, and an expired credential that was
    not revoked. Each store takes it as its keyword argument ``retention: Retention = DEFAULT_RETENTION``, and
    deletes what was over at the time `over_before` or earlier. `[store] keep` of agentguard.toml sets it.

    A rejection stays as long as the oldest task of its family, and a task as long as one of its credentials.
    A key, such as that of a revoked token, has a time of its own, and stays for `KEEP_KEYS` beyond that.

    Raises:
        ConfigurationError: The time is shorter than `KEEP_KEYS`. A clock that is ahead for a while would have
            the store delete tasks that run, and credentials that are still to be revoked.
    """

    seconds: float = KEEP

    def __post_init__(self) -> None:
        if not KEEP_KEYS <= self.seconds <= LONGEST:
            raise ConfigurationError(
                f"a store cannot keep what is over for {self.seconds:g} seconds",
                hint=f"at least {KEEP_KEYS:g} seconds (2 hours), and at most {LONGEST:g} (10 years)",
            )

    def over_before(self, now: float) -> float:
        """Return the time before which something has to be over for the store to delete it at *now*."""
        return now - self.seconds


DEFAULT_RETENTION = Retention()


def admit(call: Call, family: Family, now: float, *, resumed: bool) -> list[TaskState]:
    """Return the task of *call* and its ancestors, if each of them can make the call.

    *resumed* says that the call was suspended before: it is already counted, so no budget is checked.

    Raises:
        TaskNotActive: One of them is unknown, ended, or past its deadline.
        BudgetExhausted: One of them has used up its calls or writes, and the call is not resumed.
        ChoiceExhausted: Else, one of them has not as many choice bits left as the call says.
        MandateChanged: The call was judged by another mandate than they have now.
    """
    states = active(family, now)
    if call.mandate is not None and call.mandate != _mandate(states):
        raise MandateChanged(f"the mandate of task {call.task_id} was renewed while the call was judged")
    if not resumed:
        for state in states:
            _check_budget(state, call)
        for state in states:
            _check_choice(state, call)
    return states


def _mandate(states: Sequence[TaskState]) -> Mandate:
    """Return the mandate of a task within those of its ancestors, as `TaskState.within` does."""
    mandate = states[0].mandate
    for ancestor in states[1:]:
        mandate = ancestor.mandate.narrow(mandate)
    return mandate


def active(family: Family, now: float) -> list[TaskState]:
    """Return a task and its ancestors, if each of them is active.

    Raises:
        TaskNotActive: One of them is unknown, ended, or past its deadline.
    """
    return [_require_active(task_id, state, now) for task_id, state in family]


def revised(task_id: str, state: TaskState | None, revise: Revise, now: float) -> TaskState:
    """Return the task with the words, the mandate and the kinds that *revise* gives it.

    Raises:
        TaskNotActive: It is unknown, ended, or past its deadline.
    """
    state = _require_active(task_id, state, now)
    change = revise(state)
    return replace(state, words=change.words, mandate=change.mandate, kinds=change.kinds)


def ask(approval: Approval, family: Family, rejection: Approval | None, now: float) -> list[TaskState]:
    """Return the tasks for which a new question counts, if it may be asked.

    *rejection* is what a person has answered about such a call before.

    Raises:
        ApprovalError: It already has an answer.
        CallRejected: A person has rejected such a call.
        BudgetExhausted: One of the tasks has used up its questions.
        TaskNotActive: One of them is unknown, ended, or past its deadline.
    """
    if approval.status is not ApprovalStatus.PENDING:
        raise ApprovalError(f"approval {approval.id} is {approval.status} before it was asked")
    states = active(family, now)
    _check_rejection(rejection)
    for state in states:
        _check_limit(state, "questions", state.questions, state.budget.questions)
    return states


def use(call: Call, approval: Approval | None, before: str | None, now: float) -> Approval:
    """Return the approval as used by *call*.

    *before* is the id of the approval that the same call used before it was suspended. That call goes on,
    also when the approval has expired meanwhile: it was used in time.

    Raises:
        ApprovalError: It is unknown, unanswered, denied, expired, or for another call.
        ApprovalUsed: Another call has used it, or this one before it ended.
    """
    if approval is None:
        raise ApprovalError(f"approval {call.approval_id} is unknown")
    if (approval.call_key, approval.task_id, approval.tool) != (call.key, call.task_id, call.tool):
        raise ApprovalError(f"approval {approval.id} is for another call")
    if approval.status is ApprovalStatus.USED:
        if approval.id == before:
            return approval
        raise ApprovalUsed(f"approval {approval.id} is used: the call that it was for was made")
    _check_expiry(approval, now)
    if approval.status is not ApprovalStatus.APPROVED:
        raise ApprovalError(f"approval {approval.id} is {approval.status}")
    return replace(approval, status=ApprovalStatus.USED)


def subject_matcher(subject: str, *, folded: bool) -> Callable[[str], bool]:
    """Return what tells whether a task is of *subject*; with *folded*, as an address in any spelling."""
    if not folded:
        return subject.__eq__
    address = folded_address(subject)
    return lambda other: other == subject or folded_address(other) == address


def active_ids(states: Iterable[TaskState], without: LoginName, now: float) -> tuple[str, ...]:
    """Return the ids of those tasks that are active, and whose login, if any, lacks the name *without*."""
    return tuple(
        state.id
        for state in states
        if state.ended(now) is None
        and not (without and state.login is not None and getattr(state.login, without))
    )


def room(state: TaskState, effects: ReadEffects) -> tuple[Label, ...]:
    """Return the labels for which the task's family has room; the others are dropped.

    An untrusted label has no room once the family has `LABELS` labels, of either kind. A trusted one has
    `TRUSTED_LABELS` more, which no untrusted page can fill. A value without a label is vouched for by nobody.
    """
    count, labels = state.labels, list[Label]()
    for label in effects.labels:
        if count < (LABELS + TRUSTED_LABELS if label.trusted else LABELS):
            labels.append(label)
            count += 1
    return tuple(labels)


def answer(recorded: Approval | None, reply: Approval, rejection: Approval | None, now: float) -> Approval:
    """Return the *recorded* approval with the answer of *reply*; the reply can change nothing else.

    *rejection* is what a person has answered about such a call before. A second rejection is recorded; an
    approval that was given before the rejection stays. A rejection counts also after the expiry: it takes a
    possibility away, and gives none.

    Raises:
        ApprovalError: The approval is unknown or already answered, the reply is for another call, or it
            approves what has expired or what a person has rejected.
    """
    if recorded is None:
        raise ApprovalError(f"approval {reply.id} is unknown")
    if reply.status is not ApprovalStatus.DENIED:
        _check_expiry(recorded, now)
    if recorded.status is not ApprovalStatus.PENDING:
        raise ApprovalError(f"approval {recorded.id} is already {recorded.status}")
    if reply.status not in (ApprovalStatus.APPROVED, ApprovalStatus.DENIED):
        raise ApprovalError(f"approval {recorded.id} cannot be answered with {reply.status}")
    result = replace(recorded, status=reply.status, approver=reply.approver, reason=reply.reason)
    if result != reply:
        raise ApprovalError(f"the answer to approval {recorded.id} is for another call")
    if result.status is ApprovalStatus.APPROVED:
        _check_rejection(rejection)
    return result


def end(state: TaskState, status: TaskStatus, now: float) -> TaskStatus:
    """Return the status with which the task ends; if its deadline has passed, it has expired."""
    if status is TaskStatus.ACTIVE:
        raise ValueError("a task does not end as active")
    return state.ended(now) or status


def notice_of(notice: LiveCredential, task_id: str) -> LiveCredential:
    """Return the copy of *notice* for a task that ended: its ids and handle end with the task's id."""
    call_id, handle = f"{notice.call_id}{task_id}", f"{notice.handle}{task_id}"
    return replace(notice, task_id=task_id, call_id=call_id, handle=handle)


def _require_active(task_id: str, state: TaskState | None, now: float) -> TaskState:
    if state is None:
        raise TaskNotActive(f"task {task_id} is unknown")
    status = state.ended(now)
    if status is not None:
        raise TaskNotActive(f"task {task_id} is {status}")
    return state


def _check_budget(state: TaskState, call: Call) -> None:
    _check_limit(state, "calls", state.calls, state.budget.calls)
    if _writes(call):
        _check_limit(state, "writes", state.writes, state.budget.writes)


def _check_choice(state: TaskState, call: Call) -> None:
    limit = state.budget.choice_bits
    if call.choice_bits and limit is not None and state.choice_bits + call.choice_bits > limit:
        raise ChoiceExhausted(f"task {state.id} has used {state.choice_bits} of its {limit} choice bits")


def _check_limit(state: TaskState, unit: str, count: int, limit: int | None) -> None:
    if limit is not None and count >= limit:
        raise BudgetExhausted(f"task {state.id} has used its {limit} {unit}")


def _writes(call: Call) -> int:
    return int(call.path is not ToolPath.READ)


def _check_rejection(rejection: Approval | None) -> None:
    if rejection is not None:
        raise CallRejected(f"rejected by {rejection.approver}: {rejection.reason}")


def _check_expiry(approval: Approval, now: float) -> None:
    if now >= approval.expires_at:
        raise ApprovalError(f"approval {approval.id} has expired")
