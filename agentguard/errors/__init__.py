"""Every exception that agentguard raises on purpose.

    AgentGuardError
    ├── ConfigurationError        a file, a catalog or a policy is wrong: where, and how to correct it
    ├── Denied                    this call may not happen: a code, a reason, an advice
    ├── TaskError                 the task cannot make this call
    │   ├── TaskNotActive         the task is over, unknown, or past its deadline
    │   ├── BudgetExhausted       the task's budget of calls or writes is used up
    │   │   └── ChoiceExhausted   the call would say more by which values are in it than the task may
    │   ├── CountersChanged       other calls have changed what the call was judged by
    │   │   └── MandateChanged    the mandate by which the call was judged was renewed
    │   └── CountersFull          a number or the number of values cannot grow any more
    ├── ApprovalError             an approval is unknown, expired, used, or for something else
    │   ├── ApprovalUsed          the call that it was for was made
    │   └── CallRejected          a person has rejected such a call
    ├── IdentityError             the platform gave no identity, or no token that proves it
    ├── IssueError                a broker could not mint or revoke a credential
    │   ├── GrantMissing          the user has not given what the credential needs: code, issuer, URL
    │   └── RevocationUnknown     it does not know the handle, so nothing was revoked
    ├── FactError                 a record that rules look at cannot be read; its text holds no value
    ├── CredentialUnavailable     there is no live credential in this context
    ├── DestinationRefused        a request would carry a credential to an origin of another resource
    ├── VerificationError         a resource refuses a presented token or proof
    ├── StoreError                the store did not answer, or gave an invalid answer
    └── AuditError                the audit log cannot be written, or has been altered

No message holds a secret. `Denied.advice` is the only text that is written for a model.
"""

from __future__ import annotations

import os
from pathlib import Path

from agentguard.errors.denial_codes import ADVICE, DenialCode

__all__ = [
    "ADVICE",
    "AgentGuardError",
    "ApprovalError",
    "ApprovalUsed",
    "AuditError",
    "BudgetExhausted",
    "CallRejected",
    "ChoiceExhausted",
    "ConfigurationError",
    "CountersChanged",
    "CountersFull",
    "CredentialUnavailable",
    "DenialCode",
    "Denied",
    "DestinationRefused",
    "FactError",
    "GrantMissing",
    "IdentityError",
    "IssueError",
    "MandateChanged",
    "RevocationUnknown",
    "StoreError",
    "TaskError",
    "TaskNotActive",
    "VerificationError",
    "denial",
    "safe_text",
    "told",
]


class AgentGuardError(Exception):
    """The base class: catch it to catch every exception that agentguard raises on purpose."""


class ConfigurationError(AgentGuardError):
    """A file, catalog or policy is wrong. The message says where, and `hint` says what to change."""

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


class Denied(AgentGuardError):
    """A call may not happen.

    `reason` is written for the operator and may name policies. `advice` is written for the model: it
    says what the model can do instead, and reveals nothing about policies. `str()` returns only the
    advice, so an error that reaches a model's context, a trace or a checkpoint reveals nothing. With
    `ends_session`, a policy obliges the guard to end the tasks of the call's family.
    """

    def __init__(
        self,
        code: DenialCode,
        reason: str,
        *,
        advice: str,
        policy_ids: tuple[str, ...] = (),
        decision_id: str = "",
        ends_session: bool = False,
    ) -> None:
        super().__init__(advice)
        self.code, self.reason, self.advice, self.policy_ids = code, reason, advice, policy_ids
        self.decision_id, self.ends_session = decision_id, ends_session

    @classmethod
    def of(
        cls,
        code: DenialCode,
        reason: str,
        *,
        advice: str = "",
        policy_ids: tuple[str, ...] = (),
        decision_id: str = "",
        ends_session: bool = False,
    ) -> Denied:
        """Return a denial with the fixed advice of its code, unless a policy gives its own *advice*."""
        return cls(
            code,
            reason,
            advice=advice or ADVICE[code],
            policy_ids=policy_ids,
            decision_id=decision_id,
            ends_session=ends_session,
        )


class TaskError(AgentGuardError):
    """The task cannot make this call."""


