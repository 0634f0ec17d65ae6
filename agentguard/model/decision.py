"""The request to a policy and to a person, and their answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from agentguard.model.arguments import Arguments, Json
from agentguard.model.counts import Addition, Cell
from agentguard.model.facts import NO_FACTS, Facts
from agentguard.model.identity import Identity
from agentguard.model.provenance import Provenance
from agentguard.model.task import TaskState
from agentguard.model.tool import ToolPath, ToolSpec

__all__ = ["AccessRequest", "Approval", "ApprovalStatus", "Decision", "Effect", "Obligation"]


SESSION_TERMINATION = "session_termination"
"""The obligation to end the oldest task of the call's family, and with it all of the family's tasks."""

_UNDERSTOOD = frozenset({"approve", "narrow_scopes", "shorten_lifetime", SESSION_TERMINATION})


class Effect(StrEnum):
    """The two answers of a policy. A call that needs a person is a permit with an `approve` obligation."""

    PERMIT = "permit"
    DENY = "deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Obligation:
    """What the guard must do for a permit to hold. The guard denies for a kind that it does not understand.

    Understood kinds: `approve`; `narrow_scopes` {"scopes": [...]}; `shorten_lifetime` {"seconds": n};
    `session_termination`. If a policy still obliges to `approve` when `AccessRequest.approval` is set, the
    guard denies. `session_termination` (AuthZEN Obligations 1.0, draft) is executed with a deny: the oldest
    task of the call's family ends as revoked, and all tasks of the family with it. With a permit, it denies
    too. The other kinds mean nothing with a deny.
    """

    kind: str
    parameters: Mapping[str, Json] = field(default_factory=dict)


class ApprovalStatus(StrEnum):
    """The states of an approval: it is asked for, answered, and used once."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    USED = "used"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A person's answer to one exact call; it holds for nothing else, once, until `expires_at`.

    `call_key` binds task, tool, argument digest, call id and the place of the call in its run;
    `policy_version` the rules under which it was asked. `path` and `purpose` are the tool's and the task's.
    `display` is what a person is shown of the arguments, as JSON: an object with `arguments` and, if there
    are any, `distinctions` and `state`: what the tool is given from the state of its graph, to which the `id`
    is bound. With `grant` in it, the question is another one: an issuer needs something of the user, which
    `grant` names. No call can use an answer to that. `shown_digest` is `Arguments.shown_digest`; it names the
    calls that a rejection holds for.
    """

    id: str
    call_key: str
    task_id: str
    tool: str
    digest: str
    policy_version: str
    expires_at: float
    status: ApprovalStatus = ApprovalStatus.PENDING
    approver: str | None = None
    reason: str = ""
    path: ToolPath = ToolPath.ESCALATION
    purpose: str = ""
    display: str = "{}"
    shown_digest: str = ""

    def question(self) -> dict[str, Json]:
        """Return what a person is shown before they answer, as JSON."""
        display = json.loads(self.display)
        return {
            "type": "agentguard.grant" if "grant" in display else "agentguard.approval",
            "approval_id": self.id,
            "task": self.task_id,
            "purpose": self.purpose,
            "tool": self.tool,
            "path": self.path.value,
            "digest": self.digest,
            "expires_at": self.expires_at,
            **display,
        }

    def answered(self, *, approved: bool, approver: str, reason: str = "") -> Approval:
        """Return this approval with a person's answer in it."""
        status = ApprovalStatus.APPROVED if approved else ApprovalStatus.DENIED
        return replace(self, status=status, approver=approver, reason=reason)


class Choice(NamedTuple):
    """What a call says by which of the values that are vouched for are in it.

    `bits` is what its task is charged when the call begins, with log2 of how many tools the task may call for
    which of them is called; 0 if no value is less sensitive than what the task has read, or if the call is
    permitted all the same where all of them count as the task does. `excess` says, for the operator, why
    these values count as sensitive as the task, though somebody vouches for them; it is empty if they do not.
    """

    bits: int = 0
    excess: str = ""


NO_CHOICE = Choice()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRequest:
    """One question to a policy, after AuthZEN 1.0: subject, action, resource, context.

    `approval` is set when a person has approved this exact call. `environment` holds the application's facts
    about the place where it runs. `legacy` is True if the call would use a long-lived key. `provenance` says
    where the value of each argument came from. `at` is the time, in seconds since the epoch. `distinctions`
    say what the JSON of the arguments does not: ``items[].what: class shop.Publish``. A position in a list is
    left out of them. What rules can see of a request is in the table of `agentguard.model.inputs`.
    `question` is `Approval.question`, what a person is to be shown of the call and of the graph's state that
    the tool is given; only the request that a `CallbackApprover` hands to its function has it. `choice` is
    what the call says by the choice among values; no rule sees it. `facts` are what records of the
    application say about the thing that the call is about.
    `tallies` are what calls of the task have done, by tool, and `user_tallies` and `agent_tallies` by window
    and tool; sums are `Decimal`. `numbers` are the same as the store holds them, `additions` what the call
    adds to them, and `uncounted` says why it cannot be counted, if it cannot.
    """

    identity: Identity
    tool: ToolSpec
    arguments: Arguments
    task: TaskState
    approval: Approval | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    legacy: bool = False
    provenance: Mapping[str, Provenance] = field(default_factory=dict)
    at: float = 0.0
    distinctions: tuple[str, ...] = ()
    question: Mapping[str, Json] = field(default_factory=dict)
    choice: Choice = NO_CHOICE
    tallies: Mapping[str, Json] = field(default_factory=dict)
    user_tallies: Mapping[str, Json] = field(default_factory=dict)
    agent_tallies: Mapping[str, Json] = field(default_factory=dict)
    numbers: tuple[tuple[Cell, int], ...] = ()
    additions: tuple[Addition, ...] = ()
    uncounted: str = ""
    facts: Facts = NO_FACTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A policy's answer.

    `policy_ids` are the policies that determined it. `reason` is for the operator, `advice` for the model.
    `decision_id` is the id of the decision in the log of a remote policy decision point. A deny that is not
    `applicable` says that no rule is about this request: alone it denies; beside other policies it is no
    opinion.
    """

    effect: Effect
    policy_ids: tuple[str, ...] = ()
    reason: str = ""
    advice: str = ""
    obligations: tuple[Obligation, ...] = ()
    policy_version: str = ""
    decision_id: str = ""
    applicable: bool = True

    @property
    def permitted(self) -> bool:
        """Whether the effect is permit. Its obligations may still lead to a deny."""
        return self.effect is Effect.PERMIT

    @property
    def not_understood(self) -> str | None:
        """The first kind of obligation that the guard does not understand, so that it denies; or None."""
        for obligation in self.obligations:
            if obligation.kind not in _UNDERSTOOD:
                return obligation.kind
        return None

    @property
    def ends_session(self) -> bool:
        """Whether the family of the call's task is to end."""
        return self.obliges(SESSION_TERMINATION) is not None

    def obliges(self, kind: str) -> Obligation | None:
        """Return the obligation of that kind, if any."""
        for obligation in self.obligations:
            if obligation.kind == kind:
                return obligation
        return None
