"""Every exception that agentguard raises on purpose.

    AgentGuardError
    ├── ConfigurationError        a file, a catalog or a policy is wrong: where, and how to correct it
    ├── Denied                    this call may not happen: a code, a reason, an advice
    ├── TaskError                 the task cannot carry this
    │   ├── TaskNotActive         it is over, unknown, or past its deadline
    │   └── BudgetExhausted       its budget of calls or writes is used up
    ├── ApprovalError             an approval is unknown, expired, used, or for something else
    ├── IdentityError             the platform gave no identity, or no token that proves it
    ├── IssueError                a broker could not mint or revoke
    ├── CredentialUnavailable     no live credential in this context
    ├── DestinationRefused        a request would carry a credential to an origin that is not its own
    ├── VerificationError         a resource refuses a presented token or proof
    ├── StoreError                shared state did not answer, or answered nonsense
    └── AuditError                the audit log cannot be written, or has been altered

No message holds a secret. `Denied.advice` is the only text meant for a model.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

__all__ = [
    "ADVICE",
    "AgentGuardError",
    "ApprovalError",
    "AuditError",
    "BudgetExhausted",
    "ConfigurationError",
    "CredentialUnavailable",
    "DenialCode",
    "Denied",
    "DestinationRefused",
    "IdentityError",
    "IssueError",
    "StoreError",
    "TaskError",
    "TaskNotActive",
    "VerificationError",
    "safe_text",
]


class AgentGuardError(Exception):
    """The root: catch this to catch everything that agentguard raises on purpose."""


class ConfigurationError(AgentGuardError):
    """A file, catalog or policy is wrong; the message says where and what to change."""

    def __init__(
        self,
        problem: str,
        *,
        hint: str = "",
        file: str | Path | None = None,
        line: int | None = None,
    ) -> None:
        self.problem, self.hint, self.line = problem, hint, line
        self.file = None if file is None else str(file)
        place = ":".join(str(part) for part in (self.file, line) if part is not None)
        text = f"{place}: {problem}" if place else problem
        super().__init__(f"{text}\n  hint: {hint}" if hint else text)


class DenialCode(StrEnum):
    """Why a call was denied; one stable word for code, spans and audit records."""

    NO_TASK = "no_task"
    NO_CALL_ID = "no_call_id"
    UNKNOWN_TOOL = "unknown_tool"
    INVALID_ARGUMENTS = "invalid_arguments"
    FORGED_ARGUMENT = "forged_argument"
    ARGUMENTS_CHANGED = "arguments_changed"
    GRANT_USED = "grant_used"
    NOT_EXECUTED = "not_executed"
    WITHHELD = "withheld"
    MANDATE = "mandate"
    POLICY = "policy"
    POLICY_ERROR = "policy_error"
    OBLIGATION = "obligation"
    APPROVAL_REFUSED = "approval_refused"
    APPROVAL_UNAVAILABLE = "approval_unavailable"
    TASK_ENDED = "task_ended"
    BUDGET = "budget"
    NO_IDENTITY = "no_identity"
    NO_RIGHTS = "no_rights"
    NO_CREDENTIAL = "no_credential"
    STORE_ERROR = "store_error"
    AUDIT_ERROR = "audit_error"
    UNGUARDED = "unguarded"


class Denied(AgentGuardError):
    """A call may not happen.

    `reason` is for the operator and may name policies; `advice` is for the model, says what it
    may do instead, and reveals nothing about policies. `str()` gives the advice alone, so that an
    error which travels into a model's context, a trace or a checkpoint stays harmless.
    """

    def __init__(
        self,
        code: DenialCode,
        reason: str,
        *,
        advice: str,
        policy_ids: tuple[str, ...] = (),
        decision_id: str = "",
    ) -> None:
        super().__init__(advice)
        self.code, self.reason, self.advice, self.policy_ids = code, reason, advice, policy_ids
        self.decision_id = decision_id

    @classmethod
    def of(
        cls,
        code: DenialCode,
        reason: str,
        *,
        advice: str = "",
        policy_ids: tuple[str, ...] = (),
        decision_id: str = "",
    ) -> Denied:
        """Return a denial with the fixed advice of its code, unless a policy gives its own *advice*."""
        advice = advice or ADVICE[code]
        return cls(code, reason, advice=advice, policy_ids=policy_ids, decision_id=decision_id)


class TaskError(AgentGuardError):
    """The task cannot carry this call."""


class TaskNotActive(TaskError):
    """The task, or one that it descends from, is unknown, completed, revoked or expired."""


class BudgetExhausted(TaskError):
    """The task, or one that it descends from, has used up its calls or its writes."""


class ApprovalError(AgentGuardError):
    """An approval is unknown, expired, already used, or was given for something else."""


class IdentityError(AgentGuardError):
    """The platform gave no identity, or no token that proves it; `str()` says why and holds no secret."""


class IssueError(AgentGuardError):
    """A broker could not mint or revoke a credential; `str()` says why and holds no secret."""


class CredentialUnavailable(AgentGuardError):
    """No live credential here: outside a guarded call, after its end, or for another resource."""


class DestinationRefused(AgentGuardError):
    """A request or redirect would carry a credential to an origin that is not its resource's."""


