"""The Protocols: what a guard needs from the world, and may be given by anyone.

Write the method, its `a…` twin, or both. An adapter that answers without waiting for anything
sets ``inline = True`` and is then called on the event loop without a thread. One whose ``a…`` twins only
hand the blocking methods to a thread sets ``blocking = True``: a guard may then ask it several things in one
thread of its own. Whatever an adapter
raises, or a late answer, is a denied call. Each Protocol has a contract suite in
`agentguard.testing`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from agentguard.model import (
    NO_READ_EFFECTS,
    AccessRequest,
    Approval,
    Call,
    Credential,
    Decision,
    Grant,
    Label,
    LiveCredential,
    Outcome,
    ReadEffects,
    Secret,
    TaskState,
    TaskStatus,
    ToolPath,
    ToolSpec,
)

__all__ = [
    "Approver",
    "AuditLog",
    "Broker",
    "BrokerTraits",
    "CatalogAware",
    "Entitlements",
    "IdentitySource",
    "Policy",
    "Store",
    "Transmitter",
]


@runtime_checkable
class Policy(Protocol):
    """A policy decision point (PDP): answers one request, without side effects.

    The same request gives the same decision and the same policy ids. `version` changes when the
    rules do; an approval that was asked under another version does not hold.
    """

    @property
    def version(self) -> str:
        """Names the rules in force."""

    def decide(self, request: AccessRequest) -> Decision:
        """Answer the request."""


@runtime_checkable
class CatalogAware(Protocol):
    """A policy that is checked against the agent's tools: told of each change of the catalog."""

    def check_tools(self, tools: Iterable[ToolSpec]) -> None:
        """Check the rules against all the tools known now.

        Raises:
            ConfigurationError: A rule names a tool or an argument that does not exist.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerTraits:
    """What a broker says of itself; a broker without ``traits`` has the defaults.

    - `legacy`: its credentials are long-lived, and are not minted for a call.
    - `reuse`: the paths on which one credential may serve several calls of one task. It is then revoked
      when the task ends.
    - `binds_arguments`: a credential is for one set of arguments, and so is a reused one.
    - `outlives`: seconds that a credential may live beyond the end of its grant, where the issuer has
      lifetimes of its own. One that may have been minted, and of which no more is known, counts as alive so
      long.
    - `notes_in`: an optional fast path. If revoking only means to `remember` one key in this store, the
      broker returns the key and its time by ``note``. A guard on the same store writes them in the
      transaction that ends the call, and does not call `revoke`.
    """

    legacy: bool = False
    reuse: frozenset[ToolPath] = frozenset()
    binds_arguments: bool = True
    outlives: float = 0.0
    notes_in: Store | None = None


@runtime_checkable
class Broker(Protocol):
    """Turns a grant into a credential, and revokes it. One broker serves the paths it says.

    `paths` is structure and not a hint: a guard refuses at start to use a broker for a path that it
    does not list. A broker may have more, which a guard reads once:

    - ``traits``: what it says of itself, as `BrokerTraits`.
    - ``prepare(grant) -> str``: returns the handle of what is about to be minted. The guard records it before
      it calls `issue`, so that a crash in between loses track of nothing.
    - ``note(handle, expires_at) -> (key, until)``: see `BrokerTraits.notes_in`.
    """

    @property
    def paths(self) -> frozenset[ToolPath]:
        """The paths that this broker can mint for."""

    def issue(self, grant: Grant) -> Credential:
        """Mint at most what the grant says.

        Raises:
            IssueError: It cannot, or the grant is for a path that it does not serve.
        """

    def revoke(self, handle: str, expires_at: float) -> None:
        """Make the credential useless at once; revoking twice, or what has expired, is no error.

        *expires_at* is that of the credential; for one of which the guard has seen no more than its grant, it
        is the end of the grant.

        Raises:
            RevocationUnknown: The handle is unknown here, so nothing was revoked.
            IssueError: It is not known to be revoked.
        """


@runtime_checkable
class Approver(Protocol):
    """Obtains a person's consent to one exact call.

    Optional attribute: `answers_at_once` is True if `approve` never lets a call wait for a later run. Without
    it, a call whose arguments are computed anew on each run is denied before `approve` is called.
    """

    def approve(self, pending: Approval, request: AccessRequest) -> Approval:
        """Return the approval with its answer, or raise to let the call wait.

        Raises:
            ApprovalError: Nobody can be asked here.
        """


@runtime_checkable
class IdentitySource(Protocol):
    """What the agent's platform says the agent is."""

    def actor(self) -> str:
        """Return the workload's identity, such as a SPIFFE ID, at once and without waiting.

        Raises:
            IdentityError: It is not known (yet).
        """

    def token(self, audience: str) -> Secret:
        """Return a token, for one audience, that proves the identity there.

        Raises:
            IdentityError: The platform gave none, or none for this audience.
        """


@runtime_checkable
class Entitlements(Protocol):
    """What users may do, as the organization's directory knows it."""

    def scopes(self, subject: str, resource: str) -> Collection[str] | None:
        """Return the scopes of the subject on a resource; None if it may do nothing there.

        Whatever it raises means that the rights are unknown, and the call is denied.
        """


