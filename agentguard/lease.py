"""How a running tool gets its credential: from a lease in a ContextVar, never from its arguments.

A lease is a handle to the credential, not the secret. The guard opens it when the tool's body is
entered and closes it when the call ends. A closed lease gives nothing, so a thread or a background task
that outlives the call holds a useless handle.

A lease does not protect a secret from other code of the same process: in-process Python is no security
boundary. A stray copy of the secret becomes harmless because its credential is revoked at the issuer.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from threading import Thread, current_thread
from threading import enumerate as enumerate_threads
from typing import NoReturn, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from agentguard.errors import CredentialUnavailable, DenialCode, Denied
from agentguard.model import Credential, Resource
from agentguard.outbound.challenges import Challenge

__all__ = ["Lease", "bind", "credential", "current", "live_secrets", "secrets_of"]

P = ParamSpec("P")
R = TypeVar("R")

_current: ContextVar[Lease | None] = ContextVar("agentguard_lease", default=None)
_open: dict[int, Lease] = {}  # by id; the leases that are open in this process, for redaction only
# the secrets of ended calls in whose time a thread began that still runs, for redaction in that thread only
_outlived: WeakKeyDictionary[Thread, deque[tuple[str, ...]]] = WeakKeyDictionary()
_ENDED = 64  # calls of which one thread keeps the secrets; a pool's thread may outlive many


class McpCalls:
    """The calls of MCP servers within one call, since none ran: how many run, and how many are over.

    `before` is to how many requests the credential was attached before them.
    """

    __slots__ = ("before", "over", "running")

    def __init__(self) -> None:
        self.before = self.over = self.running = 0


class Lease:
    """A credential for the length of one call. `resource` is None if the tool needs no credential.

    `task_id` is the task of the call, in which a task begins that the tool begins.

    The lease calls `report_anomaly(kind)` when the tool does what no honest call does: it uses the
    credential after the call has ended (kind ``late``), or for another origin (kind ``destination``).
    `challenge` is what the resource has said when it refused the credential; `agentguard.auth` reads it.
    `is_undelivered` says that a tool of an MCP server was called in this call without the credential;
    `mcp_calls` counts those calls.
    """

    __slots__ = (
        "__attachments",
        "__closed",
        "__credential",
        "__handed_out",
        "__open",
        "__pid",
        "__threads",
        "challenge",
        "is_undelivered",
        "mcp_calls",
        "report_anomaly",
        "resource",
        "task_id",
        "tool",
    )

    def __init__(
        self,
        tool: str,
        resource: Resource | None,
        credential: Credential | None,
        on_anomaly: Callable[[str], None] = lambda _kind: None,
        task_id: str | None = None,
    ) -> None:
        self.task_id = task_id
        self.tool, self.resource, self.report_anomaly = tool, resource, on_anomaly
        self.__credential, self.__pid = credential, os.getpid()
        self.__open = self.__closed = self.__handed_out = self.is_undelivered = False
        self.__attachments, self.mcp_calls = 0, McpCalls()
        self.challenge: Challenge | None = None
        self.__threads: Sequence[Thread] = ()

    def open(self) -> Token[Lease | None]:
        """Make this the lease of the current context; `release` undoes it.

        Raises:
            Denied: The call has ended. A closed lease cannot be opened again.
        """
        if self.__closed:
            raise Denied.of(DenialCode.GRANT_USED, f"the call of {self.tool} is over")
        self.__open = True
        if self.__credential is not None:
            self.__threads = enumerate_threads()
            _open[id(self)] = self
            if self.__closed:  # meanwhile, by another thread
                _open.pop(id(self), None)
        return _current.set(self)

    def release(self, token: Token[Lease | None]) -> None:
        """Close this lease, and restore the lease that the context had before."""
        self.close()
        _current.reset(token)

    def close(self) -> None:
        """Close the lease for good, in every thread and task that holds it."""
        self.__closed = True
        if id(self) in _open and (secrets := self._secrets()):  # a closed lease makes no secret any more
            for thread in set(enumerate_threads()).difference(self.__threads, (current_thread(),)):
                _outlived.setdefault(thread, deque(maxlen=_ENDED)).append(secrets)
        self.__threads = ()
        _open.pop(id(self), None)

    @property
    def is_over(self) -> bool:
        """Whether the call has ended, and its credential with it."""
        return self.__closed

    @property
    def is_unused(self) -> bool:
        """Whether there is a credential that nobody has taken: it was attached to no request."""
        return self.attachments == 0

    @property
    def attachments(self) -> int | None:
        """To how many requests `agentguard.auth` has attached the credential.

        None if there is no credential, or the tool has taken it and attaches it itself.
        """
        return None if self.__credential is None or self.__handed_out else self.__attachments

    def _live(self) -> Credential:
        if self.__pid != os.getpid():  # nobody can close it in a forked child
            raise CredentialUnavailable(f"the credential of {self.tool} belongs to another process")
        if self.__closed or not self.__open:
            self.report_anomaly("late")
            raise CredentialUnavailable(f"the call of {self.tool} is over, and so is its credential")
        if self.__credential is None:
            raise CredentialUnavailable(
                f"{self.tool} has no resource, so it has no credential; name its resource in the catalog"
            )
        return self.__credential

    @property
    def expires_at(self) -> float:
        """The latest time at which the credential expires, in seconds since the epoch."""
        return self._live().expires_at

    def reveal(self) -> str:
        """Return the secret itself, for a client that cannot take an `httpx.Auth`.

        Raises:
            CredentialUnavailable: The call is over, or the secret is long-lived.
        """
        return self._short_lived().reveal()

    @property
    def username(self) -> str:
        """The name to log in with; raises as `reveal`, and if the credential has no username."""
        return self._field("username")

    @property
    def password(self) -> str:
        """The password to log in with; raises as `reveal`, and if the credential has no password."""
        return self._field("password")

    def env(self) -> dict[str, str]:
        """Return the credential as environment variables, for one subprocess.

        The caller merges them with the other variables that the subprocess needs.

        Raises:
            CredentialUnavailable: The call is over, the secret is long-lived, or the credential cannot
                be given as environment variables.
        """
        variables = self._short_lived().env()
        if not variables:
            raise CredentialUnavailable(
                f"the credential of {self.tool} cannot be given as environment variables"
            )
        return variables

    def headers(self, method: str, url: str, nonce: str | None = None) -> Mapping[str, str]:
        """Return the headers that authenticate this one HTTP request.

        Raises:
            CredentialUnavailable: The call is over, the secret is long-lived (`agentguard.auth`
                attaches it), or it is not an HTTP credential.
        """
        return self._short_lived().headers(method, url, nonce)

    def transport_headers(self, method: str, url: str, nonce: str | None = None) -> Mapping[str, str]:
        """Return the headers as `headers` does, also for a long-lived secret.

        Only for a transport that has checked that *url* belongs to the lease's resource.
        """
        credential = self._live()
        self.__attachments += 1
        return credential.headers(method, url, nonce)

    def _secrets(self) -> tuple[str, ...]:
        """Return the secrets that must not leave the call, for `secrets_of`; also when closed."""
        return () if self.__credential is None else self.__credential.secrets()

    def _short_lived(self) -> Credential:
        """Return the credential to a tool that may have its secret, and note that; a long-lived one stays."""
        credential = self._live()
        if credential.legacy:
            raise CredentialUnavailable(
                f"the key of {self.tool} is long-lived and never handed out; use agentguard.auth"
            )
        self.__handed_out = True
        return credential

    def _field(self, name: str) -> str:
        try:
            return self._short_lived().fields()[name]
        except KeyError:
            raise CredentialUnavailable(f"the credential of {self.tool} has no {name}") from None

    def __repr__(self) -> str:
        return f"<Lease of {self.tool} {'open' if self.__open and not self.__closed else 'closed'}>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a lease cannot be pickled or copied")


def secrets_of(lease: Lease) -> tuple[str, ...]:
    """Return the secrets that must not leave the lease's call. For redaction only; tools do not need it."""
    return lease._secrets()


