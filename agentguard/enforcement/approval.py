"""A person's answer to one exact call: asked for once, bound to that call, and kept by the store alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

from agentguard.enforcement.operations import Operations, stored
from agentguard.enforcement.setup import Options
from agentguard.errors import ApprovalError, DenialCode, Denied
from agentguard.model import AccessRequest, Approval, ApprovalStatus, Decision, Outcome
from agentguard.ports import Policy

__all__ = ["Approvals"]

APPROVED = frozenset({ApprovalStatus.APPROVED, ApprovalStatus.USED})


class Approvals:
    """Obtains approvals on one path. An answer can be given and used for `approval_lifetime` seconds."""

    def __init__(self, policy: Policy, options: Options, operations: Operations) -> None:
        self._policy, self._options, self._operations = policy, options, operations

    def version(self, decision: Decision) -> str:
        """Return the version of the rules that a decision was made under."""
        return decision.policy_version or str(self._policy.version)

    async def answer(
        self, pending: Mapping[str, Any], approved: bool, approver: str, reason: str
    ) -> dict[str, Any]:
        """Record a person's answer to what an interrupt shows, and return the value to resume it with.

        Raises:
            ApprovalError: It is unknown, expired, answered before, or not for the call it shows.
        """
        approval = await self._operations.approval(str(pending.get("approval_id")))
        shown = (pending.get("task"), pending.get("tool"), pending.get("digest"))
        if approval is None or shown != (approval.task_id, approval.tool, approval.digest):
            raise ApprovalError("no such approval was asked for")
        answer = approval.answered(approved=approved is True, approver=approver, reason=reason)
        await self._operations.answer_approval(answer)
        return {"approval_id": approval.id, "answered": True}

    async def obtain(self, request: AccessRequest, decision: Decision, key: str) -> Approval:
        """Ask a person, once for each call however often a graph runs its node again.

        Raises:
            Denied: Nobody can be asked, or the person has not approved.
        """
        pending = await self._pending(request, decision, key)
        answer = await self._ask(pending, request, decision)
        if isinstance(answer, Approval) and answer.id == pending.id and answer != pending:
            await stored(self._operations.answer_approval(answer))
        # only what the store holds counts, not what a resumed graph or an edited state says
        final = await stored(self._operations.approval(pending.id))
        if not isinstance(final, Approval) or final.status not in APPROVED:
            reason = "no person has approved this call with these arguments"
            raise Denied.of(DenialCode.APPROVAL_REFUSED, reason, policy_ids=decision.policy_ids)
        # `begin_call` says whether the call that was suspended may use a used one again
        return replace(final, status=ApprovalStatus.APPROVED)

    async def _pending(self, request: AccessRequest, decision: Decision, key: str) -> Approval:
        """Record the question, unless it is on record."""
        if request.tool.path not in self._operations.approve:
            reason = f"no approver for {request.tool.path}"
            raise Denied.of(DenialCode.APPROVAL_UNAVAILABLE, reason, policy_ids=decision.policy_ids)
        version = self.version(decision)
        question = Approval(
            id=sha256(f"{key}\n{version}".encode()).hexdigest()[:32],
            call_key=key,
            task_id=request.task.id,
            tool=request.tool.name,
            digest=request.arguments.digest,
            policy_version=version,
            expires_at=self._options.clock() + self._options.approval_lifetime,
            reason=decision.reason,
        )
        return await stored(self._operations.save_approval(question))

    async def _ask(self, pending: Approval, request: AccessRequest, decision: Decision) -> object:
        try:
            return await self._operations.approve[request.tool.path](pending, request)
        except Exception as error:
            if self._options.outcome_of(error) is Outcome.SUSPENDED:
                if pending.status is ApprovalStatus.USED:  # nobody could answer it once more
                    reason = "a call of this id was approved and made"
                    raise Denied.of(DenialCode.GRANT_USED, reason) from None
                raise
            # an approver that fails, in whatever way, has not approved
            reason = f"approver failed: {type(error).__name__}: {error}"
            raise Denied.of(DenialCode.APPROVAL_UNAVAILABLE, reason, policy_ids=decision.policy_ids) from None
