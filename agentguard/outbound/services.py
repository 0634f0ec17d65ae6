"""The health of an adapter that asks services over HTTP."""

from __future__ import annotations

import asyncio

from agentguard.concurrency.drive import drive
from agentguard.outbound.client import Outbound

__all__ = ["AsksServices"]


class AsksServices:
    """A part of such an adapter: `health` and `ahealth`, by which a guard learns whether it can be used.

    Nothing is minted, decided or told by that.
    """

    _http: Outbound

    @property
    def services(self) -> tuple[Outbound, ...]:
        """The services that it asks."""
        return (self._http,)

    def health(self) -> None:
        """Ask each service whether it answers at all.

        Raises:
            AgentGuardError: One does not.
        """
        for service in self.services:
            drive(service.probe(service.ask.sync))

    async def ahealth(self) -> None:
        """Do as `health`, without blocking the event loop."""
        await asyncio.gather(*(service.probe(service.ask.async_) for service in self.services))
