"""What is written of a call, in its span and in the audit log, each at its time.

A permit is written before anything is minted, and what cannot be written does not happen. A denial and
an outcome are written whatever else fails: a failure to write these is logged.
"""

from __future__ import annotations

import logging
from typing import Any

from agentguard.audit.requests import recorded
from agentguard.enforcement import recording as records
from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.issuance import Issuance, attempt
from agentguard.enforcement.operations import Io
from agentguard.errors import DenialCode, Denied
from agentguard.model import AccessRequest, Effect, LiveCredential, Outcome, TaskState
from agentguard.ports import IdentitySource
from agentguard.telemetry import CallSpan

__all__ = ["Recording", "outcome", "permitted", "recovered", "refused", "task_ended"]

Record = dict[str, Any]


def permitted(permit: Permit, trace: str | None, request: AccessRequest | None = None) -> Record:
    """Record the decision of a call that is about to run, and the whole *request* if it is given."""
    decision, grant = permit.decision, permit.grant
    return _about(permit.invocation, permit.task, permit.task.identity.actor, trace) | {
        "call": permit.call.id,
        "effect": Effect.PERMIT.value,
        "policies": list(decision.policy_ids),
        "policy_version": decision.policy_version,
        "reason": decision.reason,
        "approval": permit.call.approval_id,
        "credential": None if grant is None else grant.id,
        "audience": None if grant is None else grant.audience,
        "scopes": None if grant is None else sorted(grant.scopes),
        "legacy": permit.route is not None and permit.route.legacy,
        "sources": {name: sorted(each.sources) for name, each in permit.request.provenance.items()},
        **_of_pdp(decision.decision_id),
        **_asked(request),
    }


def refused(
    invocation: Invocation,
    denied: Denied,
    task: TaskState | None,
    actor: str | None,
    trace: str | None,
    request: AccessRequest | None = None,
) -> Record:
    """Record a denial, with the full reason, and the whole *request* if it is given."""
    return _about(invocation, task, actor, trace) | {
        "task": invocation.task_id,
        "effect": Effect.DENY.value,
        "code": denied.code.value,
        "policies": list(denied.policy_ids),
        "reason": denied.reason,
        **_of_pdp(denied.decision_id),
        **_asked(request),
    }


def outcome(
    permit: Permit, ended: Outcome, now: float, credential: str | None, *, revoked: bool, kept: bool
) -> Record:
    """Record how a call ended, and that its credential ended with it, or is kept for its task."""
    return {
        "event": "outcome",
        "call": permit.call.id,
        "task": permit.task.id,
        "lineage": list(permit.task.lineage),
        "tool": permit.call.tool,
        "outcome": ended.value,
        "credential": credential,
        "revoked": revoked and not kept and credential is not None,
        "kept": kept,
        "cause": f"call {ended.value}",
        "seconds": round(now - permit.call.at, 6),
    }


def recovered(held: LiveCredential) -> Record:
    """Record that a credential was revoked by another than the call that it was minted for."""
    return {
        "event": "revocation",
        "call": held.call_id,
        "task": held.task_id,
        "lineage": [],
        "broker": held.broker,
        "cause": "left behind by its process, its task, or its lifetime",
    }


def task_ended(task_id: str, lineage: list[str], status: str, cause: str, unrevoked: int) -> Record:
    """Record the end of a task; *unrevoked* credentials are left to their expiry."""
    return {
        "event": "task",
        "task": task_id,
        "lineage": lineage,
        "status": status,
        "cause": cause,
        "unrevoked": unrevoked,
    }


def _of_pdp(decision_id: str) -> Record:
    return {"decision_id": decision_id} if decision_id else {}


def _asked(request: AccessRequest | None) -> Record:
    return {} if request is None else {"request": recorded(request)}


def _about(invocation: Invocation, task: TaskState | None, actor: str | None, trace: str | None) -> Record:
    spec, identity = invocation.spec, None if task is None else task.identity
    return {
        "event": "decision",
        "task": None if task is None else task.id,
        "lineage": [] if task is None else list(task.lineage),
        "actor": actor if identity is None else identity.actor,
        "subject": None if identity is None else identity.subject,
        "chain": [] if identity is None else list(identity.chain),
        "tool": invocation.tool,
        "path": None if spec is None else spec.path.value,
        "resource": None if spec is None else spec.resource,
        "digest": None if invocation.arguments is None else invocation.arguments.digest,
        "untrusted": task is not None and task.untrusted,
        "trace": trace,
    }


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
            raise Denied.of(DenialCode.AUDIT_ERROR, f"audit failed: {type(error).__name__}") from None
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
