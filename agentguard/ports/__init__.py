"""The Protocols: what a guard needs from the world, and may be given by anyone.

Write the method, its `a…` twin, or both. An adapter that answers without waiting for anything
sets ``inline = True`` and is then called on the event loop without a thread. One whose ``a…`` twins only
hand the blocking methods to a thread sets ``blocking = True``: a guard may then ask it several things in one
thread of its own. Whatever an adapter raises, or a late answer, is a denied call. Each Protocol has a
contract suite in `agentguard.testing`. The Protocol of the state that processes share is in `store`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from agentguard.model import (
    AccessRequest,
    Approval,
    Credential,
    Decision,
    FactSpec,
    Grant,
    Json,
    Secret,
    ToolPath,
    ToolSpec,
)
from agentguard.ports.store import ConditionalStore, Store

__all__ = [
    "Approver",
    "AuditLog",
    "Broker",
    "BrokerTraits",
    "CatalogAware",
    "ConditionalStore",
    "CountsOnDemand",
    "DeclaredFact",
    "Entitlements",
    "FactSource",
    "FactsOnDemand",
    "IdentitySource",
    "Policy",
    "Store",
    "Transmitter",
]


@runtime_checkable
class Policy(Protocol):
    """A policy decision point (PDP): answers one request, without side effects.

    A policy may have ``learn(request, outcome)``, or ``alearn``: it is told how each call that it permitted
    and that has begun has ended, once, by the process that made the call.

    The same request gives the same decision and the same policy ids. `version` changes when the
    rules do; an approval that was asked under another version does not hold.

    A policy may have ``looks_for(tool) -> Looks``: the places inside of the tool's arguments at whose
    provenance it looks. A request holds no others then. Without it, it holds the provenance of all places.
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


@runtime_checkable
class FactsOnDemand(Protocol):
    """A policy that says which facts its rules look at. Any other is given all facts of a tool."""

    def facts_for(self, tool: ToolSpec) -> Collection[str]:
        """Return the names of the facts that the rules in force for this tool look at.

        It is asked for each call, so it answers at once.
        """


@runtime_checkable
class FactSource(Protocol):
    """Reads the record that a fact is. Whatever it raises, or a late answer, is a denied call.

    It reads and changes nothing. What a record says follows from the request's user, its agent, and the key.
    """

    def read(self, request: AccessRequest, key: tuple[Json, ...]) -> Any:
        """Return the record that *key* names, as the type of the fact says; None if there is none.

        *key* holds the values of the arguments that the fact declares for the tool, in order. A model may
        have chosen them.
        """


class DeclaredFact(NamedTuple):
    """A fact, and what reads it."""

    spec: FactSpec
    source: FactSource


@runtime_checkable
class CountsOnDemand(Protocol):
    """A policy that says what it looks at of what calls have done, so that no more is asked of the store."""

    def counts_for(self, tool: ToolSpec) -> Collection[tuple[str, str]] | None:
        """Return what the rules in force may look at in calls of a tool; None for all that is counted.

        Each is whose calls are counted, ``task``, ``user`` or ``agent``, and the tool that they called.
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
    - ``issuer``: the `iss` of its tokens. A signal of a source that speaks for this issuer may name one of
      them by its `jti`.
    - ``jti_of(handle) -> str | None``: returns the `jti` of the token of a handle, or None if unknown.
      A broker needs it whose `jti` is neither the handle nor the id of the grant. It asks no service.
    """

    @property
    def paths(self) -> frozenset[ToolPath]:
        """The paths that this broker can mint for."""

    def issue(self, grant: Grant) -> Credential:
        """Mint at most what the grant says.

        Raises:
            GrantMissing: The issuer asks something of the user first. The guard has the user asked, where it
                can, and asks for the credential again.
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

    Optional attributes:

    - `answers_at_once` is True if `approve` never lets a call wait for a later run. Without it, a call whose
      arguments are computed anew on each run is denied before `approve` is called.
    - `asks_for_grants` is True if `approve` also takes a question about what an issuer misses of the user,
      and lets the run wait. Its question has `grant` in it; what `approve` returns is not read. On each run
      of a resumed step it is given the earlier questions again, unless its ``is_resumed()`` is false.
    """

    def approve(self, pending: Approval, request: AccessRequest) -> Approval:
        """Return the approval with its answer, or raise to let the call wait.

        `Approval.question` is what the person is to be shown.

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
