"""The API of the orders for services under test: it verifies each call, and says for whom it was."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Event, Thread

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from agentguard.model import Resource, ToolPath
from agentguard.resource import Verifier
from agentguard.resource.asgi import Protected, Rule
from agentguard.stores import SqliteStore
from tests.doubles.loopback import listener

__all__ = ["OrdersApi", "orders_api"]


class OrdersApi:
    """Answers with the subject of the token.

    An order that ends in ``-2`` is answered when two of them were asked for, by two workers; one that ends
    in ``-3`` not before it is `released`.
    """

    def __init__(self, origin: str) -> None:
        self.origin, self.hangs, self.released = origin, Event(), Event()
        self._both = Barrier(2)

    async def show(self, request: Request) -> JSONResponse:
        order = request.path_params["order_id"]
        if order.endswith("-2"):
            await run_in_threadpool(self._both.wait, 30)
        if order.endswith("-3"):
            self.hangs.set()
            await run_in_threadpool(self.released.wait)
        return JSONResponse({"order": order, "subject": request.state.agentguard.subject})


@contextmanager
def orders_api(folder: Path) -> Iterator[OrdersApi]:
    """Serve the API for the guard whose configuration is in *folder*, which it shares with the API."""
    place: socket.socket = listener()
    api = OrdersApi(f"http://127.0.0.1:{place.getsockname()[1]}")
    store = SqliteStore(folder / ".agentguard" / "state.db")
    verifier = Verifier(
        issuer="https://agentguard.local",
        keys=str(folder / ".agentguard" / "jwks.json"),
        resource=Resource(name="orders", origins=(api.origin,)),
        store=store,
    )
    app = Starlette(routes=[Route("/orders/{order_id}", api.show)])
    rules = [Rule("GET", "/orders/{order_id}", ToolPath.READ, arguments=lambda request: request.params)]
    server = uvicorn.Server(uvicorn.Config(Protected(app, verifier, rules), log_level="error"))
    thread = Thread(target=server.run, kwargs={"sockets": [place]})
    thread.start()
    try:
        yield api
    finally:
        api.released.set()
        server.should_exit = True
        thread.join()
        store.close()
