"""The request and the decision of a whole guard, for the tools of authors of policies.

`request_for` makes a request as a call does. `decider` decides it as a call is decided: by the mandate, the
rights of user and agent, the policy and its obligations, and once more with a person's approval. Nothing is
carried out: no record is written, no person is asked, and no credential is minted. The budget and the end of
a task are no part of the decision, since they depend on the moment of the call.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from agentguard.analysis.changes import approved
from agentguard.concurrency.drive import drive
from agentguard.enforcement.evaluation import decision_of
from agentguard.enforcement.flow import Enforcement
from agentguard.errors import DenialCode, Denied
from agentguard.model import AccessRequest, Arguments, Decision, TaskState, ToolSpec

__all__ = ["Decide", "Verdict", "decider", "request_for", "verdict"]

Decide = Callable[[AccessRequest], Decision]
"""Gives the whole decision of a guard (mandate, rights, policy, obligations), and carries out nothing."""


class Verdict(StrEnum):
    """A decision on a call. Asking a person is a verdict of its own."""

    PERMITTED = "permitted"
    ASKED = "asked"
    DENIED = "denied"


def verdict(decision: Decision) -> Verdict:
    """Return the verdict of a decision."""
    if not decision.permitted:
        return Verdict.DENIED
    return Verdict.ASKED if decision.obliges("approve") else Verdict.PERMITTED


def request_for(
    enforcement: Enforcement, spec: ToolSpec, arguments: Arguments, task: TaskState
) -> AccessRequest:
    """Return the request that a guard makes of a call; the task need not be in its store.

    Raises:
        Denied: The store does not tell where the arguments came from.
    """
    return drive(enforcement.sync.authorization.requests.of_tool(spec, arguments, task))


def decider(enforcement: Enforcement) -> Decide:
    """Return a function that gives the guard's decision on a request. A denial is a decision, not an error.

    A request with an `approval` is decided as after a person's answer. If a permit obliges to have a person
    approve, and the guard would deny the call after the approval, the decision is that deny.
    """

    def decide(request: AccessRequest) -> Decision:
        try:
            decision = drive(enforcement.sync.evaluate(request)).decision
            if decision.obliges("approve"):
                if request.approval is not None:
                    reason = "the policy asks for the approval that it was given"
                    raise Denied.of(DenialCode.OBLIGATION, reason, policy_ids=decision.policy_ids)
                if not (second := decide(approved(request))).permitted:
                    return second
        except Denied as denied:
            return decision_of(denied)
        return decision

    return decide
