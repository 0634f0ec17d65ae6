"""A person's answer to one exact call: asked for once, bound to that call, and kept by the store alone.

The store also keeps what a person is shown. A checkpoint holds a copy of it, which somebody may have edited.
So an answer counts only if the person was shown what the store holds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

from agentguard.enforcement.call import Invocation
from agentguard.enforcement.failures import best_effort
from agentguard.enforcement.operations import Operations, stored, unapproved
from agentguard.enforcement.records import denial_record
from agentguard.enforcement.run_state import RunState
from agentguard.enforcement.setup import Options
from agentguard.errors import ApprovalError, ApprovalUsed, CallRejected, DenialCode, Denied
from agentguard.model import AccessRequest, Approval, ApprovalStatus, Arguments, Decision, Json, Outcome
from agentguard.model.arguments import canonical_json
from agentguard.ports import Policy

__all__ = ["APPROVED", "SHOWN", "Approvals"]

SHOWN = 65_536
"""How many bytes of JSON a person can be shown of a call's arguments. Nobody is asked about a larger call."""
APPROVED = frozenset({ApprovalStatus.APPROVED, ApprovalStatus.USED})


log = logging.getLogger("agentguard")


class Approvals:
    """Obtains approvals on one path. An answer can be given and used for `approval_lifetime` seconds."""

    def __init__(self, policy: Policy, options: Options, operations: Operations) -> None:
        self._policy, self._options, self._operations = policy, options, operations

    def version(self, decision: Decision) -> str:
        """Return the version of the rules that a decision was made under."""
        return decision.policy_version or str(self._policy.version)

    async def pending(self, approval_id: str) -> dict[str, Json]:
        """Return what a person is to be shown of a question that nobody has answered, from the store.

        Raises:
            ApprovalError: It is unknown, expired or answered.
        """
        approval = await self._operations.approval(approval_id)
        if approval is None:
            raise ApprovalError("no such approval was asked for")
        if approval.status is not ApprovalStatus.PENDING:
            raise ApprovalError(f"approval {approval.id} is already {approval.status}")
        if self._options.clock() >= approval.expires_at:
            raise ApprovalError(f"approval {approval.id} has expired")
        return approval.question()

    async def answer(
        self, pending: Mapping[str, Any], approved: bool, approver: str, reason: str
    ) -> dict[str, Any]:
        """Record a person's answer to what they were shown, and return the value to resume the run with.

        Raises:
            ApprovalError: It is unknown, expired or answered before, or they were shown something else than
                was asked. That is recorded as a denial.
        """
        approval = await self._operations.approval(str(pending.get("approval_id")))
        if approval is None:
            raise ApprovalError("no such approval was asked for")
        if names := _differences(approval.question(), pending):
            problem = f"what {approver} was shown differs from what was asked: {', '.join(names)}"
            await self._record(approval, problem)
            raise ApprovalError(problem)
        answer = approval.answered(approved=approved is True, approver=approver, reason=reason)
        await self._operations.answer_approval(answer)
        return {"approval_id": approval.id, "answered": True}

    async def obtain(
        self,
        request: AccessRequest,
        decision: Decision,
        key: str,
        answers_at_once: bool,
        state: RunState | None = None,
    ) -> Approval:
        """Ask a person, once for each call however often a graph runs its node again.

        An approver that answers at once is not asked about a question that is answered. One that suspends the
        run has to do so on each run of the node. A yes is for *state* too, what the tool is given from the
        state of its graph: with another one it is another question.

        Raises:
            Denied: Nobody can be asked, or the person has not approved.
        """
        pending = await self._pending(request, decision, key, state)
        if pending.status is ApprovalStatus.PENDING or not answers_at_once:
            answer = await self._ask(pending, request, decision)
            if isinstance(answer, Approval) and answer.id == pending.id and answer != pending:
                await stored(self._operations.answer_approval(answer))
        # only what the store holds counts, not what a resumed graph or an edited state says
        final = await stored(self._operations.approval(pending.id))
        if not isinstance(final, Approval) or final.status not in APPROVED:
            raise _unanswered(final, decision)
        # `begin_call` says whether the call that was suspended may use a used one again
        return replace(final, status=ApprovalStatus.APPROVED)

    async def _pending(
        self, request: AccessRequest, decision: Decision, key: str, state: RunState | None
    ) -> Approval:
        """Record the question, unless it is on record. One that has expired is asked anew, by another id."""
        if request.tool.path not in self._operations.approve:
            reason = f"no approver for {request.tool.path}"
            raise Denied.of(DenialCode.APPROVAL_UNAVAILABLE, reason, policy_ids=decision.policy_ids)
        version, display = self.version(decision), _display(request.arguments, state)
        bound = version if state is None else f"{version}\n{state.digest}"
        if (size := len(display.encode())) > SHOWN:
            reason = f"a person can be shown {SHOWN} bytes of arguments, and these have {size}"
            raise Denied.of(DenialCode.APPROVAL_UNAVAILABLE, reason, policy_ids=decision.policy_ids)
        question = Approval(
            id=sha256(f"{key}\n{bound}".encode()).hexdigest()[:32],
            call_key=key,
            task_id=request.task.id,
            tool=request.tool.name,
            digest=request.arguments.digest,
            policy_version=version,
            expires_at=self._options.clock() + self._options.approval_lifetime,
            reason=decision.reason,
            path=request.tool.path,
            purpose=request.task.purpose,
            display=display,
            shown_digest=request.arguments.shown_digest,
        )
        recorded = await stored(self._operations.save_approval(question))
        while recorded != question and self._has_expired(recorded):
            question = replace(question, id=sha256(f"again {recorded.id}".encode()).hexdigest()[:32])
            recorded = await stored(self._operations.save_approval(question))
        return recorded

    def _has_expired(self, approval: Approval) -> bool:
        """Return whether nobody can answer or use it any more. What was used or rejected stays so."""
        is_open = approval.status in (ApprovalStatus.PENDING, ApprovalStatus.APPROVED)
        return is_open and self._options.clock() >= approval.expires_at

    async def _ask(self, pending: Approval, request: AccessRequest, decision: Decision) -> object:
        try:
            return await self._operations.approve[request.tool.path](pending, request)
        except Exception as error:
            if self._options.outcome_of(error) is Outcome.SUSPENDED:
                if pending.status is ApprovalStatus.USED:  # nobody could answer it once more
                    denial = unapproved(ApprovalUsed("a call of this id was approved and made"))
                    raise Denied.of(DenialCode.GRANT_USED, denial.reason, advice=denial.advice) from None
                raise
            # an approver that fails, in whatever way, has not approved
            reason = f"approver failed: {type(error).__name__}: {error}"
            raise Denied.of(DenialCode.APPROVAL_UNAVAILABLE, reason, policy_ids=decision.policy_ids) from None

    async def _record(self, approval: Approval, problem: str) -> None:
        """Write down that an answer was refused."""
        log.warning("an answer to approval %s is refused: %s", approval.id, problem)
        denied = Denied.of(DenialCode.APPROVAL_REFUSED, problem)
        task = await stored(self._operations.task(approval.task_id))
        invocation = Invocation(tool=approval.tool, spec=None, arguments=None)
        record = denial_record(invocation, denied, task, None, None) | {
            "task": approval.task_id,
            "path": approval.path.value,
            "call_digest": approval.digest,
            "approval": approval.id,
        }
        await best_effort("record", self._operations.append, record)


