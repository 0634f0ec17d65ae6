"""A task that lives through several turns: what the user says next, and what the application then allows.

Both are the application's word. They are refused in a tool, whose code may have been led by a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from agentguard.concurrency.drive import drive
from agentguard.enforcement.flow import Enforcement, Flow
from agentguard.enforcement.records import renewal_record, words_record
from agentguard.errors import ApprovalError, TaskError
from agentguard.intent import Derivation
from agentguard.model import TURN, Mandate, TaskState, words_of
from agentguard.tasks.family import in_a_tool, require_used_limits

__all__ = ["Conversation", "hear"]


async def hear(flow: Flow, root_id: str, words: str) -> TaskState:
    """Add a turn to the words of a family, of which this is the oldest task; return that task."""
    await flow.operations.append(words_record(root_id, len(words)))

    def add(state: TaskState) -> TaskState:
        turns = state.words.split(TURN) if state.words else []
        return replace(state, words=words_of([*turns, words]))

    return _seen(flow, await flow.operations.revise_task(root_id, add))


class Conversation:
    """A part of `Task`."""

    _enforcement: Enforcement
    _state: TaskState

    def heard(self, words: str) -> Self:
        """Add what the user says next to the words of this conversation: the task and its whole family.

        From now on a value in *words* is the user's. What was read, called and counted is kept. Of one turn
        the first 16,384 characters count. When all turns are longer than that, the oldest are left out. A
        value does not count if it begins in one turn and ends in another. The audit log notes how much was
        said, and not what.

        Call this where the user has authenticated, and never for a text that a model or a tool has written.

        Raises:
            TaskError: A guarded tool runs here: no tool says what a user has said.
            TaskNotActive: The conversation is over.
            StoreError: It could not be stored.
            AuditError: It could not be written down.
        """
        drive(self._heard(self._enforcement.sync, words))
        return self

    async def aheard(self, words: str) -> Self:
        """Do as `heard`, on an event loop."""
        await self._heard(self._enforcement.async_, words)
        return self

    def consent(self, pending: Mapping[str, Any], *, approved: bool, words: str = "") -> dict[str, Any]:
        """Take the user's answer in the conversation for an answer to a question; returns the resume value.

        *pending* is what the user was shown (`Guard.pending`, or the interrupt's value), *approved* how the
        application understands the answer, *words* what the user has said, for the record. The approver is
        the task's subject. So use it only where the user may approve their own calls.

        Raises:
            ApprovalError: The question is of another conversation, or as `Guard.answer`.
            TaskError: A guarded tool runs here: no tool answers for a user.
        """
        return drive(self._consent(self._enforcement.sync, pending, approved, words))

    async def aconsent(
        self, pending: Mapping[str, Any], *, approved: bool, words: str = ""
    ) -> dict[str, Any]:
        """Do as `consent`, on an event loop."""
        return await self._consent(self._enforcement.async_, pending, approved, words)

    def renew(self, mandate: Mapping[str, Any] | Mandate | Derivation) -> Self:
        """Replace the task's mandate by another one, for each call that is judged from now on.

        It may allow more than the former one. That of a task in another task stays within what each task
        around it allows. A task that was begun in this one keeps its own mandate, and may do at most what
        this one may now. A mandate that no template has made is of no kind. The budget, the deadline and
        what was read stay. The audit log notes it first.

        Raises:
            ValueError: The mandate is malformed, limits what none of its tools takes, or was proposed by a
                model and granted by nobody.
            TaskError: A guarded tool runs here: no tool renews a mandate.
            TaskNotActive: The task is over.
            StoreError: It could not be stored.
            AuditError: It could not be written down.
        """
        drive(self._renew(self._enforcement.sync, mandate))
        return self

    async def arenew(self, mandate: Mapping[str, Any] | Mandate | Derivation) -> Self:
        """Do as `renew`, on an event loop."""
        await self._renew(self._enforcement.async_, mandate)
        return self

    async def _heard(self, flow: Flow, words: str) -> None:
        _require_application("says what a user has said")
        root = await hear(flow, self._state.root_id, words)
        self._state = replace(self._state, words=root.words)

    async def _consent(
        self, flow: Flow, pending: Mapping[str, Any], approved: bool, words: str
    ) -> dict[str, Any]:
        _require_application("answers for a user")
        approval = await flow.operations.approval(str(pending.get("approval_id")))
        of_task = None if approval is None else await flow.operations.task(approval.task_id)
        if of_task is None or of_task.root_id != self._state.root_id:
            raise ApprovalError("no such approval was asked for in this conversation")
        reason = f"in the conversation: {words}" if words else "in the conversation"
        subject = of_task.identity.subject
        return await flow.authorization.approvals.answer(pending, approved, subject, reason)

    async def _renew(self, flow: Flow, mandate: Mapping[str, Any] | Mandate | Derivation) -> None:
        _require_application("renews a mandate")
        derived = mandate if isinstance(mandate, Derivation) else Derivation(mandate=Mandate.of(mandate))
        if derived.mandate.proposed:
            raise ValueError("a model has proposed this mandate: grant it, or narrow a task by it")
        of_itself = derived.kinds or not self._state.lineage  # else the templates are those of its parent
        allowed = require_used_limits(derived.mandate, self._enforcement.ports.catalog)
        for ancestor_id in self._state.lineage:
            if (ancestor := await flow.operations.task(ancestor_id)) is not None:
                allowed = ancestor.mandate.narrow(allowed)
        whole = self._enforcement.options.record_requests
        await flow.operations.append(renewal_record(self._state, allowed, whole=whole))
        renewed = await flow.operations.revise_task(
            self._state.id,
            lambda state: replace(state, mandate=allowed, kinds=derived.kinds if of_itself else state.kinds),
        )
        self._state = _seen(flow, renewed)


def _seen(flow: Flow, state: TaskState) -> TaskState:
    """Remember a task that was revised, and return it."""
    if flow.enforcement.recollection is not None:
        flow.enforcement.recollection.see(state)
    return state


def _require_application(does: str) -> None:
    if in_a_tool():
        raise TaskError(f"no tool {does}: the application does, outside of its tools")
