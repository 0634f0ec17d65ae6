"""What the audit log says of a call.

A permit is recorded before anything is minted, and the outcome after the call. So a crash in between leaves a
decision without an outcome, and never an effect without a decision. The fields answer the seven questions of
draft-klrc-aiagent-auth (revision 02): which agent, for whom, which resource and tool, which action and
decision, when and in which transaction, in which state of risk, and what was revoked and why. Argument values
are not recorded: their digest is, and where they came from. Only where an application wants to ask other
policies about what has happened is the whole request recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentguard.audit.requests import recorded
from agentguard.enforcement.call import Invocation, Permit
from agentguard.errors import Denied
from agentguard.model import (
    NO_FACTS,
    AccessRequest,
    Arguments,
    Effect,
    Facts,
    LiveCredential,
    Mandate,
    Outcome,
    TaskState,
)

__all__ = [
    "denial_record",
    "outcome_record",
    "permit_record",
    "recovery_record",
    "renewal_record",
    "signal_record",
    "task_end_record",
    "unrevoked_record",
    "words_record",
]

Record = dict[str, Any]


def permit_record(permit: Permit, trace: str | None, request: AccessRequest | None = None) -> Record:
    """Record the decision of a call that is about to run, and the whole *request* if it is given."""
    decision, grant = permit.decision, permit.grant
    return _about(permit.invocation, permit.task, permit.task.identity.actor, trace) | {
        "call": permit.call.id,
        "effect": str(Effect.PERMIT),
        "policies": list(decision.policy_ids),
        "policy_version": decision.policy_version,
        "reason": decision.reason,
        "approval": permit.call.approval_id,
        "credential": None if grant is None else grant.id,
        "audience": None if grant is None else grant.audience,
        "scopes": None if grant is None else sorted(grant.scopes),
        "legacy": permit.route is not None and permit.route.legacy,
        "sources": {
            name: sorted(provenance.sources) for name, provenance in permit.request.provenance.items()
        },
        **_facts(permit.request.facts),
        **_of_pdp(decision.decision_id),
        **_request(request),
    }


def denial_record(
    invocation: Invocation,
    denied: Denied,
    task: TaskState | None,
    actor: str | None,
    trace: str | None,
    request: AccessRequest | None = None,
    facts: Facts = NO_FACTS,
) -> Record:
    """Record a denial, with the full reason, digests of *facts*, and the whole *request* if it is given."""
    return _about(invocation, task, actor, trace) | {
        "task": invocation.task_id,
        "effect": Effect.DENY.value,
        "code": denied.code.value,
        "policies": list(denied.policy_ids),
        "reason": denied.reason,
        **_facts(facts),
        **_of_pdp(denied.decision_id),
        **_request(request),
    }


def outcome_record(
    permit: Permit, outcome: Outcome, now: float, credential: str | None, *, revoked: bool, reusable: bool
) -> Record:
    """Record how a call ended, and that its credential ended with it, or is kept for its task."""
    return {
        "event": "outcome",
        "call": permit.call.id,
        "task": permit.task.id,
        "lineage": list(permit.task.lineage),
        "tool": permit.call.tool,
        "outcome": str(outcome),
        "credential": credential,
        "revoked": revoked and not reusable and credential is not None,
        "kept": reusable,
        "cause": f"call {outcome}",
        "seconds": round(now - permit.call.at, 6),
    }


def recovery_record(credential: LiveCredential) -> Record:
    """Record that a credential was revoked by another than the call that it was minted for."""
    return {
        "event": "revocation",
        "call": credential.call_id,
        "task": credential.task_id,
        "lineage": [],
        "broker": credential.broker,
        "cause": "left behind by its process, its task, or its lifetime",
    }


def unrevoked_record(credential: LiveCredential, until: float, cause: str) -> Record:
    """Record that a credential is not known to be revoked, and when it ends or has ended by itself."""
    return {
        "event": "unrevoked",
        "call": credential.call_id,
        "task": credential.task_id,
        "lineage": [],
        "broker": credential.broker,
        "cause": cause,
        "until": until,
    }


def task_end_record(
    task_id: str, lineage: list[str], status: str, cause: str, unrevoked: int | None
) -> Record:
    """Record the end of a task; *unrevoked* credentials are left, or None if their number is unknown."""
    return {
        "event": "task",
        "task": task_id,
        "lineage": lineage,
        "status": status,
        "cause": cause,
        "unrevoked": unrevoked,
    }


def words_record(task_id: str, characters: int) -> Record:
    """Record that a user is about to be heard in a conversation: how much was said, and not what."""
    return {"event": "words", "task": task_id, "lineage": [], "characters": characters}


def renewal_record(state: TaskState, mandate: Mandate, *, whole: bool) -> Record:
    """Record that the application gives a task another mandate: its tools, or with *whole* all of it."""
    return {
        "event": "mandate",
        "task": state.id,
        "lineage": list(state.lineage),
        "tools": sorted(mandate.tools),
        **({"mandate": mandate.literal()} if whole else {}),
    }


def signal_record(issuer: str, signal: str, cause: str, names: Mapping[str, Any]) -> Record:
    """Record a signal of a trusted source that ended nothing, and what it named."""
    return {"event": "signal", "task": None, "lineage": [], "issuer": issuer, "signal": signal} | {
        "names": {
            kind: list(name) if isinstance(name, tuple) else name
            for kind, name in names.items()
            if name is not None
        },
        "cause": cause,
    }


def _of_pdp(decision_id: str) -> Record:
    return {"decision_id": decision_id} if decision_id else {}


def _facts(facts: Facts) -> Record:
    """Record the digests of what records said: which facts the rules saw, and no value of them."""
    return {"facts": facts.digests} if facts else {}


def _request(request: AccessRequest | None) -> Record:
    return {} if request is None else {"request": recorded(request)}


def _digests(arguments: Arguments | None) -> Record:
    """Record the digest that tokens carry, and that of the call where JSON does not say all of it."""
    if arguments is None or arguments.digest == arguments.json_digest:
        return {"digest": None if arguments is None else arguments.json_digest}
    return {"digest": arguments.json_digest, "call_digest": arguments.digest}


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
        "path": None if spec is None else str(spec.path),
        "resource": None if spec is None else spec.resource,
        **_digests(invocation.arguments),
        "untrusted": task is not None and task.untrusted,
        "trace": trace,
    }
