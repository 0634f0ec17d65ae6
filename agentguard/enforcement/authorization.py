"""Classify, decide, and have a person approve: everything before a call begins.

It has no side effect but the question to a person, which is asked once however often a graph runs
its node again; and it mints nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from agentguard.catalog import Catalog
from agentguard.enforcement.approval import Approvals
from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.entitlements import Ceiling, effective
from agentguard.enforcement.operations import Io, stored
from agentguard.enforcement.routing import Route, Routes
from agentguard.enforcement.task_credentials import SubjectTokens
from agentguard.errors import AgentGuardError, DenialCode, Denied, safe_text
from agentguard.model import (
    AccessRequest,
    Approval,
    ApprovalStatus,
    Arguments,
    Call,
    Decision,
    Effect,
    Grant,
    Label,
    Sensitivity,
    TaskState,
    ToolPath,
    ToolSpec,
)
from agentguard.ports import IdentitySource, Policy
from agentguard.provenance.arguments import provenance_of, value_digests
from agentguard.telemetry import CallSpan

__all__ = ["Authorization"]

OBSERVED = frozenset(
    {
        DenialCode.UNKNOWN_TOOL,
        DenialCode.MANDATE,
        DenialCode.POLICY,
        DenialCode.POLICY_ERROR,
        DenialCode.OBLIGATION,
        DenialCode.NO_RIGHTS,
        DenialCode.NO_CREDENTIAL,
        DenialCode.APPROVAL_REFUSED,
        DenialCode.APPROVAL_UNAVAILABLE,
    }
)
"""What a guard that observes lets pass: what rules and rights say, or cannot say; but not the end or the
budget of a task, nor a store or an audit log that fails."""
log = logging.getLogger("agentguard")


def _unclassified(invocation: Invocation) -> Denied:
    return Denied.of(DenialCode.UNKNOWN_TOOL, f"{invocation.tool} is not classified in the catalog")


class Authorization:
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
        observe: bool = False,
    ) -> None:
        self._catalog, self._identity, self._routes = catalog, identity, routes
        self._environment = dict(environment)
        self._ceiling, self._subject_tokens = ceiling, subject_tokens
        self._lifetime = lifetime
        self._consent = Approvals(policy, approval_lifetime, clock, suspends)
        self._clock, self._new_id, self._observe = clock, new_id, observe

    async def request(self, invocation: Invocation, io: Io, span: CallSpan) -> AccessRequest:
        """Say what is asked: who would do what in which task, and where the arguments came from.

        Raises:
            Denied: The call cannot be judged at all.
        """
        if invocation.problem is not None:
            raise invocation.problem
        arguments = invocation.arguments
        if arguments is None or (invocation.spec is None and not self._observe):
            raise _unclassified(invocation)
        task = await self._task(invocation, io)
        # nothing is known of it: its call counts as the worst
        spec = invocation.spec or ToolSpec(
            name=invocation.tool,
            path=ToolPath.ESCALATION,
            untrusted=True,
            sensitivity=Sensitivity.RESTRICTED,
            clearance=Sensitivity.PUBLIC,
        )
        span.describe(**{"task.id": task.id, "path": spec.path.value})
        return await self._request(spec, arguments, task, io)

    async def permit(self, invocation: Invocation, request: AccessRequest, io: Io, span: CallSpan) -> Permit:
        """Decide and, where needed, have a person approve. Mints nothing.

        Where the guard only observes, what would deny is in the permit, which has no grant.

        Raises:
            Denied: The call is not permitted.
        """
        try:
            return await self._judge(invocation, request, io, span)
        except Denied as denied:
            if not self._observe or denied.code not in OBSERVED:
                raise
            return self._observed(invocation, request, denied)

    async def _request(self, spec: ToolSpec, arguments: Arguments, task: TaskState, io: Io) -> AccessRequest:
        labels: dict[str, list[Label]] = {}
        if digests := value_digests(task, arguments):
            for label in await stored(io.labels, task.root_id, digests):
                labels.setdefault(label.digest, []).append(label)
        resource = self._catalog.resource(spec.resource)
        route = None if resource is None else self._routes.find(resource, spec.path)
        return AccessRequest(
            identity=task.identity,
            tool=spec,
            arguments=arguments,
            task=task,
            environment=self._environment,
            legacy=route is not None and route.legacy,
            provenance=provenance_of(spec, arguments, task, labels),
            at=self._clock(),
        )

    async def _judge(self, invocation: Invocation, request: AccessRequest, io: Io, span: CallSpan) -> Permit:
        spec, task, arguments = request.tool, request.task, request.arguments
        if invocation.spec is None:
            raise _unclassified(invocation)
        if objection := task.mandate.objection(spec, arguments):
            raise Denied.of(DenialCode.MANDATE, objection)
        scopes = await effective(spec, task, self._ceiling, io.entitled)
        route = self._route(spec)
        key = invocation.key(task.id, arguments.digest, self._new_id())
        asked = None if invocation.thread_id is None else await stored(io.approval_for, key)
        if asked is not None and asked.status is ApprovalStatus.DENIED:
            # a rejected call stays rejected, also when the policy would now let it pass
            raise Denied.of(DenialCode.APPROVAL_REFUSED, f"rejected by {asked.approver}: {asked.reason}")
        with span.stage("decide"):
            decision = await self._decide(request, io)
        approval: Approval | None = None
        if decision.obliges("approve") or asked is not None:
            if self._observe:
                raise Denied.of(
                    DenialCode.APPROVAL_UNAVAILABLE, "a person would be asked", policy_ids=decision.policy_ids
                )
            if asked is None:  # else it is the same question, and its graph runs the node again
                span.asked(spec.name, spec.path.value)
            with span.stage("approve"):
                approval = await self._consent.obtain(request, decision, key, io)
                # a person takes time: what the task has read meanwhile counts, and whether it is over
                request = await self.request(invocation, io, span)
                decision = await self._decide_again(replace(request, approval=approval), approval, io)
        return self._permit(invocation, request, decision, approval, key, scopes, route)

    async def _decide_again(self, request: AccessRequest, approval: Approval, io: Io) -> Decision:
        """Ask again with the approval, under the rules that it was asked under."""
        decision = await self._decide(request, io)
        if self._consent.version(decision) != approval.policy_version:
            raise Denied.of(
                DenialCode.APPROVAL_REFUSED, "the policy has changed since the approval was asked"
            )
        if decision.obliges("approve"):
            raise Denied.of(DenialCode.OBLIGATION, "the policy asks for the approval that it was given")
        return decision

    def _observed(self, invocation: Invocation, request: AccessRequest, denied: Denied) -> Permit:
        decision = Decision(effect=Effect.DENY, policy_ids=denied.policy_ids, reason=denied.reason)
        key = invocation.key(request.task.id, request.arguments.digest, self._new_id())
        call = self._call(request, key, None, None)
        return Permit(invocation, request, decision, None, call, observed=denied)

    def _route(self, spec: ToolSpec) -> Route | None:
        if (resource := self._catalog.resource(spec.resource)) is None:
            return None
        route = self._routes.find(resource, spec.path)
        if route is None:
            raise Denied.of(DenialCode.NO_CREDENTIAL, f"no broker for {spec.resource} on {spec.path}")
        return route

    async def _task(self, invocation: Invocation, io: Io) -> TaskState:
        task_id = invocation.task_id
        if task_id is None:
            raise Denied.of(DenialCode.NO_TASK, "no task is active in this context or in the run's config")
        state = await stored(io.task, task_id)
        if not isinstance(state, TaskState):
            raise Denied.of(DenialCode.TASK_ENDED, f"task {task_id} is unknown to the store")
        if (ended := state.ended(self._clock())) is not None:
            raise Denied.of(DenialCode.TASK_ENDED, f"task {task_id} is {ended}")
        try:
            actor = self._identity.actor()
        except Exception as error:  # noqa: BLE001  who cannot say who it is acts for nobody
            raise Denied.of(DenialCode.NO_IDENTITY, f"no identity: {safe_text(error)}") from None
        if state.lineage:
            root = await stored(io.task, state.root_id)
            if not isinstance(root, TaskState):
                raise Denied.of(DenialCode.TASK_ENDED, f"task {state.root_id} is unknown to the store")
            state = state.within(root)
        if actor != state.identity.actor and actor not in state.identity.chain:
            return replace(state, identity=state.identity.delegate(actor))
        return state

    async def _decide(self, request: AccessRequest, io: Io) -> Decision:
        try:
            decision = await io.decide(request)
        except Exception as error:  # noqa: BLE001  a policy that errs, in whatever way, is a deny
            # of an error that is not ours only the type: its text may hold arguments
            why = f": {error}" if isinstance(error, AgentGuardError) else ""
            log.error("the policy failed: %s%s", type(error).__name__, why)
            raise Denied.of(DenialCode.POLICY_ERROR, f"policy failed: {type(error).__name__}{why}") from None
        if not isinstance(decision, Decision) or not isinstance(decision.effect, Effect):
            raise Denied.of(DenialCode.POLICY_ERROR, f"policy answered with {type(decision).__name__}")
        ids = decision.policy_ids
        if not decision.permitted:
            reason = decision.reason or "denied by policy"
            raise Denied.of(
                DenialCode.POLICY,
                reason,
                advice=decision.advice,
                policy_ids=ids,
                decision_id=decision.decision_id,
            )
        if (kind := decision.not_understood) is not None:
            raise Denied.of(DenialCode.OBLIGATION, f"{kind} is not understood", policy_ids=ids)
        return decision

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
        call = self._call(request, key, approval, route)
        grant = None if route is None else self._grant(call.id, request, decision, scopes)
        return Permit(invocation, request, decision, grant, call, route)

    def _call(self, request: AccessRequest, key: str, approval: Approval | None, route: Route | None) -> Call:
        return Call(
            id=self._new_id(),
            key=key,
            task_id=request.task.id,
            tool=request.tool.name,
            path=request.tool.path,
            at=self._clock(),
            broker=None if route is None else route.name,
            approval_id=None if approval is None else approval.id,
        )

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
                raise Denied.of(
                    DenialCode.NO_RIGHTS, "the policy leaves no scope", policy_ids=decision.policy_ids
                )
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
