"""What may be issued for a call, what was issued, and how the call ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, NoReturn

from agentguard.concurrency.fork import ProcessLock
from agentguard.errors import CredentialUnavailable
from agentguard.model.arguments import Json
from agentguard.model.counts import Addition, Cell
from agentguard.model.identity import Identity
from agentguard.model.mandate import Mandate
from agentguard.model.tool import Resource, ToolPath

__all__ = [
    "DETAIL_TYPE",
    "Call",
    "CallKey",
    "Credential",
    "DeferredSecret",
    "Grant",
    "LiveCredential",
    "Outcome",
    "Secret",
]


DETAIL_TYPE = "agentguard_tool_call"
"""The type (RFC 9396, section 2) of the authorization detail that names one exact call."""


class Secret:
    """A secret text. `repr` and `str` do not show it; pickling, copying and JSON refuse it."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        """Return the secret text."""
        return self.__value

    def __repr__(self) -> str:
        return "<Secret redacted>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")


class DeferredSecret:
    """A secret that is made when it is first wanted, and once only, whichever thread wants it first.

    Until then there is nothing that could leave a call: a tool that sends no request pays for no signature.
    """

    __slots__ = ("__locks", "__make", "__value")

    def __init__(self, make: Callable[[], str]) -> None:
        self.__make = make
        # made when it is first wanted, too: of several threads, the first to set it makes the one lock of all
        self.__locks: dict[None, ProcessLock] = {}
        self.__value: str | None = None

    def reveal(self) -> str:
        """Return the secret, made now if it was not made before."""
        if self.__value is None:
            with self.__locks.setdefault(None, ProcessLock()):
                if self.__value is None:
                    self.__value = self.__make()
        return self.__value

    def revealed(self) -> tuple[str, ...]:
        """Return the secret if it was made, for redaction."""
        return () if self.__value is None else (self.__value,)

    def __repr__(self) -> str:
        return "<DeferredSecret redacted>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What may be issued at most for one permitted call.

    `id` is the `jti` of a token that a broker signs itself, and the correlation id elsewhere. `scopes` are
    those that user, agent and task all have. `lifetime` is in seconds, counted from `at`, the time of the
    judgement in seconds since the epoch: an issuer that takes its time does not lengthen it. `subject_token`
    proves the user to an issuer, if the application gave one.
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
    subject_token: Secret | None = None
    at: float | None = None

    def ends_at(self, now: float) -> float:
        """Return when a credential that is minted *now* has to end, in seconds since the epoch."""
        return (now if self.at is None else min(now, self.at)) + self.lifetime

    @property
    def audience(self) -> str:
        """The audience of the resource for this path."""
        return self.resource.audience(self.path)

    def detail(self) -> dict[str, Json]:
        """Return the authorization detail (RFC 9396 section 2) that names exactly this call."""
        return {
            "type": DETAIL_TYPE,
            "tool": self.tool,
            "path": self.path.value,
            "locations": list(self.resource.origins),
            "actions": [self.tool],
            "digest": self.digest,
            "digest_alg": "sha-256",
        }


Headers = Callable[[str, str, str | None], Mapping[str, str]]


def _no_headers(_method: str, _url: str, _nonce: str | None) -> Mapping[str, str]:
    raise CredentialUnavailable("this credential is not for HTTP requests")


class Credential:
    """A secret with an expiry, for one resource.

    `repr`, `str` and `format` do not show the secret; pickling, copying and JSON refuse it. `handle` is what
    a broker needs to revoke it, and is no secret. `headers(method, url, nonce)` gives the headers that
    authenticate one HTTP request, and refuses if this is no HTTP credential. `fields` are the parts of a
    credential with several, such as ``username`` and ``password``. `env` holds the environment variables that
    an SDK or a client reads. `secrets` are those of these values that nobody may see, besides *secret*
    itself. `legacy` marks a long-lived key: it is attached to requests, and never handed to a tool. A
    *secret* may be a `DeferredSecret`, which is made when a tool first wants it.
    """

    __slots__ = (
        "__env",
        "__fields",
        "__secret",
        "__secrets",
        "expires_at",
        "handle",
        "headers",
        "id",
        "legacy",
    )

    def __init__(
        self,
        secret: str | DeferredSecret,
        *,
        id: str,
        expires_at: float,
        headers: Headers = _no_headers,
        handle: str | None = None,
        fields: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Iterable[str] = (),
        legacy: bool = False,
    ) -> None:
        self.__secret, self.__secrets = secret, tuple(secrets)
        self.__fields, self.__env = dict(fields or {}), dict(env or {})
        self.id, self.expires_at, self.headers, self.legacy = id, expires_at, headers, legacy
        self.handle = id if handle is None else handle

    def reveal(self) -> str:
        """Return the secret text, for the transport that sends it and for redaction."""
        return self.__secret if isinstance(self.__secret, str) else self.__secret.reveal()

    def secrets(self) -> tuple[str, ...]:
        """Return all values that must not leave the call, for redaction."""
        main_secrets = (self.__secret,) if isinstance(self.__secret, str) else self.__secret.revealed()
        return (*main_secrets, *self.__secrets)

    def fields(self) -> dict[str, str]:
        """Return the parts by name."""
        return dict(self.__fields)

    def env(self) -> dict[str, str]:
        """Return the variables for the environment of one subprocess."""
        return dict(self.__env)

    def __repr__(self) -> str:
        return f"<Credential {self.id} redacted>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a credential cannot be pickled or copied")


class Outcome(StrEnum):
    """How an executed call ended. A SUSPENDED call has neither failed nor is it done: it may be resumed."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUSPENDED = "suspended"


class CallKey(NamedTuple):
    """What a resumed call has in common with the suspended one."""

    key: str
    task_id: str
    tool: str
    path: ToolPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that is about to run, as the store records it before anything is minted.

    `key` stays the same when a suspended call is resumed, so the call is not counted again. `choice_bits` is
    what it says by the choice among values, for the budget of its task. `numbers` are those by which the
    call was judged, and `additions` what it adds to numbers until it has ended without being done. `mandate`
    is that by which it was judged: of its task within each task around it.
    """

    id: str
    key: str
    task_id: str
    tool: str
    path: ToolPath
    at: float
    broker: str | None = None
    approval_id: str | None = None
    choice_bits: int = 0
    numbers: tuple[tuple[Cell, int], ...] = ()
    additions: tuple[Addition, ...] = ()
    mandate: Mandate | None = None

    @property
    def same(self) -> CallKey:
        """What it has in common with a suspended call that it resumes."""
        return CallKey(self.key, self.task_id, self.tool, self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCredential:
    """A credential that was, or may have been, minted and is not yet known to be revoked.

    `owner` names the process whose call it is for. If that process is gone, another one revokes it.
    """

    call_id: str
    task_id: str
    broker: str
    handle: str
    expires_at: float
    owner: str = ""
