"""The methods of a guard that return ASGI applications for other services."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from agentguard.credentials.callers import Caller
from agentguard.credentials.introspection import IntrospectionEndpoint
from agentguard.credentials.local_issuer import LocalIssuer
from agentguard.enforcement.flow import Enforcement
from agentguard.errors import ConfigurationError
from agentguard.tasks.ending import Endings

if TYPE_CHECKING:
    from agentguard.signals import Receiver, SessionRevoked, Source

__all__ = ["EndpointMethods"]


class EndpointMethods:
    """A part of `Guard`."""

    enforcement: Enforcement
    _endings: Endings
    _issuer: str
    _sources: tuple[Source, ...]
    _callers: Callable[[], tuple[Caller, ...]]
    _introspection_rate: float

    def receiver(
        self, sources: Iterable[Source] | None = None, *, audience: str, issuer: str | None = None
    ) -> Receiver:
        """Return an ASGI application by which others end tasks (CAEP ``session-revoked``).

        *sources* say who may send, for which issuers, and what the users of those are called here; by default
        they are those of agentguard.toml. *issuer* is the issuer of our own tasks: a source that speaks for
        it may name any task, credential and `subject` of ours. By default that is the one of
        agentguard.toml, or else the *audience*.

        Another issuer's session ends the tasks whose subject token is of that session, and a user of
        another issuer those whose subject token is of that user, or whose `subject` is the user's name here.
        An unknown session of a user ends all tasks of that user. If a signal ended nothing, the log has a
        warning and the audit log a record.
        """
        from agentguard.signals import Receiver

        our_issuer = issuer or self._issuer or audience

        async def end(event: SessionRevoked) -> None:
            await self._endings.async_.end_by_signal(event, our_issuer)

        sources = self._sources if sources is None else sources
        return Receiver(sources, audience=audience, store=self.enforcement.ports.store, revoke=end)

    def introspection(self, callers: Iterable[Caller] | None = None) -> IntrospectionEndpoint:
        """Return an ASGI application that tells resource servers which tokens are active (RFC 7662).

        So an API that shares neither machine nor user nor file with the agent refuses a revoked token at
        once: ``Verifier(..., introspection=Introspection(url, client, ...))``. It tells about tokens of the
        embedded issuer. *callers* say who may ask, for which resources; by default they are those of
        agentguard.toml, whose secrets are read now. A ``GET`` of ``/jwks.json`` returns the public keys.
        Mounted at ``/introspect``, its URL is ``.../introspect/``: without the last slash a mount redirects.
        It reads the guard's store: one in memory is that of its own process alone. Under
        ``uvicorn --workers`` an answer takes 40 ms more without uvloop, since asyncio then delays it.

        Raises:
            ConfigurationError: There is no caller, no embedded issuer, or a caller's keys are unusable.
            IssueError: The source of a caller's secret gave none.
        """
        ports = self.enforcement.ports
        brokers = dict.fromkeys(ports.brokers.values())
        issuers = [broker for broker in brokers if isinstance(broker, LocalIssuer)]
        callers = self._callers() if callers is None else tuple(callers)
        if not issuers or not callers:
            raise ConfigurationError(
                "nobody may ask, or there is no embedded issuer to ask about",
                hint="add a table [introspection.callers.NAME]",
            )
        rate, clock = self._introspection_rate, self.enforcement.options.clock
        return IntrospectionEndpoint(issuers, callers, store=ports.store, rate=rate, clock=clock)
