"""The nouns: frozen values without I/O.

Who acts (`Identity`), within which bounds (`Task`, `Mandate`, `Budget`), what is asked
(`AccessRequest`), what was answered (`Decision`), what may be issued (`Grant`), and what came of it
(`Credential`, `Call`). Times are seconds since the epoch, lifetimes are seconds.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NoReturn

import rfc8785

__all__ = [
    "AccessRequest",
    "Approval",
    "ApprovalStatus",
    "Arguments",
    "Budget",
    "Call",
    "Credential",
    "Decision",
    "Effect",
    "Grant",
    "Identity",
    "LiveCredential",
    "Mandate",
    "Obligation",
    "Outcome",
    "Resource",
    "TaskState",
    "TaskStatus",
    "ToolPath",
    "ToolSpec",
]

Json = Any  # a JSON value: mypy has no recursive alias that json.loads would satisfy
ANY = "*"


class ToolPath(StrEnum):
    """READ, WRITE or ESCALATION: each has its own policy scope, broker, audience and approver."""

    READ = "read"
    WRITE = "write"
    ESCALATION = "escalation"


class Effect(StrEnum):
    """The two answers of a policy; needing a person is a permit with an approval obligation."""

    PERMIT = "permit"
    DENY = "deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An authenticated party: for whom (`subject`), and by whom (`actor`).

    `chain` names earlier actors, nearest first, when agents call agents. As in RFC 8693 section
    4.1, only subject and actor decide; the chain is history.
    """

    subject: str
    actor: str
    chain: tuple[str, ...] = ()

    def delegate(self, actor: str) -> Identity:
        """Return the identity of *actor* acting for the same subject, called by this one."""
        return Identity(subject=self.subject, actor=actor, chain=(self.actor, *self.chain))

    def act(self) -> dict[str, Json]:
        """Return the `act` claim of RFC 8693 section 4.1, nested from the current actor inwards."""
        claim: dict[str, Json] = {}
        for actor in reversed((self.actor, *self.chain)):
            claim = {"sub": actor, "act": claim} if claim else {"sub": actor}
        return claim


