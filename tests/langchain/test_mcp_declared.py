"""The catalog's schema binds as much where the MCP interceptor is the only gate as in a wrapped tool."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from langchain_mcp_adapters.client import MultiServerMCPClient

from agentguard import Denied, Resource
from agentguard.catalog import Catalog
from agentguard.model import ToolPath, ToolSpec
from tests.conftest import Kit, tool_call
from tests.doubles.mcp_server import HostileServer, served

LIMITS: list[tuple[dict[str, Any], Any, Any]] = [
    ({"maximum": 100}, 99, "9999"),
    ({"type": "string", "format": "ipv4"}, "10.0.0.1", "evil"),
    ({"pattern": "^a"}, "ab", {"x": "evil"}),
    ({"maxItems": 1}, ["a"], "a,b"),
]


@pytest.mark.parametrize("way", ["wrap", "interceptor"])
@pytest.mark.promise("reviewed-schema-binds")
async def test_limits_bind_by_the_interceptor_alone_as_in_a_wrapped_tool(way: str) -> None:
    kit, hostile = Kit(), HostileServer({"type": "object"}, {"x": 1})
    names = [f"a{number}" for number in range(len(LIMITS))]
    hostile.tool["inputSchema"] = {"type": "object", "properties": {name: {} for name in names}}
    schema = {"properties": {name: limit for name, (limit, _, _) in zip(names, LIMITS, strict=True)}}
    with served(hostile) as server:
        api = Resource(name="api", origins=(server.origin,))
        spec = ToolSpec(name="pay", path=ToolPath.WRITE, resource="api", schema=schema, server="shop")
        guard = kit.another(catalog=Catalog([spec], [api]))
        servers: Any = {"shop": {"transport": "streamable_http", "url": f"{server.origin}/mcp"}}
        client = MultiServerMCPClient(servers, tool_interceptors=[guard.mcp_interceptor()])
        (tool,) = await client.get_tools()
        if way == "wrap":
            (tool,) = guard.wrap(tool)
        async with guard.task("pay", subject="alice", mandate={"tools": "*"}):
            for name, (_, _, bad) in zip(names, LIMITS, strict=True):
                await _try(tool, **{name: bad})
            assert hostile.calls == 0
            await _try(tool, **{name: good for name, (_, good, _) in zip(names, LIMITS, strict=True)})
            assert hostile.calls == 1
    assert kit.decisions() == [*["invalid_arguments"] * len(LIMITS), "permit"]


async def _try(tool: Any, **arguments: Any) -> None:
    with suppress(Denied):
        await tool.ainvoke(tool_call("pay", **arguments))


@pytest.mark.promise("never-unrecorded")
async def test_a_schema_that_cannot_be_compiled_is_a_recorded_denial_by_the_interceptor() -> None:
    kit, hostile = Kit(), HostileServer({"type": "object"}, {"x": 1})
    schema = {"properties": {"what": {"max_length": 2, "maxLength": 2}}}
    with served(hostile) as server:
        spec = ToolSpec(name="pay", path=ToolPath.WRITE, schema=schema, server="shop")
        guard = kit.another(catalog=Catalog([spec], []))
        servers: Any = {"shop": {"transport": "streamable_http", "url": f"{server.origin}/mcp"}}
        client = MultiServerMCPClient(servers, tool_interceptors=[guard.mcp_interceptor()])
        (tool,) = await client.get_tools()
        async with guard.task("pay", subject="alice", mandate={"tools": "*"}):
            await _try(tool, what="x")
    assert (hostile.calls, kit.decisions()) == (0, ["invalid_arguments"])
    assert "max_length" in str([*kit.audit.records()])
