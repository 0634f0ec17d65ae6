"""The identity that a SPIFFE agent, such as SPIRE's, attests this process to have (Workload API)."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from threading import Event, Thread, current_thread
from typing import Any, Final, NamedTuple

from spiffe import SpiffeId, WorkloadApiClient
from spiffe.errors import PySpiffeError
from spiffe.workloadapi.x509_context import X509Context

from agentguard.concurrency.drive import drive, lift
from agentguard.errors import ConfigurationError, IdentityError
from agentguard.identity.tokens import Denial, Token, Tokens
from agentguard.model import Secret

__all__ = ["SpiffeIdentity"]

_NAME: Final = "the SPIFFE agent"
_DENIED: Final = "PERMISSION_DENIED"  # no identity is registered for this process (Workload API section 6.1)


class SpiffeIdentity:
    """An `IdentitySource` whose actor is a SPIFFE ID, and whose tokens are JWT-SVIDs.

    *socket* is the address of the agent, such as ``unix:///run/spire/agent.sock``; without, it is
    ``SPIFFE_ENDPOINT_SOCKET``. A stream tells of each new identity; when there is none any more, the
    actor and all tokens are forgotten at once. When the agent does not answer, both serve while they
    live. *spiffe_id* chooses one of several identities; without, it is the agent's first.

    Making one waits for the identity, for at most *timeout* seconds, which is also how long any
    question to the agent may take: make it before an event loop runs. An identity that comes later,
    as one does that has just been registered, is found too: after a failure the agent is asked again
    every *pause* seconds. The X.509-SVID that a stream brings is not kept. `close` it.

    Raises:
        ConfigurationError: There is no address, or it is no unix socket's.
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
        self._wanted, self._timeout, self._pause, self._clock = spiffe_id, timeout, pause, clock
        self._identity: _Known | None = None
        self._reason = f"{_NAME} has not answered yet"
        self._tokens = Tokens(_NAME, clock=clock, pause=pause)
        self._closed, self._wake, self._found = Event(), Event(), Event()
        self._thread = Thread(target=self._watch, name="agentguard-spiffe", daemon=True)
        self._thread.start()
        self._found.wait(timeout)

    def actor(self) -> str:
        """Return the SPIFFE ID.

        Raises:
            IdentityError: The agent gave none, or what it gave is over.
        """
        known = self._identity
        if known is None or known.expires_at <= self._clock():
            raise IdentityError(self._reason)
        return known.spiffe_id

    def token(self, audience: str) -> Secret:
        """Return a JWT-SVID for *audience* alone, renewed at half of its life.

        Raises:
            IdentityError: The agent gave none, and there is no living one.
        """
        self.actor()
        return drive(self._tokens.get(audience, lift(self._fetch), self._tokens.share.sync))

    def close(self) -> None:
        """End the stream, and forget the identity."""
        self._closed.set()
        self._wake.set()
        self._thread.join(self._timeout)
        self._forget(f"{self!r} is closed")
        # gRPC's call is in a cycle with its own exception; left to the interpreter's end, its finalizer waits
        # for ever, if a thread of gRPC's was stopped there while it held the call's lock
        gc.collect()

    def _fetch(self, audience: str) -> Token:
        actor = self.actor()
        try:
            with WorkloadApiClient(self._socket) as client:
                svid = client.fetch_jwt_svid({audience}, SpiffeId(actor), timeout=self._timeout)
            token = Token.read(svid.token)
        except PySpiffeError as error:
            if _code(error) == _DENIED:
                self._wake.set()  # the stream will say what the identity is now
                raise Denial(_words(error)) from None
            raise IdentityError(_words(error)) from None
        except ValueError as error:
            raise IdentityError(f"{_NAME}: its token {error}") from None
        if token.subject != actor:
            raise IdentityError(f"{_NAME}: its token is for another identity")
        return token

    # --- the watch, in a thread of its own

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                self._follow()
            except Exception as error:  # noqa: BLE001  whatever it was: a watch that ends would notice no revocation
                if _code(error) == _DENIED:
                    self._forget(_words(error))
                self._reason = _words(error)
            self._closed.wait(self._pause)

    def _follow(self) -> None:
        self._wake.clear()
        if self._closed.is_set():
            return
        with WorkloadApiClient(self._socket) as client:
            # asked before and after, since a stream that ends does not say why
            self._learn(client.fetch_x509_context(timeout=self._timeout))
            watchers = set[Thread]()

            def learn(context: X509Context) -> None:
                watchers.add(current_thread())
                self._learn(context)

            stream = client.stream_x509_contexts(learn, lambda _error: self._wake.set(), retry_connect=False)
            self._wake.wait()
            stream.cancel()
            for watcher in tuple(watchers):  # it has the call, which is over only when it is
                watcher.join(self._timeout)
            if not self._closed.is_set():
                self._learn(client.fetch_x509_context(timeout=self._timeout))

    def _learn(self, context: X509Context) -> None:
        if self._closed.is_set():
            return
        given = {str(svid.spiffe_id): svid for svid in reversed(context.x509_svids)}
        first = str(context.default_svid.spiffe_id)
        svid = given.get(self._wanted or first)
        if svid is None:
            self._forget(f"{_NAME} did not give {self._wanted}")
        else:
            known = _Known(str(svid.spiffe_id), svid.leaf.not_valid_after_utc.timestamp())
            if self._identity is not None and self._identity.spiffe_id != known.spiffe_id:
                self._tokens.forget()
            self._identity, self._reason = known, f"{_NAME} has not renewed the identity"
            self._found.set()

    def _forget(self, reason: str) -> None:
        self._identity, self._reason = None, reason
        self._tokens.forget()

    def __repr__(self) -> str:
        return f"<SpiffeIdentity {self._socket}>"


class _Known(NamedTuple):
    spiffe_id: str
    expires_at: float


def _address(socket: str | None) -> str:
    if socket is None or not socket.startswith("unix:/"):
        raise ConfigurationError(
            f"{socket!r} is no address of a SPIFFE agent", hint="use one such as unix:///run/spire/agent.sock"
        )
    return socket


def _code(error: Exception) -> str:
    """Return the gRPC code that the library wraps, or the name of what went wrong here."""
    answered: Any = getattr(error.__cause__, "code", None)
    return type(error).__name__ if answered is None else str(answered().name)


def _words(error: Exception) -> str:
    return f"{_NAME} gave no identity ({_code(error)})"