@dataclass(frozen=True, slots=True)
class Arguments:
    """Validated tool arguments, frozen as RFC 8785 canonical JSON.

    `digest` is base64url(SHA-256(canonical)), without padding. `values` is a fresh copy each time,
    so that whoever changes it changes nothing that was judged.
    """

    canonical: bytes
    digest: str

    @classmethod
    def of(cls, values: Mapping[str, Json]) -> Arguments:
        """Canonicalise *values*.

        Raises:
            ValueError: A value has no JSON form, or is an integer beyond 2**53 or not finite.
        """
        canonical = rfc8785.dumps(dict(values))
        digest = urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()
        return cls(canonical, digest)

    @property
    def values(self) -> dict[str, Json]:
        """The arguments as JSON values, a fresh copy."""
        values: dict[str, Json] = json.loads(self.canonical)
        return values

    def __repr__(self) -> str:
        return f"Arguments(digest={self.digest!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A protected service: its name, and for each path its audience, origins and scopes.

    A credential travels to `origins` (scheme://host[:port]) only.
    """

    name: str
    origins: tuple[str, ...] = ()
    audiences: Mapping[ToolPath, str] = field(default_factory=dict)

    def audience(self, path: ToolPath) -> str:
        """Return the `aud` of credentials for *path*; never the same for two paths."""
        return self.audiences.get(path, f"{self.name}/{path}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """What one tool is, as the catalog knows it.

    `schema` is the JSON Schema of the arguments that the model may give. `sinks` are the arguments
    that name a counterparty (a recipient, an account, a URL). A tool without a resource obtains no
    credential. `untrusted` says that its result may carry text which an attacker wrote.
    """

    name: str
    path: ToolPath
    resource: str | None = None
    scopes: frozenset[str] = frozenset()
    schema: Mapping[str, Json] | None = None
    sinks: frozenset[str] = frozenset()
    untrusted: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many calls, and how many of them on WRITE and ESCALATION paths; None is no limit."""

    calls: int | None = None
    writes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mandate:
    """What a task may touch at most; given by the application or a person, never by the model.

    `tools` is required: no tool is allowed by omission, and ``"*"`` says all aloud. The other
    limits apply where given: `resources` by name; `args` by argument name, each a set of values of
    which the argument must be one (a list: all of them; absent or null: refused); and
    `counterparties` for the arguments that the catalog calls sinks.
    """

    tools: frozenset[str]
    resources: frozenset[str] | None = None
    args: Mapping[str, frozenset[str | int | float | bool]] = field(default_factory=dict)
    counterparties: frozenset[str] | None = None

    @classmethod
    def of(cls, value: Mapping[str, Any] | Mandate) -> Mandate:
        """Read a mandate from its literal form.

        Raises:
            ValueError: `tools` is missing, a key is unknown, or a value has the wrong shape.
        """
        if isinstance(value, Mandate):
            return value
        unknown = set(value) - {"tools", "resources", "args", "counterparties"}
        if unknown:
            raise ValueError(f"a mandate has no {', '.join(sorted(unknown))}")
        if "tools" not in value:
            raise ValueError('a mandate names its tools: {"tools": [...]}, or "*" for all')
        args = {name: frozenset(_listed(allowed)) for name, allowed in value.get("args", {}).items()}
        return cls(
            tools=frozenset(_listed(value["tools"])),
            resources=_optional(value.get("resources")),
            args=MappingProxyType(args),
            counterparties=_optional(value.get("counterparties")),
        )

    def literal(self) -> dict[str, Json]:
        """Return the literal form that `of` reads, in a stable order."""
        form: dict[str, Json] = {"tools": sorted(self.tools)}
        if self.resources is not None:
            form["resources"] = sorted(self.resources)
        if self.args:
            form["args"] = {k: sorted(v, key=repr) for k, v in sorted(self.args.items())}
        if self.counterparties is not None:
            form["counterparties"] = sorted(self.counterparties)
        return form

    def objection(self, tool: ToolSpec, arguments: Arguments) -> str | None:
        """Say what of this call lies outside the mandate, or None."""
        if ANY not in self.tools and tool.name not in self.tools:
            return f"tool {tool.name} is outside the mandate"
        if self.resources is not None and tool.resource not in self.resources:
            return f"resource {tool.resource} is outside the mandate"
        if not self.args and self.counterparties is None:
            return None
        values = arguments.values
        known = set((tool.schema or {}).get("properties", {})) | set(values)
        for name, allowed in self.args.items():
            if name in known and not _within(values.get(name), allowed):
                return f"argument {name} is outside the mandate"
        for name in sorted(tool.sinks) if self.counterparties is not None else ():
            if name in known and not _within(values.get(name), self.counterparties or frozenset()):
                return f"counterparty in {name} is outside the mandate"
        return None

    def narrow(self, other: Mandate) -> Mandate:
        """Return the intersection: what both allow."""
        args = {
            name: _both(self.args.get(name), other.args.get(name)) or frozenset()
            for name in {*self.args, *other.args}
        }
        tools = (
            other.tools
            if ANY in self.tools
            else self.tools
            if ANY in other.tools
            else self.tools & other.tools
        )
        return Mandate(
            tools=tools,
            resources=_both(self.resources, other.resources),
            args=MappingProxyType(args),
            counterparties=_both(self.counterparties, other.counterparties),
        )


def _listed(value: Any) -> Iterable[Any]:
    if isinstance(value, str | int | float | bool):
        return (value,)
    return tuple(value)


def _optional(value: Any) -> frozenset[str] | None:
    return None if value is None else frozenset(_listed(value))


def _both(one: frozenset[Any] | None, two: frozenset[Any] | None) -> frozenset[Any] | None:
    if one is None or two is None:
        return two if one is None else one
    return frozenset(v for v in one if _within(v, two))


def _within(value: Json, allowed: frozenset[Any]) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_within(item, allowed) for item in value)
    if value is None or isinstance(value, dict):
        return False
    # True == 1 in Python, and not in JSON
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in allowed)