def _unanswered(approval: object, decision: Decision) -> Denied:
    """Return the denial of a call that the store has no approval for, after the approver has returned."""
    if isinstance(approval, Approval) and approval.status is ApprovalStatus.DENIED:
        rejection = CallRejected(f"rejected by {approval.approver}: {approval.reason}")
        return unapproved(rejection, decision.policy_ids)
    advice = "No person has answered the question about this call, so it did not run. Tell the user."
    reason = "no person has approved this call with these arguments: its question is not answered"
    return Denied.of(DenialCode.APPROVAL_REFUSED, reason, advice=advice, policy_ids=decision.policy_ids)


def _display(arguments: Arguments, state: RunState | None) -> str:
    """Return what a person is shown of arguments and of the state beside them, as a JSON text."""
    form: dict[str, Json] = {"arguments": arguments.values}
    if arguments.distinctions:
        form["distinctions"] = list(arguments.distinctions)
    if state is not None:
        form["state"] = dict(state.display)
    return json.dumps(form, ensure_ascii=False, separators=(",", ":"))


def _differences(question: Mapping[str, Json], page: Mapping[str, Any]) -> list[str]:
    """Name what *page* showed otherwise than the question. What is no part of it counts as ``more``."""
    names = [name for name, value in question.items() if name not in page or not _equal(value, page[name])]
    return names if page.keys() <= question.keys() else [*names, "more"]


def _equal(one: Json, other: object) -> bool:
    """Return whether two values are the same JSON. A page may write numbers otherwise, such as 5 for 5.0."""
    if isinstance(one, str):  # half a character has no canonical form
        return one == other
    try:
        return canonical_json(one) == canonical_json(other)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return False
