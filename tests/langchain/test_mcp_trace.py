"""The trace of an MCP call: attributes by the conventions, and the context in the request's `_meta`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.trace import format_span_id, format_trace_id

from agentguard.testing import captured_spans
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


async def test_without_a_trace_a_request_has_no_meta(server: McpServer) -> None:
    world = World(server)
    tool = await world.tool("get_order")
    async with world.task():
        await world.guard.wrap(tool)[0].ainvoke({"order_id": "4711"})
    [call] = world.server.calls()
    assert "traceparent" not in (call.meta or {})