class TaskStatus(StrEnum):
    """Where a task is in its life; only an ACTIVE one carries calls, and none comes back."""

    ACTIVE = "active"
    COMPLETED = "completed"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """A task as the store holds it at one moment.

    `lineage` lists the tasks that it descends from, nearest first: it is active only while all of
    them are, and its calls count against the budgets of all. `history` holds the names of the tools
    that were called, each once, in the order of their first call; `untrusted` is True once a tool's
    untrusted result was read.
    """

    id: str
    purpose: str
    identity: Identity
    mandate: Mandate
    deadline: float
    budget: Budget = Budget()
    status: TaskStatus = TaskStatus.ACTIVE
    lineage: tuple[str, ...] = ()
    calls: int = 0
    writes: int = 0
    history: tuple[str, ...] = ()
    untrusted: bool = False

    def ended(self, now: float) -> TaskStatus | None:
        """Return how the task ended, or None while it is active at *now*."""
        if self.status is not TaskStatus.ACTIVE:
            return self.status
        return TaskStatus.EXPIRED if now >= self.deadline else None


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
class Obligation:
    """What the guard must do for a permit to hold; one that it does not understand is a deny.

    Understood kinds: `approve`; `narrow_scopes` {"scopes": [...]}; `shorten_lifetime`
    {"seconds": n}.
    """

    kind: str
    parameters: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRequest:
    """One question to a policy, after AuthZEN 1.0: subject, action, resource, context.

    `approval` is set when a person has approved this exact call; `environment` holds what the
    application says of where it runs.
    """

    identity: Identity
    tool: ToolSpec
    arguments: Arguments
    task: TaskState
    approval: Approval | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A policy's answer.

    `policy_ids` determined it; `reason` is for the operator, `advice` for the model.
    """

    effect: Effect
    policy_ids: tuple[str, ...] = ()
    reason: str = ""
    advice: str = ""
    obligations: tuple[Obligation, ...] = ()
    policy_version: str = ""

    @property
    def permitted(self) -> bool:
        """Whether the effect is permit; obligations may still stand in the way."""
        return self.effect is Effect.PERMIT

    def obliges(self, kind: str) -> Obligation | None:
        """Return the obligation of that kind, if any."""
        return next((o for o in self.obligations if o.kind == kind), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What may be issued for one permitted call, and no more.

    `id` is the `jti` of a token that a broker signs itself, and the correlation id elsewhere.
    """

    id: str
    task_id: str
    identity: Identity
    tool: str
    path: ToolPath
    resource: Resource
    scopes: frozenset[str]
    digest: str
    lifetime: float

    @property
    def audience(self) -> str:
        """The audience of the resource for this path."""
        return self.resource.audience(self.path)


Headers = Callable[[str, str, str | None], Mapping[str, str]]


class Credential:
    """A secret with an expiry, for one resource.

    It shows nothing: `repr`, `str`, `format` are redacted, and pickling, copying and JSON refuse.
    `handle` is what a broker needs to revoke it and is no secret. `headers(method, url, nonce)`
    gives what authenticates one HTTP request.
    """

    __slots__ = ("__secret", "expires_at", "handle", "headers", "id")

    def __init__(
        self, secret: str, *, id: str, expires_at: float, headers: Headers, handle: str | None = None
    ) -> None:
        self.__secret = secret
        self.id, self.expires_at, self.headers = id, expires_at, headers
        self.handle = id if handle is None else handle

    def reveal(self) -> str:
        """Return the secret itself: for the transport that sends it, and for redaction."""
        return self.__secret

    def __repr__(self) -> str:
        return f"<Credential {self.id} redacted>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a credential cannot be pickled or copied")


class Outcome(StrEnum):
    """How an executed call ended; SUSPENDED is neither failed nor done."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that is about to run, as the store records it before anything is minted.

    `key` is the same when a suspended call is resumed: it is then not counted again.
    """

    id: str
    key: str
    task_id: str
    tool: str
    path: ToolPath
    at: float
    broker: str | None = None
    approval_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCredential:
    """A credential that was, or may have been, minted and is not yet known to be revoked."""

    call_id: str
    task_id: str
    broker: str
    handle: str
    expires_at: float
