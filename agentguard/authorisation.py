"""Classify, decide, and have a person approve: everything before a call begins.

It has no side effect but the question to a person, which is asked once however often a graph runs
its node again; and it mints nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

from agentguard.call import Invocation, Io, Permit, stored
from agentguard.catalog import Catalog
from agentguard.errors import ApprovalError, DenialCode, IdentityError, denial
from agentguard.model import (
    AccessRequest,
    Approval,
    ApprovalStatus,
    Call,
    Decision,
    Effect,
    Grant,
    TaskState,
    ToolSpec,
)
from agentguard.ports import IdentitySource, Policy
from agentguard.rights import Ceiling, effective
from agentguard.routes import Route, Routes
from agentguard.subjects import SubjectTokens
from agentguard.telemetry import CallSpan

__all__ = ["Authorisation", "answer"]

UNDERSTOOD = frozenset({"approve", "narrow_scopes", "shorten_lifetime"})
ANSWERED_YES = frozenset({ApprovalStatus.APPROVED, ApprovalStatus.USED})
log = logging.getLogger("agentguard")


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


class Authorisation:
    """Says whether a call may run, and what may be issued for it."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        policy: Policy,
        identity: IdentitySource,
        routes: Routes,
        environment: Mapping[str, str],
        ceiling: Ceiling | None,
        subject_tokens: SubjectTokens,
        lifetime: float,
        approval_lifetime: float,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        suspends: Callable[[BaseException], bool],
    ) -> None:
        self._catalog, self._policy, self._identity, self._routes = catalog, policy, identity, routes
        self._environment = dict(environment)
        self._ceiling, self._subject_tokens = ceiling, subject_tokens
        self._lifetime, self._approval_lifetime = lifetime, approval_lifetime
        self._clock, self._new_id, self._suspends = clock, new_id, suspends

    async def permit(self, invocation: Invocation, io: Io, span: CallSpan) -> Permit:
        """Classify, decide and, where needed, have a person approve. Mints nothing.

        Raises:
            Denied: The call is not permitted.
        """
        if invocation.problem is not None:
            raise invocation.problem
        spec, arguments = invocation.spec, invocation.arguments
        if spec is None or arguments is None:
            raise denial(DenialCode.UNKNOWN_TOOL, f"{invocation.tool} is not classified in the catalog")
        task = await self._task(invocation, io)
        span.describe(**{"task.id": task.id, "path": spec.path.value})
        if objection := task.mandate.objection(spec, arguments):
            raise denial(DenialCode.MANDATE, objection)
        scopes = await effective(spec, task, self._ceiling, io.entitled)
        route = self._route(spec)
        key = invocation.key(task.id, arguments.digest, self._new_id())
        asked = None if invocation.thread_id is None else await stored(io.approval_for, key)
        if asked is not None and asked.status is ApprovalStatus.DENIED:
            # a rejected call stays rejected, also when the policy would now let it pass
            raise denial(DenialCode.APPROVAL_REFUSED, f"rejected by {asked.approver}: {asked.reason}")
        request = AccessRequest(
            identity=task.identity,
            tool=spec,
            arguments=arguments,
            task=task,
            environment=self._environment,
            legacy=route is not None and route.legacy,
        )
        with span.stage("decide"):
            decision = await self._decide(request, io)
        approval: Approval | None = None
        if decision.obliges("approve") or asked is not None:
            with span.stage("approve"):
                approval = await self._approve(request, decision, key, io)
                decision = await self._decide(replace(request, approval=approval), io)
            if decision.obliges("approve"):
                raise denial(DenialCode.OBLIGATION, "the policy asks for the approval that it was given")
        return self._permit(invocation, request, decision, approval, key, scopes, route)

    def _route(self, spec: ToolSpec) -> Route | None:
        if (resource := self._catalog.resource(spec.resource)) is None:
            return None
        route = self._routes.find(resource, spec.path)
        if route is None:
            raise denial(DenialCode.NO_CREDENTIAL, f"no broker for {spec.resource} on {spec.path}")
        return route

    async def _task(self, invocation: Invocation, io: Io) -> TaskState:
        task_id = invocation.task_id
        if task_id is None:
            raise denial(DenialCode.NO_TASK, "no task is active in this context or in the run's config")
        state = await stored(io.task, task_id)
        if not isinstance(state, TaskState):
            raise denial(DenialCode.TASK_ENDED, f"task {task_id} is unknown to the store")
        if (ended := state.ended(self._clock())) is not None:
            raise denial(DenialCode.TASK_ENDED, f"task {task_id} is {ended}")
        try:
            actor = self._identity.actor()
        except Exception as error:  # noqa: BLE001  who cannot say who it is acts for nobody
            told = f": {error}" if isinstance(error, IdentityError) else ""
            raise denial(DenialCode.NO_IDENTITY, f"no identity: {type(error).__name__}{told}") from None
        if actor != state.identity.actor and actor not in state.identity.chain:
            return replace(state, identity=state.identity.delegate(actor))
        return state

    async def _decide(self, request: AccessRequest, io: Io) -> Decision:
        try:
            decision = await io.decide(request)
        except Exception as error:  # noqa: BLE001  a policy that errs, in whatever way, is a deny
            log.error("the policy failed: %s", type(error).__name__)
            raise denial(DenialCode.POLICY_ERROR, f"policy failed: {type(error).__name__}") from None
        if not isinstance(decision, Decision) or not isinstance(decision.effect, Effect):
            raise denial(DenialCode.POLICY_ERROR, f"policy answered with {type(decision).__name__}")
        ids = decision.policy_ids
        if not decision.permitted:
            reason = decision.reason or "denied by policy"
            raise denial(DenialCode.POLICY, reason, advice=decision.advice, ids=ids)
        for obligation in decision.obligations:
            if obligation.kind not in UNDERSTOOD:
                raise denial(DenialCode.OBLIGATION, f"{obligation.kind} is not understood", ids=ids)
        return decision

    async def _approve(self, request: AccessRequest, decision: Decision, key: str, io: Io) -> Approval:
        ask = io.approve.get(request.tool.path)
        if ask is None:
            reason = f"no approver for {request.tool.path}"
            raise denial(DenialCode.APPROVAL_UNAVAILABLE, reason, ids=decision.policy_ids)
        version = str(self._policy.version)
        pending = await stored(
            io.save_approval,
            Approval(
                id=sha256(f"{key}\n{version}".encode()).hexdigest()[:32],
                call_key=key,
                task_id=request.task.id,
                tool=request.tool.name,
                digest=request.arguments.digest,
                policy_version=version,
                expires_at=self._clock() + self._approval_lifetime,
                reason=decision.reason,
            ),
        )
        try:
            answer = await ask(pending, request)
        except Exception as error:
            if self._suspends(error):
                raise
            # an approver that errs, in whatever way, has not approved
            reason = f"approver failed: {type(error).__name__}: {error}"
            raise denial(DenialCode.APPROVAL_UNAVAILABLE, reason) from None
        if isinstance(answer, Approval) and answer.id == pending.id and answer != pending:
            await stored(io.answer_approval, answer)
        # only what the store holds counts, not what a resumed graph or an edited state says
        final = await stored(io.approval, pending.id)
        if not isinstance(final, Approval) or final.status not in ANSWERED_YES:
            raise denial(DenialCode.APPROVAL_REFUSED, "no person has approved this call")
        # whether a used one may be used again, by the call that was suspended, `begin_call` says
        return replace(final, status=ApprovalStatus.APPROVED)

    def _permit(
        self,
        invocation: Invocation,
        request: AccessRequest,
        decision: Decision,
        approval: Approval | None,
        key: str,
        scopes: frozenset[str],
        route: Route | None,
    ) -> Permit:
        spec, call_id = request.tool, self._new_id()
        grant = None if route is None else self._grant(call_id, request, decision, scopes)
        call = Call(
            id=call_id,
            key=key,
            task_id=request.task.id,
            tool=spec.name,
            path=spec.path,
            at=self._clock(),
            broker=None if route is None else route.name,
            approval_id=None if approval is None else approval.id,
        )
        return Permit(invocation, request.task, decision, grant, call, route)

    def _grant(
        self, grant_id: str, request: AccessRequest, decision: Decision, scopes: frozenset[str]
    ) -> Grant:
        spec = request.tool
        resource = self._catalog.resource(spec.resource)
        assert resource is not None  # noqa: S101  the caller has a resource, and the catalog knows all
        lifetime = min(self._lifetime, request.task.deadline - self._clock())
        if narrower := decision.obliges("narrow_scopes"):
            scopes &= frozenset(narrower.parameters.get("scopes", ()))
            if spec.scopes and not scopes:
                raise denial(DenialCode.NO_RIGHTS, "the policy leaves no scope", ids=decision.policy_ids)
        if shorter := decision.obliges("shorten_lifetime"):
            lifetime = min(lifetime, float(shorter.parameters.get("seconds", 0)))
        return Grant(
            id=grant_id,
            task_id=request.task.id,
            identity=request.identity,
            tool=spec.name,
            path=spec.path,
            resource=resource,
            scopes=scopes,
            digest=request.arguments.digest,
            lifetime=lifetime,
            subject_token=self._subject_tokens.of(request.task),
        )
