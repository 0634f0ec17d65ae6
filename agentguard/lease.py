"""The way a credential reaches a running tool: out of band, by a lease in a ContextVar.

A lease is a handle and not the secret. It opens when the tool itself is entered, closes when the
call ends, and a closed one answers nothing; so a thread or a background task that outlives the call
holds a dead handle. In-process Python is no security boundary: what makes a stray copy harmless is
that its credential is revoked at the issuer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from typing import NoReturn, ParamSpec, TypeVar

from agentguard.errors import CredentialUnavailable, DenialCode, Denied
from agentguard.model import Credential, Resource

__all__ = ["Lease", "bind", "credential", "current", "live_secrets", "secrets_of"]

P = ParamSpec("P")
R = TypeVar("R")

_current: ContextVar[Lease | None] = ContextVar("agentguard_lease", default=None)


class Lease:
    """A credential for the length of one call; `resource` is None where the tool needs none.

    `anomaly(kind)` is told of what no honest call does: a use after the end (``late``), or towards
    another origin (``destination``).
    """

    __slots__ = ("__closed", "__credential", "__open", "anomaly", "resource", "tool")

    def __init__(
        self,
        tool: str,
        resource: Resource | None,
        credential: Credential | None,
        on_anomaly: Callable[[str], None] = lambda _kind: None,
    ) -> None:
        self.tool, self.resource, self.anomaly = tool, resource, on_anomaly
        self.__credential = credential
        self.__open = self.__closed = False

    def open(self) -> Token[Lease | None]:
        """Make this the lease of the current context; `release` takes it back.

        Raises:
            Denied: Its call has ended: one that is closed opens no more.
        """
        if self.__closed:
            raise Denied.of(DenialCode.GRANT_USED, f"the call of {self.tool} is over")
        self.__open = True
        return _current.set(self)

    def release(self, token: Token[Lease | None]) -> None:
        """Give the context its former lease again, and close this one."""
        self.close()
        _current.reset(token)

    def close(self) -> None:
        """End it for good, in every thread and task that holds it."""
        self.__closed = True

    def _live(self) -> Credential:
        if self.__closed or not self.__open:
            self.anomaly("late")
            raise CredentialUnavailable(f"the call of {self.tool} is over, and its credential with it")
        if self.__credential is None:
            raise CredentialUnavailable(f"{self.tool} has no resource, so it holds no credential")
        return self.__credential

    @property
    def expires_at(self) -> float:
        """When the credential ends at the latest, in seconds since the epoch."""
        return self._live().expires_at

    def reveal(self) -> str:
        """Return the secret itself, for a client that cannot take an `httpx.Auth`.

        Raises:
            CredentialUnavailable: The call is over, or the secret is long-lived.
        """
        return self._handed_over().reveal()

    @property
    def username(self) -> str:
        """The name to log in with; raises as `reveal`, and where the credential has none."""
        return self._field("username")

    @property
    def password(self) -> str:
        """The password to log in with; raises as `reveal`, and where the credential has none."""
        return self._field("password")

    def env(self) -> dict[str, str]:
        """Return variables for the environment of one subprocess, to be merged with what it needs.

        Raises:
            CredentialUnavailable: The call is over, the secret is long-lived, or it has no such form.
        """
        variables = self._handed_over().env()
        if not variables:
            raise CredentialUnavailable(f"the credential of {self.tool} has no form for an environment")
        return variables

    def headers(self, method: str, url: str, nonce: str | None = None) -> Mapping[str, str]:
        """Return the headers that authenticate this one HTTP request.

        Raises:
            CredentialUnavailable: The call is over, the secret is long-lived (`agentguard.auth`
                attaches it), or it is no HTTP credential.
        """
        self._handed_over()
        return self.attached(method, url, nonce)

    def attached(self, method: str, url: str, nonce: str | None = None) -> Mapping[str, str]:
        """Do as `headers`, for the transport that has made sure of the destination."""
        return self._live().headers(method, url, nonce)

    def _secrets(self) -> tuple[str, ...]:
        """Return what must not leave the call, for `secrets_of`; also when the lease is closed."""
        return () if self.__credential is None else self.__credential.secrets()

    def _handed_over(self) -> Credential:
        credential = self._live()
        if credential.legacy:
            raise CredentialUnavailable(
                f"the key of {self.tool} is long-lived and never handed out; use agentguard.auth"
            )
        return credential

    def _field(self, name: str) -> str:
        try:
            return self._handed_over().fields()[name]
        except KeyError:
            raise CredentialUnavailable(f"the credential of {self.tool} has no {name}") from None

    def __repr__(self) -> str:
        return f"<Lease of {self.tool} {'open' if self.__open and not self.__closed else 'closed'}>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a lease cannot be pickled or copied")


def secrets_of(lease: Lease) -> tuple[str, ...]:
    """Return what must not leave the lease's call, for redaction alone: a tool has no use for it."""
    return lease._secrets()


def current() -> Lease | None:
    """Return the lease of this context, open or closed, or None."""
    return _current.get()


def live_secrets() -> tuple[str, ...]:
    """Return what must not leave the call that is running here, for redaction alone."""
    lease = _current.get()
    return secrets_of(lease) if lease else ()


def credential(resource: str | None = None) -> Lease:
    """Return the lease of the guarded call that is running here.

    Raises:
        CredentialUnavailable: No guarded call is running in this context, or it is for another
            resource. A thread that the tool started itself has no context: see `bind`.
    """
    lease = _current.get()
    if lease is None:
        raise CredentialUnavailable(
            "no guarded call runs in this context; in a thread of your own, wrap the function with"
            " agentguard.bind"
        )
    held = None if lease.resource is None else lease.resource.name
    if resource is not None and held != resource:
        holds = "no credential" if held is None else f"a credential for {held}"
        raise CredentialUnavailable(f"{lease.tool} holds {holds}, and none for {resource}")
    return lease


def bind(function: Callable[P, R]) -> Callable[P, R]:
    """Carry the lease of this call into a thread that *function* will run in.

    It carries the handle alone: after the call has ended, the thread finds a dead lease.
    """
    lease = _current.get()

    def bound(*args: P.args, **kwargs: P.kwargs) -> R:
        token = _current.set(lease)
        try:
            return function(*args, **kwargs)
        finally:
            _current.reset(token)

    return bound
