"""Write what happens to a call, in its span and in the audit log, each at its time.

A permit is written before anything is minted, and a call that cannot be written does not happen. A denial and
an outcome are written whatever else fails: a failure to write these is logged.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from typing import Any

from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.failures import best_effort
from agentguard.enforcement.issuance import Issuance
from agentguard.enforcement.operations import Operations
from agentguard.enforcement.records import denial_record, outcome_record, permit_record
from agentguard.errors import DenialCode, Denied, safe_text
from agentguard.model import NO_FACTS, AccessRequest, Effect, Outcome, TaskState
from agentguard.ports import IdentitySource
from agentguard.telemetry import CallSpan

__all__ = ["Recording"]

log = logging.getLogger("agentguard")


class Recording:
    """Writes the records of one guard's calls, on one path.

    With *requests*, a record holds all that the policy was asked, argument values included.
    """

    def __init__(self, identity: IdentitySource, operations: Operations, *, requests: bool) -> None:
        self._identity, self._operations, self._requests = identity, operations, requests

    async def permit(self, permit: Permit, span: CallSpan) -> None:
        """Write the decision of a call that is about to run.

        Raises:
            Denied: It could not be written.
        """
        call, grant = permit.call, permit.grant
        span.describe(
            **{
                "effect": str(Effect.PERMIT),
                "policy.ids": permit.decision.policy_ids,
                "call.id": call.id,
                "credential.id": None if grant is None else grant.id,
                "approval.id": call.approval_id,
            }
        )
        record = self._decision(permit, span)
        try:
            await self._operations.append(record)
            permit.decided = True
        except CancelledError:  # the log has gone on to the end
            permit.decided = True
            raise
        except Exception as error:  # noqa: BLE001  a call that cannot be recorded does not happen
            raise Denied.of(DenialCode.AUDIT_ERROR, f"audit failed: {safe_text(error)}") from None
        if (denied := permit.observed) is not None:
            log.warning("OBSERVED, NOT BLOCKED: %s: %s: %s", call.tool, denied.code, denied.reason)

    async def denial(
        self, invocation: Invocation, denied: Denied, span: CallSpan, request: AccessRequest | None = None
    ) -> None:
        """Write a denial, with what is known of the task; *request* is what was asked, if it came so far."""
        span.describe(effect=Effect.DENY.value, code=denied.code.value, **{"policy.ids": denied.policy_ids})
        span.ended(invocation.path, Effect.DENY, denied.code)
        task = await self._task(invocation) if request is None else request.task
        log.info("denied %s: %s: %s", invocation.tool, denied.code, denied.reason)
        recorded = request if self._requests else None
        facts = NO_FACTS if request is None else request.facts
        record = denial_record(invocation, denied, task, self._actor(), span.trace_id, recorded, facts)
        await best_effort("record", self._operations.append, record)

    async def outcome(
        self,
        permit: Permit,
        outcome: Outcome,
        now: float,
        issuance: Issuance,
        span: CallSpan,
        *,
        revoked: bool,
    ) -> None:
        """Write how a call ended, and what became of its credential.

        Of a call that was cancelled or interrupted between its beginning and its permit, the permit is
        written first: no outcome is without a decision. An interrupt at the moment of the one record may
        cause a second one, and never none.
        """
        if permit.outcome_recorded:
            return
        if not permit.decided:
            await best_effort("record", self._operations.append, self._decision(permit, span))
            permit.decided = True
        credential = None if issuance.credential is None else issuance.credential.id
        record = outcome_record(permit, outcome, now, credential, revoked=revoked, reusable=issuance.kept)
        if issuance.anomalies:
            record["anomalies"] = issuance.anomalies
        if permit.missing_grant:
            record["missing_grant"] = permit.missing_grant
        await best_effort("record", self._operations.append, record)
        permit.outcome_recorded = True

    def _decision(self, permit: Permit, span: CallSpan) -> dict[str, Any]:
        request = permit.request if self._requests else None
        if permit.observed is None:
            return permit_record(permit, span.trace_id, request)
        denied, invocation, actor = permit.observed, permit.invocation, permit.task.identity.actor
        span.describe(effect=Effect.DENY.value, code=denied.code.value, observed=True)
        facts = permit.request.facts
        record = denial_record(invocation, denied, permit.task, actor, span.trace_id, request, facts)
        return {**record, "call": permit.call.id, "observed": True}

    async def _task(self, invocation: Invocation) -> TaskState | None:
        if (task_id := invocation.task_id) is None:
            return None
        try:
            return await self._operations.task(task_id)
        except Exception as error:  # noqa: BLE001  a denial is recorded also when the store is down
            log.warning("the store failed while a denial was recorded: %s", safe_text(error))
            return None

    def _actor(self) -> str | None:
        try:
            return self._identity.actor()
        except Exception:  # noqa: BLE001  a denial is recorded also of an agent that has no identity
            return None
