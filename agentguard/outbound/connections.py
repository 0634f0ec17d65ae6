"""The HTTP connections of one `Outbound`: one client for threads, and one for each event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary, finalize

import httpx

from agentguard.concurrency.abandonable import AbandonableThreads
from agentguard.concurrency.drive import lift
from agentguard.concurrency.fork import ProcessLock, in_child
from agentguard.outbound.deadline import AsyncDeadlineTransport, DeadlineTransport

__all__ = ["Connections"]

_UNLIMITED = httpx.Limits(max_connections=None, max_keepalive_connections=20)


class Connections:
    """Opens httpx clients with these *options* when they are first needed.

    *check* sees each request before it is sent, and raises if it may not be sent. It must not hold this
    object, whose connections are closed when it is dropped. The number of connections has no limit of its
    own: requests of one user that hang would else keep those of others from being sent.

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
        self._of_parents, self._lock = list[_Open](), ProcessLock()  # a signal's handler may close this
        self._begin()
        in_child(self._begin_in_child)

    def _begin(self) -> None:
        self._open = _Open()
        self._finalizer = finalize(self, _close, self._open)  # of connections that nobody has closed
        self._finalizer.atexit = False

    def _begin_in_child(self) -> None:
        # referenced, since a client that is collected closes its connections
        self._of_parents.append(self._open)
        self._finalizer.detach()
        self._begin()

    def client(self) -> httpx.Client:
        """Return the client of the synchronous path."""
        with self._lock:
            if self._open.client is None:
                hooks = {"request": [self._check]}
                transport = self._transport or DeadlineTransport(
                    self._options["verify"], _UNLIMITED, self._resolver
                )
                self._open.client = httpx.Client(transport=transport, event_hooks=hooks, **self._options)
            return self._open.client

    async def loop_client(self) -> httpx.AsyncClient:
        """Return this event loop's client. It is closed when the loop shuts down."""
        loop, clients = asyncio.get_running_loop(), self._open.clients
        if loop not in clients:
            hooks = {"request": [lift(self._check)]}
            transport = self._async_transport or AsyncDeadlineTransport(
                self._options["verify"], _UNLIMITED, self._resolver
            )
            closer = _opened(httpx.AsyncClient(transport=transport, event_hooks=hooks, **self._options))
            clients[loop] = await anext(closer)
            self._open.closers[loop] = closer
        return clients[loop]

    def close(self) -> None:
        """Close the clients: the synchronous one now, and those of event loops soon, each on its loop."""
        with self._lock:
            _close(self._open)


async def _opened(client: httpx.AsyncClient) -> AsyncGenerator[httpx.AsyncClient]:
    # at its end an event loop closes asynchronous generators, and nothing else
    async with client:
        yield client


class _Open:
    """The clients of one process."""

    def __init__(self) -> None:
        self.client: httpx.Client | None = None
        # a connection belongs to the event loop that opened it
        self.clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()
        self.closers: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[httpx.AsyncClient]] = (
            WeakKeyDictionary()
        )


def _close(clients: _Open) -> None:
    client, clients.client = clients.client, None
    clients.clients.clear()
    clients.closers.clear()  # a generator that is dropped is closed by its event loop
    if client is not None:
        client.close()
