"""What is written of a call, in its span and in the audit log, each at its time.

A permit is written before anything is minted, and what cannot be written does not happen. A denial and
an outcome are written whatever else fails: a failure to write these is logged.
"""

from __future__ import annotations

import logging
from typing import Any

from agentguard import records
from agentguard.call import Invocation, Io, Permit
from agentguard.errors import DenialCode, Denied, denial
from agentguard.issuance import Issuance, attempt
from agentguard.model import AccessRequest, Effect, Outcome
from agentguard.ports import IdentitySource
from agentguard.telemetry import CallSpan

__all__ = ["Recording"]

log = logging.getLogger("agentguard")


class Recording:
    """Writes of the calls of one guard. With *requests*, all that a policy was asked, values included."""

    def __init__(self, identity: IdentitySource, *, requests: bool) -> None:
        self._identity, self._requests = identity, requests

    async def permitted(self, permit: Permit, io: Io, span: CallSpan) -> None:
        """Write the decision of a call that is about to run.

        Raises:
            Denied: It could not be written.
        """
        call, grant = permit.call, permit.grant
        span.describe(
            **{
                "effect": Effect.PERMIT.value,
                "policy.ids": permit.decision.policy_ids,
                "call.id": call.id,
                "credential.id": None if grant is None else grant.id,
                "approval.id": call.approval_id,
            }
        )
        try:
            await io.append(self._decision(permit, span))
        except Exception as error:  # noqa: BLE001  what cannot be recorded does not happen
            raise denial(DenialCode.AUDIT_ERROR, f"audit failed: {type(error).__name__}") from None
        if (denied := permit.observed) is not None:
            log.warning("OBSERVED, NOT BLOCKED: %s: %s: %s", call.tool, denied.code, denied.reason)

    async def refused(
        self,
        invocation: Invocation,
        denied: Denied,
        io: Io,
        span: CallSpan,
        request: AccessRequest | None = None,
    ) -> None:
        """Write a denial, with what is known of the task; *request* is what was asked, if it came so far."""
        span.describe(effect=Effect.DENY.value, code=denied.code.value, **{"policy.ids": denied.policy_ids})
        span.ended(invocation.path, Effect.DENY, denied.code)
        task = None if request is None else request.task
        if task is None and (task_id := invocation.task_id) is not None:
            try:
                task = await io.task(task_id)
            except Exception:  # noqa: BLE001  a denial is recorded also when the store is down
                log.warning("the store failed while a denial was recorded")
        log.info("denied %s: %s: %s", invocation.tool, denied.code, denied.reason)
        recorded = request if self._requests else None
        record = records.refused(invocation, denied, task, self._actor(), span.trace_id, recorded)
        await attempt("record", io.append, record)

    async def ended(
        self, permit: Permit, outcome: Outcome, now: float, issuance: Issuance, io: Io, *, revoked: bool
    ) -> None:
        """Write how a call ended, and what became of its credential."""
        credential = None if issuance.credential is None else issuance.credential.id
        record = records.outcome(permit, outcome, now, credential, revoked=revoked, kept=issuance.kept)
        if issuance.anomalies:
            record["anomalies"] = issuance.anomalies
        await attempt("record", io.append, record)

    def _decision(self, permit: Permit, span: CallSpan) -> dict[str, Any]:
        request = permit.request if self._requests else None
        if permit.observed is None:
            return records.permitted(permit, span.trace_id, request)
        denied, invocation, actor = permit.observed, permit.invocation, permit.task.identity.actor
        span.describe(effect=Effect.DENY.value, code=denied.code.value, observed=True)
        record = records.refused(invocation, denied, permit.task, actor, span.trace_id, request)
        return {**record, "call": permit.call.id, "observed": True}

    def _actor(self) -> str | None:
        try:
            return self._identity.actor()
        except Exception:  # noqa: BLE001  a denial is recorded also of an agent that has no identity
            return None
