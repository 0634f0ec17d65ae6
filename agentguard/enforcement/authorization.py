"""Judge a call: everything before it begins. The request that is judged is made in `access_requests`.

Nothing here has a side effect, except the question to a person, which is asked once however often a graph
runs its node again. Nothing here mints a credential.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

from agentguard.enforcement.access_requests import AccessRequests, unclassified
from agentguard.enforcement.approval import APPROVED, Approvals
from agentguard.enforcement.call import Invocation, Permit
from agentguard.enforcement.calls_here import CallsHere
from agentguard.enforcement.charge import begun_before, decided, decided_with_room
from agentguard.enforcement.counting import Counting
from agentguard.enforcement.entitlements import effective_scopes
from agentguard.enforcement.evaluation import OBSERVED, Evaluation, grant_of, require_permit
from agentguard.enforcement.fact_reading import FactReading
from agentguard.enforcement.operations import Operations, stored, unapproved
from agentguard.enforcement.reproduction import require_reproducible
from agentguard.enforcement.routing import Route, Routes
from agentguard.enforcement.run_state import RunState
from agentguard.enforcement.setup import Options, Ports
from agentguard.enforcement.task_credentials import SubjectTokens
from agentguard.errors import AgentGuardError, CallRejected, DenialCode, Denied
from agentguard.model import (
    NO_CHOICE,
    NO_FACTS,
    AccessRequest,
    Call,
    Decision,
    Effect,
    Resource,
    TaskState,
    ToolSpec,
)
from agentguard.provenance.arguments import uncharged
from agentguard.telemetry import CallSpan

__all__ = ["Authorization"]

OTHER_STATE = (
    "What this call would use has changed since a person was asked, so it did not run. Tell the user."
)
CHANGED = "The rules have changed since a person was asked about this call, so it did not run. Tell the user."
log = logging.getLogger("agentguard")


class Authorization:
    """Says, on one path, whether a call may run and what may be issued for it."""

    def __init__(
        self,
        ports: Ports,
        options: Options,
        routes: Routes,
        subject_tokens: SubjectTokens,
        operations: Operations,
        calls: CallsHere,
        facts: FactReading,
    ) -> None:
        self._ports, self._options, self._routes = ports, options, routes
        self._subject_tokens, self._operations = subject_tokens, operations
        self.requests = AccessRequests(ports, options, routes, operations, calls, facts)
        self.approvals = Approvals(ports.policy, options, operations)

    async def evaluate(
        self, request: AccessRequest, key: str = "", repeated: bool = False, begun: bool | None = False
    ) -> Evaluation:
        """Judge a request by the task's mandate, the rights of user and agent, and the policy.

        Everybody who asks for a decision asks here: a call, `Guard.decide`, and the tools for authors of
        policies. An obligation to have a person approve is left to the caller. *begun* says whether the call
        has begun before and may be resumed, so that its choice is charged already; None is unknown. The store
        then says whether there is room for it, but for a call about which a person would be asked first.

        Raises:
            Denied: One of them denies, or cannot answer.
        """
        scopes, resource, route = await self._limits(request)
        self.requests.facts.require(request)
        Counting.require(request)
        request, decision = await decided_with_room(self._decide, request, begun)
        return Evaluation(
            request=request,
            decision=decision,
            scopes=scopes,
            resource=resource,
            route=route,
            key=key,
            repeated=repeated,
        )

    async def judge(
        self, invocation: Invocation, request: AccessRequest, span: CallSpan, share: str = ""
    ) -> Evaluation:
        """Do as `evaluate`, for one call, about which a person may have been asked before.

        With *share*, which says what a task has used, the store has no room for the call's choice. Then the
        values of the call count as the task does.

        Raises:
            Denied: The call is not permitted, or a person has rejected it.
        """
        if invocation.spec is None:
            raise unclassified(invocation.tool)
        key = invocation.key(request.task.id, request.arguments.digest, self._options.new_id())
        previous = None
        if (
            invocation.thread_id is not None and request.task.questions
        ):  # of the family: else nobody was asked
            previous = await stored(self._operations.approval_for(key))
        if previous is None or previous.status not in APPROVED:
            await self.require_unrejected(request)
        if share and request.choice.bits:
            request = uncharged(request, share)
        with span.stage("decide"):
            return await self.evaluate(request, key, previous is not None, begun_before(invocation, previous))

    async def require_unrejected(self, request: AccessRequest) -> None:
        """Deny a call that a person has rejected in this task, or in any other of the task's family.

        It stays rejected under each call id, and also when the policy would now let it pass. A family is one
        piece of work for one user. So a child of the task does not ask again what its parent was denied, nor
        the other way round: beginning a child would else be the way to ask once more.

        Raises:
            Denied: A person has rejected it.
        """
        task, arguments = request.task, request.arguments
        if not task.questions:  # those of the family: nobody was asked, so nobody has rejected anything
            return
        rejection = await stored(
            self._operations.rejection(task.root_id, request.tool.name, arguments.shown_digest)
        )
        if rejection is not None:
            raise unapproved(CallRejected(f"rejected by {rejection.approver}: {rejection.reason}"))

    def rules_out(self, spec: ToolSpec | None, task: TaskState) -> bool:
        """Return whether each call of a tool in this task would be denied, whatever its arguments.

        That is so without a classification, outside the mandate, and without a broker on the tool's path. It
        is True only where that is sure; what rights and policies say is not looked at.
        """
        if self._options.observe:
            return False
        if spec is None or task.mandate.rules_out(spec):
            return True
        resource = self._ports.catalog.resource(spec.resource)
        return resource is not None and self._routes.find(resource, spec.path) is None

    async def _limits(self, request: AccessRequest) -> tuple[frozenset[str], Resource | None, Route | None]:
        spec, task = request.tool, request.task
        is_taken = partial(self._ports.catalog.is_taken, task.mandate.tools)
        if objection := task.mandate.objection(spec, request.arguments, is_taken):
            raise Denied.of(DenialCode.MANDATE, objection)
        return await self._rights(spec, task)

    async def of_fact(self, request: AccessRequest) -> Evaluation:
        """Return what may be issued to read a fact that the application has declared.

        Raises:
            Denied: User and agent together may not read it, or nobody mints for it.
        """
        scopes, resource, route = await self._rights(request.tool, request.task)
        reason = "the application has declared this fact"
        decision = Decision(effect=Effect.PERMIT, policy_ids=(request.tool.name,), reason=reason)
        return Evaluation(request, decision, scopes, resource, route, self._options.new_id())

    async def _rights(
        self, spec: ToolSpec, task: TaskState
    ) -> tuple[frozenset[str], Resource | None, Route | None]:
        scopes = await effective_scopes(spec, task, self._options.ceiling, self._operations.entitled)
        if (resource := self._ports.catalog.resource(spec.resource)) is None:
            return scopes, None, None
        if (route := self._routes.find(resource, spec.path)) is None:
            raise Denied.of(DenialCode.NO_CREDENTIAL, f"no broker for {spec.resource} on {spec.path}")
        return scopes, resource, route

    async def _decide(self, request: AccessRequest) -> Decision:
        try:
            decision = await self._operations.decide(request)
        except Exception as error:  # noqa: BLE001  a policy that fails, in whatever way, denies
            # of an error that is not ours only the type is told: its text may hold arguments
            why = f": {error}" if isinstance(error, AgentGuardError) else ""
            log.error("the policy failed: %s%s", type(error).__name__, why)
            raise Denied.of(DenialCode.POLICY_ERROR, f"policy failed: {type(error).__name__}{why}") from None
        if not isinstance(decision, Decision) or not isinstance(decision.effect, Effect):
            raise Denied.of(DenialCode.POLICY_ERROR, f"policy answered with {type(decision).__name__}")
        require_permit(decision, request.choice.excess)
        return decision

    async def approve(self, invocation: Invocation, evaluation: Evaluation, span: CallSpan) -> Evaluation:
        """Have a person approve the call, and judge it again with the approval.

        A person takes time. So the request is made anew: what the task has read meanwhile counts, and so does
        its end.

        Raises:
            Denied: Nobody can be asked, the person has not approved, or the rules now say otherwise.
        """
        spec, decision = evaluation.request.tool, evaluation.decision
        if self._options.observe:
            reason = "a person would be asked"
            raise Denied.of(DenialCode.APPROVAL_UNAVAILABLE, reason, policy_ids=decision.policy_ids)
        answers_at_once = getattr(self._ports.approvers.get(spec.path), "answers_at_once", False)
        if not answers_at_once:
            require_reproducible(invocation, decision)
        if not evaluation.repeated:
            span.asked(spec.name, spec.path.value)
        with span.stage("approve"):
            state = _state(invocation)
            approval = await self.approvals.obtain(
                evaluation.request, decision, evaluation.key, answers_at_once, state
            )
            if state is not None and _state(invocation) != state:
                reason = "the state that the tool is given has changed since the approval was asked"
                raise Denied.of(DenialCode.APPROVAL_REFUSED, reason, advice=OTHER_STATE)
            return await self.judge_approved(
                invocation, evaluation._replace(approval=approval, state=state), span
            )

    async def judge_approved(
        self, invocation: Invocation, evaluation: Evaluation, span: CallSpan, share: str = ""
    ) -> Evaluation:
        """Judge a call again that a person has approved, with a request that is made anew.

        *share* is as in `judge`. Facts that were read after the answer are not read once more.

        Raises:
            Denied: The mandate, the rights or the rules say otherwise by now.
        """
        approval = evaluation.approval
        assert approval is not None  # noqa: S101  the caller has obtained it
        facts = NO_FACTS if evaluation.request.approval is None else evaluation.request.facts
        request = replace(await self.requests.of_call(invocation, span, None, facts), approval=approval)
        scopes, resource, route = await self._limits(request)
        self.requests.facts.require(request)
        Counting.require(request)
        if share and request.choice.bits:
            request = uncharged(request, share)
        request, decision = await decided(self._decide, request)
        if self.approvals.version(decision) != approval.policy_version:
            reason = "the policy has changed since the approval was asked"
            raise Denied.of(DenialCode.APPROVAL_REFUSED, reason, advice=CHANGED)
        if decision.obliges("approve"):
            raise Denied.of(DenialCode.OBLIGATION, "the policy asks for the approval that it was given")
        return evaluation._replace(
            request=request, decision=decision, scopes=scopes, resource=resource, route=route
        )

    def permit(self, invocation: Invocation, evaluation: Evaluation) -> Permit:
        """Return the permit of a call that is permitted; its call and its grant have one id.

        Raises:
            Denied: The policy's obligations leave no scope.
        """
        request, approval, route = evaluation.request, evaluation.approval, evaluation.route
        approval_id = None if approval is None else approval.id
        call = self._call(request, evaluation.key, None if route is None else route.name, approval_id)
        lifetime = min(self._options.lifetime, request.task.deadline - call.at)
        token = None if route is None else self._subject_tokens.of(request.task)
        grant = grant_of(evaluation, call.id, lifetime, token, call.at)
        return Permit(invocation, request, evaluation.decision, grant, call, route, state=evaluation.state)

    def observed(self, invocation: Invocation, request: AccessRequest, denied: Denied) -> Permit:
        """Return a permit without a grant for a call that is denied, where the guard only observes.

        Raises:
            Denied: The guard enforces, or observing does not let this denial pass.
        """
        if not self._options.observe or denied.code not in OBSERVED:
            raise denied
        decision = Decision(effect=Effect.DENY, policy_ids=denied.policy_ids, reason=denied.reason)
        key = invocation.key(request.task.id, request.arguments.digest, self._options.new_id())
        call = self._call(replace(request, numbers=(), choice=NO_CHOICE), key, None, None)
        return Permit(invocation, request, decision, None, call, observed=denied)

    def _call(self, request: AccessRequest, key: str, broker: str | None, approval_id: str | None) -> Call:
        return Call(
            id=self._options.new_id(),
            key=key,
            task_id=request.task.id,
            tool=request.tool.name,
            path=request.tool.path,
            at=self._options.clock(),
            broker=broker,
            approval_id=approval_id,
            choice_bits=request.choice.bits,
            numbers=request.numbers,
            additions=request.additions,
            mandate=request.task.mandate,
        )


def _state(invocation: Invocation) -> RunState | None:
    return None if invocation.state is None else RunState.of(invocation.state())
