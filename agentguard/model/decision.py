"""What is asked of a policy and of a person, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from agentguard.model.arguments import Arguments, Json
from agentguard.model.identity import Identity
from agentguard.model.provenance import Provenance
from agentguard.model.task import TaskState
from agentguard.model.tool import ToolSpec

__all__ = ["AccessRequest", "Approval", "ApprovalStatus", "Decision", "Effect", "Obligation"]


_UNDERSTOOD = frozenset({"approve", "narrow_scopes", "shorten_lifetime"})


class Effect(StrEnum):
    """The two answers of a policy; needing a person is a permit with an approval obligation."""

    PERMIT = "permit"
    DENY = "deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Obligation:
    """What the guard must do for a permit to hold; one that it does not understand is a deny.

    Understood kinds: `approve`; `narrow_scopes` {"scopes": [...]}; `shorten_lifetime`
    {"seconds": n}. A policy that still obliges to `approve` when `AccessRequest.approval` is set is
    never satisfied, and so denies.
    """

    kind: str
    parameters: Mapping[str, Json] = field(default_factory=dict)


class ApprovalStatus(StrEnum):
    """An approval is asked, answered, and used once."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    USED = "used"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A person's answer to one exact call; it holds for nothing else, once, until `expires_at`.

    `call_key` binds task, tool, argument digest and call id; `policy_version` the rules under which
    it was asked.
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

    def answered(self, *, approved: bool, approver: str, reason: str = "") -> Approval:
        """Return this approval with a person's answer in it."""
        status = ApprovalStatus.APPROVED if approved else ApprovalStatus.DENIED
        return replace(self, status=status, approver=approver, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRequest:
    """One question to a policy, after AuthZEN 1.0: subject, action, resource, context.

    `approval` is set when a person has approved this exact call; `environment` holds what the
    application says of where it runs; `legacy` says that the call would use a long-lived key; `origins`
    tell where the value of each argument came from; `at` is the time, in seconds since the epoch.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A policy's answer.

    `policy_ids` determined it; `reason` is for the operator, `advice` for the model; `decision_id` is
    the name that a policy decision point elsewhere has for it in its own log. A deny that is not
    `applicable` says that no rule is about this request; alone it denies, and beside other policies it
    has no opinion.
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
        """Whether the effect is permit; obligations may still stand in the way."""
        return self.effect is Effect.PERMIT

    @property
    def not_understood(self) -> str | None:
        """The first kind of its obligations that no guard can meet, for which a permit is a deny."""
        return next((o.kind for o in self.obligations if o.kind not in _UNDERSTOOD), None)

    def obliges(self, kind: str) -> Obligation | None:
        """Return the obligation of that kind, if any."""
        return next((o for o in self.obligations if o.kind == kind), None)