class VerificationError(AgentGuardError):
    """A resource refuses a request; `error` is the code of RFC 6750 section 3.1 or RFC 9449."""

    def __init__(self, error: str, description: str, *, status: int = 401) -> None:
        super().__init__(f"{error}: {description}")
        self.error, self.description, self.status = error, description, status


class StoreError(AgentGuardError):
    """Shared state did not answer in time, or answered nonsense; whoever asked must deny."""


class AuditError(AgentGuardError):
    """The audit log cannot be written, or a record was changed, removed, inserted or reordered."""


ADVICE = {
    DenialCode.NO_TASK: "This call belongs to no task. Ask the user to start the task again.",
    DenialCode.NO_CALL_ID: "The call has no id. Make it again.",
    DenialCode.UNKNOWN_TOOL: "This tool is not available here. Use another tool.",
    DenialCode.INVALID_ARGUMENTS: "The arguments do not fit the tool's schema. Correct them.",
    DenialCode.FORGED_ARGUMENT: "An argument was given that only the application may give. Leave it out.",
    DenialCode.ARGUMENTS_CHANGED: "The call was changed after it was judged, and did not run.",
    DenialCode.GRANT_USED: "This permission was used already. Make the call again if it is needed.",
    DenialCode.NOT_EXECUTED: "The call was replaced after it was judged. Its result is withheld.",
    DenialCode.WITHHELD: "The call was made, and its result is withheld. Do not repeat it; tell the user.",
    DenialCode.MANDATE: "This is outside the current task. Go on with the task, or tell the user.",
    DenialCode.POLICY: "This is not permitted here. Go on without it, or tell the user.",
    DenialCode.POLICY_ERROR: "Permission could not be determined. Do not retry at once; tell the user.",
    DenialCode.OBLIGATION: "A condition for this call cannot be met here. Tell the user.",
    DenialCode.APPROVAL_REFUSED: "A person did not approve this call. Do not try it again; tell the user.",
    DenialCode.APPROVAL_UNAVAILABLE: "This call needs a person's approval, and nobody can be asked here.",
    DenialCode.TASK_ENDED: "The task is over. Nothing more can be done in it.",
    DenialCode.BUDGET: "The task's budget is used up. Finish with what you have, or tell the user.",
    DenialCode.NO_IDENTITY: "The agent could not prove who it is. The call did not run. Try later.",
    DenialCode.NO_RIGHTS: "Neither user nor agent may do this together. Go on without it, or tell the user.",
    DenialCode.NO_CREDENTIAL: "No credential could be had for this call. It did not run. Try later.",
    DenialCode.STORE_ERROR: "Permission could not be determined. Do not retry at once; tell the user.",
    DenialCode.AUDIT_ERROR: "The call could not be recorded, so it did not run. Tell the user.",
    DenialCode.UNGUARDED: "This tool ran without permission and was stopped.",
}


def safe_text(error: Exception) -> str:
    """Return the part of an error that may be logged or recorded.

    `IssueError` and `IdentityError` promise that their text holds no secret; of any other error only
    the name of its class is returned.
    """
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, IssueError | IdentityError) else name
