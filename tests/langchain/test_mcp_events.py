"""What a hostile MCP server sends beside its answer, and what an ordinary one may."""

from __future__ import annotations

import asyncio
import json
import logging
from time import thread_time
from typing import Any

import anyio
import pytest
from langchain_mcp_adapters.callbacks import Callbacks
from langchain_mcp_adapters.client import MultiServerMCPClient

from agentguard import Resource
from agentguard.catalog import Catalog
from agentguard.jose import strict_json
from agentguard.langchain.mcp.http_client import CallBounds
from agentguard.model import ToolPath, ToolSpec
from tests.conftest import Kit, tool_call
from tests.doubles.mcp_server import HostileServer, served


def _event(**members: Any) -> bytes:
    return b"event: message\r\ndata: " + json.dumps({"jsonrpc": "2.0", **members}).encode() + b"\r\n\r\n"


def _notice(method: str, **params: Any) -> bytes:
    return _event(method=f"notifications/{method}", params=params)


class _Streaming(HostileServer):
    """A server that answers a call by *events*, and then by its result if *ends* is true."""

    def __init__(self, events: bytes, ends: bool = True) -> None:
        super().__init__({"type": "object"}, {"x": 1})
        self.events, self.ends, self.requests = events, ends, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += 1
        request = await receive()
        message = strict_json(request.get("body", b"{}")) if scope["method"] == "POST" else {}
        if scope["method"] == "POST" and "method" not in message:  # an answer of the client
            head = [(b"content-length", b"0")]  # so that the test waits for no acknowledgement of TCP
            await send({"type": "http.response.start", "status": 202, "headers": head})
            await send({"type": "http.response.body"})
            return
        is_resumed = scope["method"] == "GET" and b"last-event-id" in dict(scope["headers"])
        if message.get("method") == "tools/call" or is_resumed:
            await self._stream(message.get("id"), send)
            return
        waiting = [request]

        async def again() -> Any:
            return waiting.pop() if waiting else await receive()

        await super().__call__(scope, again, send)

    async def _stream(self, call_id: Any, send: Any) -> None:
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for start in range(0, len(self.events), 50_000):
            part = self.events[start : start + 50_000]
            await send({"type": "http.response.body", "body": part, "more_body": True})
        last = _event(id=call_id, result=self.result) if self.ends else b""
        await send({"type": "http.response.body", "body": last})


async def _pay(app: _Streaming, way: str, callbacks: Callbacks | None = None) -> tuple[Kit, Any]:
    kit = Kit()
    with served(app) as server:
        api = Resource(name="api", origins=(server.origin,))
        spec = ToolSpec(
            name="pay", path=ToolPath.WRITE, resource="api", schema={"type": "object"}, server="shop"
        )
        guard = kit.another(catalog=Catalog([spec], [api]))
        servers: Any = {"shop": {"transport": "streamable_http", "url": f"{server.origin}/mcp"}}
        client = MultiServerMCPClient(
            servers, tool_interceptors=[guard.mcp_interceptor()], callbacks=callbacks
        )
        (tool,) = await client.get_tools()
        if way == "wrap":
            (tool,) = guard.wrap(tool)
        app.requests = 0
        async with guard.task("pay", subject="alice", mandate={"tools": "*"}), asyncio.timeout(30):
            try:
                return kit, await tool.ainvoke(tool_call("pay"))
            except TimeoutError:
                raise
            except Exception as error:  # noqa: BLE001  the tool's failure is looked at
                return kit, error


STREAMS = {
    "events that are no JSON": b"data:x\n\n" * 20_000,
    "events of an unknown kind": b"event:x\n\n" * 20_000,
    "events without data": b"id:1\n" + b"\n" * 50_000,
    "ends of lines of the old kind": b"data:x\r\r" * 20_000,
    "comments": b":\n" * 50_000,
    "notices": _notice("message", level="info", data="x") * 4_000,
    "pings": _event(id=7, method="ping") * 400,
    "requests of no known method": _event(id=7, method="x") * 400,
    "questions that nobody answers": _event(id=7, method="roots/list") * 400,
}


@pytest.mark.exhaustive
@pytest.mark.promise("mcp-call-bounded")
@pytest.mark.parametrize("way", ["wrap", "interceptor"])
@pytest.mark.parametrize("stream", STREAMS)
async def test_a_stream_of_events_without_end_is_cut_off_and_the_call_fails(stream: str, way: str) -> None:
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # a traceback for each event takes longer
    app, start = _Streaming(STREAMS[stream]), thread_time()
    kit, answer = await _pay(app, way)
    assert "more than is read" in str(answer) or "more requests than" in str(answer)
    assert (len(kit.broker.revoked), kit.outcomes()) == (1, ["failed"])
    assert app.requests <= 102
    assert thread_time() - start < 5  # measured: 0.2 to 0.6 s; it was 1 to 20 s, and a hundred times that


@pytest.mark.promise("mcp-call-bounded")
async def test_a_stream_that_ends_and_begins_anew_is_not_followed_for_ever() -> None:
    app = _Streaming(b"id: 1\r\nretry: 0\r\ndata:\r\n\r\n", ends=False)
    kit, answer = await _pay(app, "wrap")
    assert "more requests than" in str(answer)
    assert (len(kit.broker.revoked), kit.outcomes()) == (1, ["failed"])
    assert app.requests <= 102


@pytest.mark.promise("mcp-call-bounded")
async def test_a_call_that_takes_too_long_fails() -> None:
    with pytest.raises(TimeoutError), CallBounds(0.01).around():
        await anyio.sleep(60)


@pytest.mark.parametrize("way", ["wrap", "interceptor"])
async def test_an_ordinary_server_may_tell_of_its_progress_and_ask(way: str) -> None:
    told = list[Any]()

    async def note(*arguments: Any, **_more: Any) -> None:
        told.append(arguments)

    progress = b"".join(_notice("progress", progressToken=1, progress=n, total=500) for n in range(500))
    texts = b"".join(_notice("message", level="info", data=f"row {n}") for n in range(500))
    pings = b"".join(_event(id=n, method="ping") for n in range(40)) + b": ping - 2026-01-01\r\n\r\n" * 240
    callbacks = Callbacks(on_progress=note, on_logging_message=note)
    app = _Streaming(progress + texts + pings)
    kit, answer = await _pay(app, way, callbacks)
    assert answer.content[0]["text"] == "paid"
    assert len(told) == 1_000
    assert (len(kit.broker.revoked), kit.outcomes()) == (1, ["done"])
