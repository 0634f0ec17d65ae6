"""A person's answer to one exact call: asked once, bound to it, and kept by the store alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

from agentguard.enforcement.operations import Io, stored
from agentguard.errors import ApprovalError, DenialCode, Denied
from agentguard.model import AccessRequest, Approval, ApprovalStatus, Decision
from agentguard.ports import Policy

__all__ = ["Approvals", "answer"]

ANSWERED_YES = frozenset({ApprovalStatus.APPROVED, ApprovalStatus.USED})


async def answer(
    io: Io, pending: Mapping[str, Any], approved: bool, approver: str, reason: str
) -> dict[str, Any]:
    """Record a person's answer to what an interrupt shows, and return the value to resume it with.

    Raises:
        ApprovalError: It is unknown, expired, answered before, or not for the call it shows.
    """
    approval: Approval | None = await io.approval(str(pending.get("approval_id")))
    shown = (pending.get("task"), pending.get("tool"), pending.get("digest"))
    if approval is None or shown != (approval.task_id, approval.tool, approval.digest):
        raise ApprovalError("no such approval was asked for")
    await io.answer_approval(approval.answered(approved=approved is True, approver=approver, reason=reason))
    return {"approval_id": approval.id, "answered": True}


class Approvals:
    """Obtains approvals. *lifetime* is how many seconds an answer can be given and used."""

    def __init__(
        self,
        policy: Policy,
        lifetime: float,
        clock: Callable[[], float],
        suspends: Callable[[BaseException], bool],
    ) -> None:
        self._policy, self._lifetime, self._clock, self._suspends = policy, lifetime, clock, suspends

    def version(self, decision: Decision) -> str:
        """Return the version of the rules that a decision was made under."""
        return decision.policy_version or str(self._policy.version)

    async def obtain(self, request: AccessRequest, decision: Decision, key: str, io: Io) -> Approval:
        """Ask for consent, once for each call however often a graph runs its node again.

        Raises:
            Denied: Nobody can be asked, or the person has not approved.
        """
        ask = io.approve.get(request.tool.path)
        if ask is None:
            reason = f"no approver for {request.tool.path}"
            raise Denied.of(DenialCode.APPROVAL_UNAVAILABLE, reason, policy_ids=decision.policy_ids)
        version = self.version(decision)
        pending = await stored(
            io.save_approval,
            Approval(
                id=sha256(f"{key}\n{version}".encode()).hexdigest()[:32],
                call_key=key,
                task_id=request.task.id,
                tool=request.tool.name,
                digest=request.arguments.digest,
                policy_version=version,
                expires_at=self._clock() + self._lifetime,
                reason=decision.reason,
            ),
        )
        try:
            answer = await ask(pending, request)
        except Exception as error:
            if self._suspends(error):
                if pending.status is ApprovalStatus.USED:  # nobody could answer it once more
                    raise Denied.of(
                        DenialCode.GRANT_USED, "a call of this id was approved and made"
                    ) from None
                raise
            # an approver that errs, in whatever way, has not approved
            reason = f"approver failed: {type(error).__name__}: {error}"
            raise Denied.of(DenialCode.APPROVAL_UNAVAILABLE, reason, policy_ids=decision.policy_ids) from None
        if isinstance(answer, Approval) and answer.id == pending.id and answer != pending:
            await stored(io.answer_approval, answer)
        # only what the store holds counts, not what a resumed graph or an edited state says
        final = await stored(io.approval, pending.id)
        if not isinstance(final, Approval) or final.status not in ANSWERED_YES:
            reason = "no person has approved this call with these arguments"
            raise Denied.of(DenialCode.APPROVAL_REFUSED, reason, policy_ids=decision.policy_ids)
        # whether a used one may be used again, by the call that was suspended, `begin_call` says
        return replace(final, status=ApprovalStatus.APPROVED)
