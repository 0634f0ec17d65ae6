"""The trace of an MCP call: attributes by the conventions, and the context in the request's `_meta`."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from langchain_core.tools import tool
from opentelemetry.trace import format_span_id, format_trace_id

import agentguard
from agentguard.langchain.mcp.http_client import NO_AUTH, CallBounds, client_factory
from agentguard.testing import captured_spans
from tests.conftest import Kit, classified
from tests.doubles.mcp_server import McpServer, serving
from tests.doubles.mcp_shop import shop
from tests.langchain.test_mcp import World


@pytest.fixture(scope="module")
def server() -> Iterator[McpServer]:
    with serving(shop()) as server:
        yield server


async def test_the_trace_of_a_call_is_in_the_request_and_the_span_says_where_it_went(
    server: McpServer,
) -> None:
    world = World(server)
    with captured_spans() as captured:
        world.guard = world.another(
            tracer_provider=captured.tracer_provider,
            brokers=world.guard.enforcement.ports.brokers,
        )
        tool = await world.tool("get_order")
        async with world.task():
            await world.guard.wrap(tool)[0].ainvoke({"order_id": "4711"})
        [span] = [one for one in captured.finished() if one.name.startswith("execute_tool")]
    [call] = world.server.calls()
    assert span.context is not None
    trace, parent = format_trace_id(span.context.trace_id), format_span_id(span.context.span_id)
    assert call.meta["traceparent"].startswith(f"00-{trace}-{parent}-")
    assert call.headers["traceparent"].split("-")[1] == trace
    attributes = dict(span.attributes or {})
    assert attributes["mcp.method.name"] == "tools/call"
    assert str(attributes["mcp.protocol.version"]).startswith("20")
    assert attributes["server.address"] == "127.0.0.1"
    assert attributes["server.port"] == int(world.server.origin.rpartition(":")[2])
    assert attributes["network.transport"] == "tcp"
    assert attributes["mcp.session.id"] == call.headers["mcp-session-id"]
    assert attributes["jsonrpc.request.id"] == str(call.id)


async def test_a_server_that_gives_the_credential_as_its_sessions_id_puts_it_into_no_span(kit: Kit) -> None:
    def echo(_request: httpx.Request) -> httpx.Response:
        session_id = f"of {agentguard.credential('orders').reveal()}\u0007"
        return httpx.Response(200, headers={"mcp-session-id": session_id})

    @tool
    async def look() -> str:
        """Look."""
        factory = client_factory(
            lambda **_: httpx.AsyncClient(transport=httpx.MockTransport(echo)), CallBounds()
        )
        async with factory(auth=NO_AUTH) as client:
            await client.get("https://orders.example")
        return "done"

    with captured_spans() as captured:
        guard = kit.another(tracer_provider=captured.tracer_provider)
        with guard.task("look", subject="alice", mandate={"tools": "*"}):
            await guard.wrap(classified(look))[0].ainvoke({})
        [span] = captured.finished()
    assert (span.attributes or {})["mcp.session.id"] == "of [redacted]\\x07"


async def test_without_a_trace_a_request_has_no_meta(server: McpServer) -> None:
    world = World(server)
    tool = await world.tool("get_order")
    async with world.task():
        await world.guard.wrap(tool)[0].ainvoke({"order_id": "4711"})
    [call] = world.server.calls()
    assert "traceparent" not in (call.meta or {})