class TaskNotActive(TaskError):
    """The task, or one of its ancestors, is unknown, completed, revoked or expired."""


class BudgetExhausted(TaskError):
    """The task, or one of its ancestors, has used up its budget of calls or writes."""


class ChoiceExhausted(BudgetExhausted):
    """The task has fewer choice bits left than the call says. The call may yet be permitted without them."""


class CountersChanged(TaskError):
    """Other calls have changed a number by which the call was judged. It has to be judged anew."""


class MandateChanged(CountersChanged):
    """The mandate by which the call was judged was renewed meanwhile. It has to be judged anew."""


class CountersFull(TaskError):
    """A sum would be too large to be exact, or an argument has had too many different values."""


class ApprovalError(AgentGuardError):
    """An approval is unknown, expired or already used, or it is for another call."""


class ApprovalUsed(ApprovalError):
    """The call that the approval is for was made."""


class CallRejected(ApprovalError):
    """A person has rejected such a call."""


class IdentityError(AgentGuardError):
    """The platform gave no identity, or no token that proves it. `str()` says why and holds no secret."""


class IssueError(AgentGuardError):
    """A broker could not mint or revoke a credential. `str()` says why and holds no secret."""


class GrantMissing(IssueError):
    """An issuer needs something of the user first: a login, a consent, a stronger proof of who they are.

    `code` is one word for what is missing, such as ``consent_required`` (OpenID Connect Core 1.0 section
    3.1.2.6). `issuer` is the URL of who says so. `url` is the page where the user gives it, or None: the
    configuration has named it, or the issuer itself, at its own origin. A broker takes it from nobody else.
    """

    def __init__(self, problem: str, *, code: str, issuer: str = "", url: str | None = None) -> None:
        super().__init__(problem)
        self.code, self.issuer, self.url = code, issuer, url


class RevocationUnknown(IssueError):
    """A broker does not know a handle and has revoked nothing: what was minted, if it was, ends by itself."""


class FactError(AgentGuardError):
    """The source of a fact has no answer. The text, which is recorded, holds nothing of a record."""


class CredentialUnavailable(AgentGuardError):
    """There is no live credential: no guarded call runs here, it has ended, or it is for another resource."""


class DestinationRefused(AgentGuardError):
    """A request or redirect would carry a credential to an origin that its resource does not have."""


class VerificationError(AgentGuardError):
    """A resource refuses a request. `error` is a code of RFC 6750 section 3.1 or RFC 9449."""

    def __init__(self, error: str, description: str, *, status: int = 401) -> None:
        super().__init__(f"{error}: {description}" if error else description)
        self.error, self.description, self.status = error, description, status


class StoreError(AgentGuardError):
    """The store did not answer in time, or gave an invalid answer. The caller must deny the call.

    `str()` says why and holds no secret; `hint` says what an operator can do, if that is known.
    """

    def __init__(self, problem: str = "", *, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


class AuditError(AgentGuardError):
    """The audit log cannot be written, or a record in it was changed, removed, inserted or reordered.

    `str()` says why and holds no secret.
    """


def safe_text(error: Exception) -> str:
    """Return the part of an error that may be logged or recorded.

    `IssueError`, `IdentityError`, `StoreError` and `AuditError` promise that their text holds no secret. Of
    an error of the operating system, what the system says is returned, such as "No space left on device".
    Of any other error only the name of its class is returned.
    """
    name, texts = type(error).__name__, list[str]()
    if isinstance(error, IssueError | IdentityError | StoreError | AuditError):
        texts.append(str(error))
    elif isinstance(error, TimeoutError):
        texts.append("there was no answer in time")
    for part in (error, error.__cause__):
        if isinstance(part, OSError) and part.errno is not None:
            texts.append(os.strerror(part.errno))
    words = list[str]()
    for text in filter(None, texts):
        if not any(text in word for word in words):
            words.append(text)
    return ": ".join([name, *words])


def denial(
    code: DenialCode, reason: str, *, advice: str = "", ids: tuple[str, ...] = (), decision_id: str = ""
) -> Denied:
    """Return `Denied.of(...)`, by the name that it had before."""
    return Denied.of(code, reason, advice=advice, policy_ids=ids, decision_id=decision_id)


told = safe_text  # the name that it had before
