"""A real MCP server on loopback that believes no client."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import uvicorn

from agentguard import Resource, ToolPath
from agentguard.errors import VerificationError
from agentguard.jose import strict_json
from agentguard.ports import Store
from agentguard.resource import Verifier
from agentguard.resource.headers import challenge

if TYPE_CHECKING:
    from mcp.server.fastmcp import FastMCP  # of mcp 1; a server of mcp 2 has the same method

__all__ = ["PATHS", "PUBLIC", "McpServer", "Seen", "serving"]

PATHS = {"refund_order": ToolPath.WRITE}  # all others read
PUBLIC = frozenset({"public_hours"})
Transport = Literal["http", "sse"]
App = TypeVar("App", "McpServer", "HostileServer")


class Seen(NamedTuple):
    """One HTTP request: its method, that of its JSON-RPC message, and what it presented."""

    method: str
    rpc: str | None
    tool: str | None
    headers: dict[str, str]
    status: int
    meta: Any = None
    id: Any = None

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")


class McpServer:
    """What the server is asked, and whether it verifies: calls, everything, or nothing.

    `redirect` answers calls with a 307 to another place. `scope` refuses calls, since that scope is missing.
    """

    def __init__(self, tools: FastMCP, transport: Transport) -> None:
        self.tools, self.transport = tools, transport
        self.seen: list[Seen] = []
        self.verifies: Literal["calls", "everything", "nothing"] = "nothing"
        self.verifier: Verifier | None = None
        self.redirect: str | None = None
        self.scope: str | None = None
        self.origin = ""
        self._app: Any = tools.streamable_http_app() if transport == "http" else tools.sse_app()

    @property
    def url(self) -> str:
        return f"{self.origin}/{'mcp' if self.transport == 'http' else 'sse'}"

    def believe(self, issuer: str, keys: dict[str, Any], store: Store, **changes: Any) -> None:
        """Verify calls from now on."""
        resource = Resource(name="orders", origins=(self.origin,))
        self.verifier = Verifier(issuer=issuer, keys=keys, resource=resource, store=store, **changes)
        self.verifies = "calls"

    def connection(self, **more: Any) -> dict[str, Any]:
        return {"transport": self.transport, "url": self.url, **more}

    def calls(self) -> list[Seen]:
        return [request for request in self.seen if request.rpc == "tools/call"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await _body(receive) if scope["method"] == "POST" else b""
        message = strict_json(body) if body else {}
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        rpc = message.get("method")
        params = message.get("params") or {}
        status, extra = 200, dict[str, str]()
        try:
            await self._verify(scope, headers, rpc, params)
        except VerificationError as error:
            nonces = None if self.verifier is None else self.verifier.nonces
            nonce = nonces.current() if nonces and error.error == "use_dpop_nonce" else None
            status, extra = error.status, challenge(error, nonce=nonce)
        if rpc == "tools/call" and self.redirect is not None:
            status, extra = 307, {"location": self.redirect}
        if rpc == "tools/call" and self.scope is not None:
            demand = f'Bearer error="insufficient_scope", scope="{self.scope}"'
            status, extra = 403, {"www-authenticate": demand}
        asked = (rpc, params.get("name"), headers, status, params.get("_meta"), message.get("id"))
        self.seen.append(Seen(scope["method"], *asked))
        if status != 200:
            await _answer(send, status, extra)
            return
        again = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Any:
            return again.pop() if again else await receive()

        await self._app(scope, replay, send)

    async def _verify(self, scope: Any, headers: Any, rpc: str | None, params: Any) -> None:
        called = params.get("name") if rpc == "tools/call" else None
        public = called is None or called in PUBLIC
        if self.verifies == "nothing" or (self.verifies == "calls" and public):
            return
        assert self.verifier is not None
        await self.verifier.averify(
            scope["method"],
            self.origin + scope["path"],
            headers,
            path=PATHS.get(called or "", ToolPath.READ),
            tool=called,
            arguments=params.get("arguments", {}) if called else None,
        )


async def _body(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _answer(send: Any, status: int, headers: dict[str, str]) -> None:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": json.dumps({"refused": status}).encode()})


class HostileServer:
    """An MCP server of a few lines, which says of its one tool ``pay`` and of the result what it likes."""

    transport: Transport = "http"

    def __init__(self, output_schema: dict[str, Any], structured: dict[str, Any]) -> None:
        self.origin, self.calls = "", 0
        self.tool = {"name": "pay", "inputSchema": {"type": "object"}, "outputSchema": output_schema}
        self.result = {"content": [{"type": "text", "text": "paid"}], "structuredContent": structured}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = strict_json(await _body(receive)) if scope["method"] == "POST" else {}
        self.calls += message.get("method") == "tools/call"
        hello = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}}
        results = {
            "initialize": {**hello, "serverInfo": {"name": "hostile", "version": "1"}},
            "tools/list": {"tools": [self.tool]},
            "tools/call": self.result,
        }
        answer = {
            "jsonrpc": "2.0",
            "id": message.get("id"),
            "result": results.get(str(message.get("method")), {}),
        }
        status = 405 if scope["method"] != "POST" else 200 if "id" in message else 202
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send(
            {"type": "http.response.body", "body": json.dumps(answer).encode() if status == 200 else b""}
        )


@contextmanager
def serving(tools: FastMCP, transport: Transport = "http") -> Iterator[McpServer]:
    """Serve *tools* in a thread, on a port of its own, until the end of the block."""
    with served(McpServer(tools, transport)) as app:
        yield app


@contextmanager
def served(app: App) -> Iterator[App]:
    """Serve an application in a thread, on a port of its own, until the end of the block."""
    lifespan: Any = "on" if isinstance(app, McpServer) else "off"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app.origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            app, log_config=None, ws="none", lifespan=lifespan, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield app
        finally:
            server.should_exit = True
            thread.join(10)
