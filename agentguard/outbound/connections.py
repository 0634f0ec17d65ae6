"""The HTTP connections of one `Outbound`: one client for threads, and one for each event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import httpx

from agentguard.concurrency.abandonable import AbandonableThreads
from agentguard.concurrency.drive import lift
from agentguard.concurrency.fork import in_child
from agentguard.outbound.deadline import AsyncDeadlineTransport, DeadlineTransport

__all__ = ["Connections"]

_UNLIMITED = httpx.Limits(max_connections=None, max_keepalive_connections=20)


class Connections:
    """Opens httpx clients with these *options* when they are first needed.

    *check* sees each request before it is sent, and raises if it may not be sent. The number of connections
    has no limit of its own: requests of one user that hang would else keep those of others from being sent.

    A forked child opens its own. It neither sends on its parent's connections nor closes them.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        check: Callable[[httpx.Request], None],
        transport: httpx.BaseTransport | None,
        async_transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self._options, self._check = {**options, "limits": _UNLIMITED}, check
        self._transport, self._async_transport = transport, async_transport
        self._resolver = AbandonableThreads("the resolver of names")
        self._of_parents: list[object] = []
        self._begin()
        in_child(self._begin_in_child)

    def _begin(self) -> None:
        self._client: httpx.Client | None = None
        self._lock = Lock()
        # a connection belongs to the event loop that opened it
        self._closers: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[httpx.AsyncClient]] = (
            WeakKeyDictionary()
        )
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()

    def _begin_in_child(self) -> None:
        # referenced, since a client that is collected closes its connections
        self._of_parents.append((self._client, self._clients, self._closers))
        self._begin()

    def client(self) -> httpx.Client:
        """Return the client of the synchronous path."""
        with self._lock:
            if self._client is None:
                hooks = {"request": [self._check]}
                transport = self._transport or DeadlineTransport(
                    self._options["verify"], _UNLIMITED, self._resolver
                )
                self._client = httpx.Client(transport=transport, event_hooks=hooks, **self._options)
            return self._client

    async def loop_client(self) -> httpx.AsyncClient:
        """Return this event loop's client. It is closed when the loop shuts down."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            closer = self._open_client()
            self._clients[loop] = await anext(closer)
            self._closers[loop] = closer
        return self._clients[loop]

    def close(self) -> None:
        """Close the synchronous client. The asynchronous ones close with their event loop."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def _open_client(self) -> AsyncGenerator[httpx.AsyncClient]:
        hooks = {"request": [lift(self._check)]}
        transport = self._async_transport or AsyncDeadlineTransport(
            self._options["verify"], _UNLIMITED, self._resolver
        )
        # at its end an event loop closes asynchronous generators, and nothing else
        async with httpx.AsyncClient(transport=transport, event_hooks=hooks, **self._options) as client:
            yield client
