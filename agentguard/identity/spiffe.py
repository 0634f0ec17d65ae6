"""The identity that a SPIFFE agent, such as SPIRE's, attests for this process (Workload API)."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from threading import Event, Lock, Thread, current_thread
from typing import Any, Final, NamedTuple

from spiffe import SpiffeId, WorkloadApiClient
from spiffe.errors import PySpiffeError
from spiffe.workloadapi.x509_context import X509Context

from agentguard.concurrency.drive import drive, lift
from agentguard.concurrency.fork import in_child
from agentguard.errors import ConfigurationError, IdentityError
from agentguard.identity.tokens import IdentityDenied, Token, Tokens
from agentguard.model import Secret

__all__ = ["SpiffeIdentity"]

_NAME: Final = "the SPIFFE agent"
_DENIED: Final = "PERMISSION_DENIED"  # no identity is registered for this process (Workload API section 6.1)


class SpiffeIdentity:
    """An `IdentitySource` whose actor is a SPIFFE ID and whose tokens are JWT-SVIDs. `close` it after use.

    *socket* is the agent's address, such as ``unix:///run/spire/agent.sock``; by default it is
    ``SPIFFE_ENDPOINT_SOCKET``. The agent sends each new identity in a stream. If it says that this
    process has no identity any more, the actor and all tokens are forgotten at once. If it does not
    answer, they serve until they expire. *spiffe_id* chooses one of several identities; by default it
    is the agent's first.

    The constructor waits for the identity for at most *timeout* seconds: call it before an event loop
    runs. Each request to the agent may take *timeout* seconds too. An identity that is registered later
    is found as well: after a failure the agent is asked again every *pause* seconds. The X.509-SVIDs of
    the stream are not stored.

    Raises:
        ConfigurationError: There is no address, or it is not that of a unix socket.
    """

    def __init__(
        self,
        socket: str | None = None,
        *,
        spiffe_id: str | None = None,
        timeout: float = 3.0,
        pause: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._socket = _address(socket or os.environ.get("SPIFFE_ENDPOINT_SOCKET"))
        self._spiffe_id, self._timeout, self._pause, self._clock = spiffe_id, timeout, pause, clock
        self._reason = f"{_NAME} has not answered yet"
        self._tokens = Tokens(_NAME, clock=clock, pause=pause)
        self._is_closed = False
        self._forget_process()
        in_child(self._forget_process)
        self._start()

    def _forget_process(self) -> None:
        # a child has no thread that would notice a revocation: it begins its own when it is asked who it is
        self._identity: _Identity | None = None
        self._thread: Thread | None = None
        self._closed, self._wake, self._has_identity = Event(), Event(), Event()
        self._starting, self._has_begun = Lock(), False

    def actor(self) -> str:
        """Return the SPIFFE ID.

        Raises:
            IdentityError: The agent gave no identity, or the identity has expired.
        """
        self._start()
        identity = self._identity
        if identity is None or identity.expires_at <= self._clock():
            raise IdentityError(self._reason)
        return identity.spiffe_id

    def token(self, audience: str) -> Secret:
        """Return a JWT-SVID for *audience* alone. It is renewed after half of its life.

        Raises:
            IdentityError: The agent gave none, and there is no valid one.
        """
        self.actor()
        return drive(self._tokens.get(audience, lift(self._fetch), self._tokens.share.sync))

    def close(self) -> None:
        """End the stream, and forget the identity."""
        self._is_closed = True
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(self._timeout)
        self._forget(f"{self!r} is closed")
        # gRPC's call and its exception refer to each other, so only the garbage collector ends the call. At
        # the interpreter's exit its finalizer could wait forever for a lock of a gRPC thread that was stopped
        gc.collect()

    def _fetch(self, audience: str) -> Token:
        actor = self.actor()
        try:
            with WorkloadApiClient(self._socket) as client:
                svid = client.fetch_jwt_svid({audience}, SpiffeId(actor), timeout=self._timeout)
            token = Token.read(svid.token)
        except PySpiffeError as error:
            if _code(error) == _DENIED:
                self._wake.set()  # the watching thread asks what the identity is now
                raise IdentityDenied(_reason(error)) from None
            raise IdentityError(_reason(error)) from None
        except ValueError as error:
            raise IdentityError(f"{_NAME}: its token {error}") from None
        if token.subject != actor:
            raise IdentityError(f"{_NAME}: its token is for another identity")
        return token

    # --- the watching thread

    def _start(self) -> None:
        if self._has_begun or self._is_closed:
            return
        with self._starting:
            if self._has_begun:
                return
            if self._thread is None or not self._thread.is_alive():
                # before it starts: after Ctrl-C the next caller finds it, and begins no other
                self._thread = Thread(target=self._watch, name="agentguard-spiffe", daemon=True)
                self._thread.start()
            self._has_identity.wait(self._timeout)
            self._has_begun = True

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                self._follow()
            except BaseException as error:  # noqa: BLE001  a panic too: if the thread ended, it would notice no revocation
                if _code(error) == _DENIED:
                    self._forget(_reason(error))
                self._reason = _reason(error)
            self._closed.wait(self._pause)

    def _follow(self) -> None:
        self._wake.clear()
        if self._closed.is_set():
            return
        with WorkloadApiClient(self._socket) as client:
            # asked before and after the stream, since a stream that ends does not say why
            self._update(client.fetch_x509_context(timeout=self._timeout))
            watchers = set[Thread]()

            def update(context: X509Context) -> None:
                watchers.add(current_thread())
                self._update(context)

            stream = client.stream_x509_contexts(update, lambda _error: self._wake.set(), retry_connect=False)
            self._wake.wait()
            stream.cancel()
            for watcher in tuple(watchers):  # the call is over when its thread is
                watcher.join(self._timeout)
            if not self._closed.is_set():
                self._update(client.fetch_x509_context(timeout=self._timeout))

    def _update(self, context: X509Context) -> None:
        if self._closed.is_set():
            return
        svids = {str(svid.spiffe_id): svid for svid in reversed(context.x509_svids)}
        first = str(context.default_svid.spiffe_id)
        svid = svids.get(self._spiffe_id or first)
        if svid is None:
            self._forget(f"{_NAME} did not give {self._spiffe_id}")
        else:
            identity = _Identity(str(svid.spiffe_id), svid.leaf.not_valid_after_utc.timestamp())
            if self._identity is not None and self._identity.spiffe_id != identity.spiffe_id:
                self._tokens.forget()
            self._identity, self._reason = identity, f"{_NAME} has not renewed the identity"
            self._has_identity.set()

    def _forget(self, reason: str) -> None:
        self._identity, self._reason = None, reason
        self._tokens.forget()

    def __repr__(self) -> str:
        return f"<SpiffeIdentity {self._socket}>"


class _Identity(NamedTuple):
    spiffe_id: str
    expires_at: float


def _address(socket: str | None) -> str:
    if socket is None or not socket.startswith("unix:/"):
        raise ConfigurationError(
            f"{socket!r} is not the address of a SPIFFE agent",
            hint="use one such as unix:///run/spire/agent.sock",
        )
    return socket


def _code(error: BaseException) -> str:
    """Return the gRPC status code in the library's error, or the name of the error's type."""
    code: Any = getattr(error.__cause__, "code", None)
    return type(error).__name__ if code is None else str(code().name)


def _reason(error: BaseException) -> str:
    return f"{_NAME} gave no identity ({_code(error)})"