def current() -> Lease | None:
    """Return the lease of this context, open or closed, or None."""
    return _current.get()


def live_secrets() -> tuple[str, ...]:
    """Return the secrets that must not be logged here. For redaction only.

    These are the secrets of this context's call, also after its end, and those of each call that runs in this
    process: a tool may log from a thread of its own, which knows nothing of the tool's context. In a thread
    that began while a call ran, they are also those of that call, until the thread ends. Not covered is a
    thread that was there before the call and logs after it.
    """
    lease = _current.get()
    leases = list(_open.values())
    if lease is not None and lease not in leases:
        leases.append(lease)
    ended = tuple(_outlived.get(current_thread(), ())) if _outlived else ()
    return tuple(secret for secrets in (*map(secrets_of, leases), *ended) for secret in secrets)


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
    name = None if lease.resource is None else lease.resource.name
    if resource is not None and name != resource:
        content = "no credential" if name is None else f"a credential for {name}"
        raise CredentialUnavailable(f"{lease.tool} has {content}, and none for {resource}")
    return lease


def bind(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap *function* so that it has the lease of this call also in another thread.

    Only the handle is passed on: after the call has ended, the thread has a closed lease.
    """
    lease = _current.get()

    def bound(*args: P.args, **kwargs: P.kwargs) -> R:
        token = _current.set(lease)
        try:
            return function(*args, **kwargs)
        finally:
            _current.reset(token)

    return bound
