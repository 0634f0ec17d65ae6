"""What may be issued for a call, what was, and how the call ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from agentguard.model.identity import Identity
from agentguard.model.tool import Resource, ToolPath

__all__ = ["Call", "Credential", "Grant", "LiveCredential", "Outcome"]


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
