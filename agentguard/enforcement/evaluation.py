"""What was decided about a request, and what may be issued for it."""

from __future__ import annotations

import logging
from typing import NamedTuple

from agentguard.enforcement.failures import failure_text
from agentguard.enforcement.routing import Route
from agentguard.enforcement.run_state import RunState
from agentguard.errors import DenialCode, Denied
from agentguard.model import AccessRequest, Approval, Decision, Effect, Grant, Resource, Secret

log = logging.getLogger("agentguard")

__all__ = ["OBSERVED", "Evaluation", "decision_of", "grant_of", "require_permit"]

OBSERVED = frozenset(
    {
        DenialCode.UNKNOWN_TOOL,
        DenialCode.MANDATE,
        DenialCode.POLICY,
        DenialCode.POLICY_ERROR,
        DenialCode.NO_FACT,
        DenialCode.UNCOUNTED,
        DenialCode.OBLIGATION,
        DenialCode.NO_RIGHTS,
        DenialCode.NO_CREDENTIAL,
        DenialCode.APPROVAL_REFUSED,
        DenialCode.APPROVAL_UNAVAILABLE,
    }
)
"""The denials that a guard in observe mode records and lets pass: what rules and rights say, or cannot say.
It never lets pass the end or the budget of a task, nor a store or an audit log that fails."""


class Evaluation(NamedTuple):
    """A request that the mandate, the rights and the policy permit, by itself or with a person's approval.

    `key` names the call (`Invocation.key`). `scopes` are what user, agent and task may do together.
    `approval` is set once a person has approved; `state` is then what the tool is given from the state of its
    graph, as they have approved it. `question` says whether a person is to be asked, and `repeated` whether
    this question was asked before, by the same call.
    """

    request: AccessRequest
    decision: Decision
    scopes: frozenset[str]
    resource: Resource | None
    route: Route | None
    key: str = ""
    approval: Approval | None = None
    repeated: bool = False
    state: RunState | None = None

    @property
    def question(self) -> bool:
        """Whether a person has to be asked before the call may run."""
        return self.approval is None and (self.repeated or self.decision.obliges("approve") is not None)


def undecidable(error: BaseException) -> Denied:
    """Return the denial of a call that cannot be judged, since something raised what no port may raise."""
    return Denied.of(DenialCode.POLICY_ERROR, f"the call cannot be judged: {failure_text(error)}")


def decision_of(denied: Denied) -> Decision:
    """Return a denial as a decision, whose reason begins with the code of the denial."""
    return Decision(
        effect=Effect.DENY,
        policy_ids=denied.policy_ids,
        reason=f"{denied.code}: {denied.reason}",
        advice=denied.advice,
        decision_id=denied.decision_id,
    )


def grant_of(
    evaluation: Evaluation, grant_id: str, lifetime: float, subject_token: Secret | None, at: float | None
) -> Grant | None:
    """Return what may be issued, within the obligations of the decision; None if no credential is needed.

    Raises:
        Denied: The policy leaves no scope.
    """
    request, decision, scopes = evaluation.request, evaluation.decision, evaluation.scopes
    spec, resource = request.tool, evaluation.resource
    if evaluation.route is None or resource is None:
        return None
    if narrower := decision.obliges("narrow_scopes"):
        scopes &= frozenset(narrower.parameters.get("scopes", ()))
        if spec.scopes and not scopes:
            reason = "the policy leaves no scope"
            raise Denied.of(DenialCode.NO_RIGHTS, reason, policy_ids=decision.policy_ids)
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
        digest=request.arguments.json_digest,
        lifetime=lifetime,
        subject_token=subject_token,
        at=at,
    )


def require_permit(decision: Decision, excess: str) -> None:
    """Require a permit whose obligations the guard can fulfil.

    *excess* is the request's `Choice.excess`: the operator is told of it beside the policy's own reason.

    Raises:
        Denied: It is none. The guard still ends the session where the decision obliges to that, also beside
            an obligation that it does not understand.
    """
    unknown = decision.not_understood
    if not decision.permitted:
        if unknown is not None:
            log.warning("an obligation of a deny is not executed: %s is not understood", unknown)
        raise Denied.of(
            DenialCode.POLICY,
            "; ".join(filter(None, (decision.reason or "denied by policy", excess))),
            advice=decision.advice,
            policy_ids=decision.policy_ids,
            decision_id=decision.decision_id,
            ends_session=decision.ends_session,
        )
    if unknown is not None or decision.ends_session:
        raise Denied.of(
            DenialCode.OBLIGATION,
            "the policy ends the session" if unknown is None else f"{unknown} is not understood",
            policy_ids=decision.policy_ids,
            ends_session=decision.ends_session,
        )