@runtime_checkable
class Store(Protocol):
    """State that all processes of an application share. Each method is atomic.

    Any method may raise StoreError; the caller then denies.
    """

    def create_task(self, state: TaskState) -> None:
        """Record a new task."""

    def task(self, task_id: str) -> TaskState | None:
        """Return the task as it is now, or None."""

    def begin_call(self, call: Call, credential: LiveCredential | None) -> None:
        """Count the call against its task and all that it descends from, and record *credential*.

        Uses up `call.approval_id`, if set. A call whose key is suspended is resumed: it counts
        nothing, and may use the approval that it used before.

        Raises:
            TaskNotActive: The task or one of its lineage is unknown, ended, or past its deadline.
            BudgetExhausted: One of their budgets is used up; nothing was counted.
            ApprovalError: The approval is unknown, unanswered, expired, used, or not for this call.
        """

    def track(self, credential: LiveCredential) -> None:
        """Record a credential whose handle is known only after issue, for a call that has begun.

        Raises:
            TaskNotActive: The task ended while it was minted; it is recorded, and must be revoked.
        """

    def end_call(
        self,
        call_id: str,
        outcome: Outcome,
        *,
        effects: ReadEffects = NO_READ_EFFECTS,
        revoked: bool = False,
        remember: tuple[str, float] | None = None,
    ) -> None:
        """Note how the call ended, what its task has read by it, and as `forget` and `remember` do.

        The task and all that it descends from have then read it. Its labels are kept for the oldest of
        these and all its descendants together, and counted in each one's `labels`. With `LABELS` of them, an
        untrusted one is dropped; a trusted one is dropped with `LABELS` + `TRUSTED_LABELS`.
        """

    def labels(self, family: str, digests: Collection[str]) -> Iterable[Label]:
        """Return the labels with these digests that are kept for a task and all its descendants."""

    def forget(self, call_id: str) -> None:
        """Note that the call's credentials are revoked."""

    def live(self, task_id: str | None = None) -> tuple[LiveCredential, ...]:
        """Return what is not yet known to be revoked, of the task and its descendants, or of all."""

    def end_task(
        self, task_id: str, status: TaskStatus, owed: Iterable[LiveCredential] = ()
    ) -> tuple[str, ...]:
        """End the task and all its descendants; returns the ids of those that ended now.

        The first end stands: ending an ended task changes nothing. With each end, and not without
        it, the *owed* are recorded as live, as that task's: its id is their `task_id`, and follows
        what they say as `call_id` and `handle`.
        """

    def active(self, subject: str) -> tuple[str, ...]:
        """Return the ids of the tasks of *subject* that are active."""

    def remember(self, key: str, until: float) -> bool:
        """Record *key* until that time; returns False if it was recorded before."""

    def known(self, key: str) -> bool:
        """Return whether *key* is recorded and its time is not over."""

    def save_approval(self, approval: Approval) -> Approval:
        """Record a pending approval, unless one with its id exists; returns the one recorded.

        A new one is counted in `questions` of its task and of all that the task descends from, in the same
        transaction.

        Raises:
            ApprovalError: It has an answer already, or a person has rejected such a call (see `rejection`).
            BudgetExhausted: One of these tasks has used up its questions; nothing was recorded or counted.
            TaskNotActive: One of these tasks is unknown, ended, or past its deadline.
        """

    def answer_approval(self, approval: Approval) -> None:
        """Record a person's answer to a pending approval.

        Raises:
            ApprovalError: It is unknown or already answered; or it is approved after its expiry, or after a
                person has rejected such a call (see `rejection`). A late rejection is recorded.
        """

    def approval(self, approval_id: str) -> Approval | None:
        """Return an approval, or None."""

    def approval_for(self, call_key: str) -> Approval | None:
        """Return the newest approval that was asked for this call, or None."""

    def rejection(self, family: str, tool: str, shown_digest: str) -> Approval | None:
        """Return a rejection of such a call in the family of a task, or None.

        *family* is the `TaskState.root_id` of the tasks; a rejection holds for all of them, and is kept as
        long as that oldest task is.
        """


@runtime_checkable
class Transmitter(Protocol):
    """Tells somebody that a task is over. A guard's outbox carries it, as it does a revocation."""

    def notice(self, subject: str, cause: str, at: float) -> str:
        """Return the handle of what is to be told, to be completed by the task's id; no secret is in it."""

    def revoke(self, handle: str, expires_at: float) -> None:
        """Tell it; telling it twice is no error.

        Raises:
            IssueError: It is not known to have arrived.
        """


@runtime_checkable
class AuditLog(Protocol):
    """The durable, tamper-evident record."""

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record before returning; its values are JSON and hold no secret.

        Raises:
            AuditError: It could not be written.
        """

    def records(self, task_id: str | None = None) -> Iterable[Mapping[str, Any]]:
        """Return the records in order, of one task and its descendants or of all."""
